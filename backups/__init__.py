"""Backups of SQLite and ChromaDB: a reusable Django app around an engine that knows no Django.

Nothing is imported here, so that ``backups.engine`` works on a machine without Django.
"""

__version__ = "0.2.0"
