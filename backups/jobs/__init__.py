"""Jobs: what can be asked for, and how each request is queued, run, and brought to a true end."""
