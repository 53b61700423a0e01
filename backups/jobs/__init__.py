"""Jobs: their types, and how a request is queued, run, and brought to its end."""
