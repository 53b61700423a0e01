"""Chroma's files, read without its client: tables, HNSW indexes and records."""
