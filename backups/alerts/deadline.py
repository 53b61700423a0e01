"""Calls with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], abort: Callable[[], None]) -> T:
    """Return or raise what *call* does. After *seconds*, call *abort*, which must end it, and raise `TimeoutError`.

    Socket timeouts bound each step only, so a receiver that sends a byte now and then never exceeds them, and resolving
    a name has no timeout. *call* runs in a thread and must not use the database.
    """
    answer: list[T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as raised:  # noqa: BLE001  # raised by the caller's thread
            problem.append(raised)

    thread = threading.Thread(target=run, name="outgoing", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        abort()
        raise TimeoutError(f"No answer within {seconds:g} s.")
    if problem:
        raise problem[0]
    return answer[0]
