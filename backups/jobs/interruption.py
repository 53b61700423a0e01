"""Requests to end a worker: what the pool asks for, as its workers and the jobs in them see it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawValue
from types import FrameType

GO_ON, FINISH, INTERRUPT = 0, 1, 2
_request = RawValue("i", GO_ON)  # shared with every process that is forked from here; no lock that a killed one could keep
_forked = False
_busy = False
_leaving = False


def stopping() -> bool:
    """In a worker: whether no further job is to be started."""
    return _leaving or _request.value != GO_ON


def in_worker() -> bool:
    """Whether this process is a worker of a cluster, which is started again when it ends."""
    return _forked


def interrupting() -> bool:
    """In a worker: whether the running job is to be stopped."""
    return bool(_request.value == INTERRUPT)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """In a worker: finish what is in the block before a request to end this process is heeded."""
    global _busy
    before, _busy = _busy, True
    try:
        yield
    finally:
        _busy = before
        if _leaving and not _busy:
            raise SystemExit(0)


def ask(request: int) -> None:
    """In the pool: ask all workers for `FINISH` or `INTERRUPT`."""
    _request.value = request


def become_worker() -> None:
    """In a new worker: end on SIGTERM, after the job that is running."""
    global _forked
    _forked = True
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    global _leaving
    _leaving = True
    if not _busy:
        raise SystemExit(0)
