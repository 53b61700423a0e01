"""The cut: SQLite, Chroma and files at one instant."""
