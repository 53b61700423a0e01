"""Gunicorn's settings; `manage.py serve` adds the address and the threads."""

import os
from typing import Any

# One process, so that the search index is in memory once; threads serve the requests that have arrived.
workers = 1
worker_class = "refserver.web_worker.Worker"
threads = int(os.environ.get("REFSERVER_THREADS", "8"))
worker_connections = 400  # descriptors are limited to 1,024 on many systems
timeout = 120
graceful_timeout = 20
keepalive = 5
max_requests = 0
limit_request_line = 8190
accesslog = None
errorlog = "-"
# Newer versions open a control socket by default; nothing uses it.
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Import chromadb, which takes half a second, before the first search."""
    import chromadb  # noqa: F401
