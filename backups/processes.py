"""Which process is meant, also after its number was given to another one, or the machine was started anew."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identity(pid: int) -> str:
    """A name for the process *pid* that no other process ever has: boot, number, and start; empty when there is none."""
    started = _started(pid)
    return f"{_boot()}:{pid}:{started}" if started else ""


def alive(name: str) -> bool:
    """Whether the process that `identity` named still runs on this machine; a zombie does not."""
    boot, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    return bool(started) and boot == _boot() and _started(int(pid)) == started


def pid_of(name: str) -> int | None:
    """The number of the process that `identity` named, while it is alive."""
    return int(name.split(":")[1]) if alive(name) else None


def end_with_parent() -> None:
    """In a child, before its program: have it told to stop when the process that started it dies (``prctl(2)``)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _started(pid: int) -> str:
    """Field 22 of ``/proc/PID/stat`` (``proc(5)``): the time it started, in ticks since boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] in "ZX" else fields[19]


def current() -> str:
    """The identity of this process."""
    return identity(os.getpid())
