"""The application's commands around a restore in place."""

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import RestoreRefused
from ..runtime.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """``stop`` and ``start`` run before and after the exchange, ``check`` after it; a status other than 0 is a failure.

    They run without a shell, for at most ``seconds`` each. An empty one is not run. With ``ignore_open``, stores are exchanged
    although another process may have them open. ``before_stop`` is called before ``stop``, when the data is staged and checked;
    it may stop the application in another way, or raise `RestoreRefused`.
    """

    stop: str = ""
    start: str = ""
    check: str = ""
    seconds: float = 300.0
    ignore_open: bool = False
    before_stop: Callable[[], None] | None = None

    @property
    def stops(self) -> bool:
        """Whether the application is stopped before the exchange."""
        return bool(self.stop) or self.before_stop is not None

    def run_stop(self, ctx: Context) -> None:
        """Call ``before_stop`` and run ``stop``. Raises `RestoreRefused` if it fails."""
        if self.before_stop is not None:
            self.before_stop()
        if failure := self._run("stop", self.stop, ctx):
            raise RestoreRefused(failure)

    def run_check(self, ctx: Context) -> str | None:
        """Run ``check``; None, or how it failed."""
        return self._run("check", self.check, ctx)

    def run_start(self, ctx: Context) -> str | None:
        """Run ``start``; None, or how it failed, which is logged too."""
        failure = self._run("start", self.start, ctx)
        if failure:
            ctx.log(failure)
        return failure

    def _run(self, name: str, command: str, ctx: Context) -> str | None:
        if not command:
            return None
        ctx.log(f"Running the {name} command: {command}")
        try:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=self.seconds, check=False)
        except (OSError, ValueError, subprocess.TimeoutExpired) as problem:
            return f"The {name} command could not be run: {problem}."
        if done.returncode:
            output = (done.stderr or done.stdout).strip()[-500:]
            return f"The {name} command failed with status {done.returncode}: {output}."
        return None


NO_COMMANDS = Commands()
"""Runs nothing."""
