"""Consistency of SQLite and Chroma, record against record: a reusable Django app around `consistency.engine`."""
