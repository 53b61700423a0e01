"""Restore: the four `steps`, then the job and its `report`."""
