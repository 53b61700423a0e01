"""Alerts: `overview`, one alert (`detail`), `rules`, `channels`, and the own `subscription`."""
