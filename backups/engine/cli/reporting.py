"""What a run leaves for those who do not watch it: lines in a log file, and a call to a dead man's switch.

Neither ever fails a run; what goes wrong with them is written to standard error.
"""

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..names import in_one_line


@dataclass(slots=True)
class Reporting:
    """The log file and the switch of one run of *command*; None and "" for neither."""

    command: str
    file: Path | None = None
    heartbeat: str = ""

    def line(self, text: str) -> None:
        """Append *text* to the log file, each line with the time, the command and the process."""
        if self.file is None:
            return
        head = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {self.command}[{os.getpid()}]"
        content = "".join(f"{head} {in_one_line(line)}\n" for line in text.splitlines())
        try:
            # without waiting: it may be a pipe that nobody reads
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
            try:
                os.write(descriptor, content.encode("utf-8", "surrogateescape"))
            finally:
                os.close(descriptor)
        except OSError as problem:
            sys.stderr.write(f"Warning: The log {self.file} cannot be written: {problem.strerror}.\n")
            self.file = None

    def warn(self, text: str) -> None:
        """Write a warning to standard error, and to the log file."""
        sys.stderr.write(f"Warning: {in_one_line(text)}\n")
        self.line(f"Warning: {text}")

    def end(self, text: str, code: int) -> None:
        """Write the result, and call the switch."""
        self.line(f"{text}\nends with exit code {code}")
        if self.heartbeat:
            from ..runtime.heartbeat import beat  # HTTP and TLS take a while to import

            told = f"{self.command} on {os.uname().nodename} ended with exit code {code}.\n{text}"
            if failure := beat(self.heartbeat, told, ok=code == 0):
                self.warn(failure)
