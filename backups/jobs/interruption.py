"""Requests to stop, from the worker pool to its workers and the jobs in them."""

import contextlib
import enum
import signal
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawValue
from types import FrameType


class Request(enum.IntEnum):
    """What the pool requests of all workers."""

    CONTINUE = 0
    FINISH = 1
    """End after the running job."""
    INTERRUPT = 2
    """Stop the running job and end."""


_request = RawValue("i", Request.CONTINUE)  # shared by all forked processes, without a lock that a killed one could hold
_in_worker = False
_has_job = False
_terminated = False


def stopping() -> bool:
    """In a worker: whether to start no further job."""
    return _terminated or _request.value != Request.CONTINUE


def interrupting() -> bool:
    """In a worker: whether to stop the running job."""
    return bool(_request.value == Request.INTERRUPT)


def in_worker() -> bool:
    """Whether this process is a worker of a pool, which replaces it when it ends."""
    return _in_worker


@contextlib.contextmanager
def defer_termination() -> Iterator[None]:
    """In a worker: on SIGTERM, finish the block before ending."""
    global _has_job
    before, _has_job = _has_job, True
    try:
        yield
    finally:
        _has_job = before
        if _terminated and not _has_job:
            raise SystemExit(0)


def request(what: Request) -> None:
    """In the pool: set the request that all workers see."""
    _request.value = what


def become_worker() -> None:
    """In a new worker: end on SIGTERM, after the running job."""
    global _in_worker
    _in_worker = True
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    global _terminated
    _terminated = True
    if not _has_job:
        raise SystemExit(0)
