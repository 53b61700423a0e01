"""Middleware and small views of the site: headers, request size, client address, static files, health."""
