"""Monitoring: the verdict, readiness, health checks and metrics."""
