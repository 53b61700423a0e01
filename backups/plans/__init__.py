"""Plans: jobs that are queued on a schedule."""
