"""The one reader of a Chroma directory's files: tables, log, HNSW indexes and id tables. Uses no Chroma client."""
