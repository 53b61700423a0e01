"""Restore in four steps, each an address whose query holds the whole selection, so that going back loses nothing.

`choose_backup` → `choose_target` → `changes` → `confirm`, then the job and its `report`.
"""
