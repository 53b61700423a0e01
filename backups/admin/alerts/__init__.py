"""Alerts: the `overview` and each alert, `rules`, `channels`, and the own `subscription`."""
