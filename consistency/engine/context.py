"""The engine's context, with a wait that a request to stop ends, and with this package's error."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from backups.engine.runtime import context

from .errors import Cancelled


@dataclass(slots=True, kw_only=True)
class Context(context.Context):
    """Progress counts records. ``should_cancel`` is called for every window of records and inside long queries."""

    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Raise `Cancelled` when ``should_cancel`` says so."""
        if self.should_cancel():
            raise Cancelled("Cancelled on request.")

    def wait(self, seconds: float) -> None:
        """Let *seconds* pass, in slices of 0.1 s between which `Cancelled` may be raised."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            self.sleep(min(left, 0.1))
