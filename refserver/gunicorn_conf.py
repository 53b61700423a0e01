"""Gunicorn's settings that do not differ between machines.

Address and threads come from `manage.py serve`.
"""

from __future__ import annotations

import os
from typing import Any

# One process: it has the library's search index in memory once. Threads serve several readers at a time.
workers = 1
worker_class = "gthread"
threads = int(os.environ.get("REFSERVER_THREADS", "8"))
timeout = 120
graceful_timeout = 20
keepalive = 5
max_requests = 0
limit_request_line = 8190
accesslog = None
errorlog = "-"
# Newer versions open a socket for remote control by default; nothing here uses it.
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Import now what takes half a second, and not at the first search."""
    import chromadb  # noqa: F401
