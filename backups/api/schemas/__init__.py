"""The JSON of requests and responses, a module per subject. Times are ISO 8601 in UTC, sizes bytes, durations seconds.

A class is published in the OpenAPI description under its ``title``, or under its own name if it has none. Titles keep the
published names when a class is renamed.
"""
