"""The worker processes of a host: the pool and its tasks."""
