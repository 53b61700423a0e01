"""The worker processes of a host: the pool, its tasks, and housekeeping."""
