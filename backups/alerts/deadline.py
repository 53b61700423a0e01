"""A call that ends in time, whatever the other side does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], abort: Callable[[], None]) -> T:
    """What *call* returns or raises; after *seconds* `TimeoutError`, and *abort* is called, which must make it end.

    Timeouts of sockets bound each step; a receiver that sends a byte now and then passes them all. Looking a name up has no
    bound at all. *call* runs in a thread, and must not use the database.
    """
    answer: list[T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as raised:  # noqa: BLE001  # handed to the caller
            problem.append(raised)

    thread = threading.Thread(target=run, name="outgoing", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        abort()
        raise TimeoutError(f"There was no answer within {seconds:g} s.")
    if problem:
        raise problem[0]
    return answer[0]
