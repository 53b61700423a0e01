"""Consistency of SQLite and Chroma, record against record: a reusable Django app (not built yet)."""
