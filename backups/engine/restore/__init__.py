"""Restores: into a folder, and in place over the live stores."""
