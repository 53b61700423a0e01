"""Work that threads do ahead of the one that uses its results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def pool() -> ThreadPoolExecutor:
    """A thread for each CPU that this process may use."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


def run_ahead(threads: ThreadPoolExecutor, tasks: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """The results of *tasks*, in their order, while up to *ahead* of them are submitted.

    On an error, cancels the rest, and waits for the running ones: they use descriptors that the caller closes.
    """
    pending: deque[Future[T]] = deque()
    try:
        for task in tasks:
            pending.append(threads.submit(task))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        wait([left for left in pending if not left.cancel()])
