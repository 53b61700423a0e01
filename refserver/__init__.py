"""The Django project: its settings, its web server, and the reference library that it protects."""
