"""The cut: captures SQLite, Chroma and files at one instant."""
