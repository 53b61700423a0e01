"""Repairs of findings: planned, carried out with a journal, and undone."""
