"""The worker processes of a host: the pool, its tasks, and what they clean up."""
