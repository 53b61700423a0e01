"""A signal to stop, obeyed where it is safe."""

import contextlib
import signal
from collections.abc import Iterator

from backups.engine.errors import Cancelled

from .report import Report


class Interruption:
    """Whether Ctrl-C, SIGTERM or a lost terminal asked the recovery to stop."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._signal = ""
        self._announced = False

    @property
    def requested(self) -> bool:
        """Whether to stop as soon as it is safe."""
        return bool(self._signal)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Note the signals instead of ending at once."""

        def note(number: int, _: object) -> None:
            self._signal = signal.Signals(number).name  # announced later: a line may be half written now

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def announce(self) -> None:
        """Report once that the recovery is stopping."""
        if not self._announced:
            self._announced = True
            self._report.write(f"\n{self._signal}: stopping. Please wait, so that no store is left half restored.")

    def check(self) -> None:
        """Raise `Cancelled` if a stop was requested."""
        if self.requested:
            self.announce()
            raise Cancelled("Stopped.", hint="Run it again when you are ready.")
