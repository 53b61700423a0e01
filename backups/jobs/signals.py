"""Signals that a job sends inside the transaction that changes its state, so that receivers write with it or not at all.

An exception of a receiver rolls the change back. Packages above `backups.jobs` connect here; `backups.apps` imports them.
"""

from __future__ import annotations

from django.dispatch import Signal

job_started = Signal()
"""Sent with ``job`` when a worker has claimed it."""

job_ended = Signal()
"""Sent with ``job`` in its final state, and ``retried``: whether another attempt has been queued."""
