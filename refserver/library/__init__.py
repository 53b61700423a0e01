"""The reference library: papers in SQLite, their vectors in Chroma, their originals in a folder."""
