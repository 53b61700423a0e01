"""The catalog: an index of the backups in every repository, and what pages and the API derive from it."""
