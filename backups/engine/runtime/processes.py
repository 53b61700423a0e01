"""Processes: identities that stay unique when numbers are reused or the machine reboots, and the ends of children."""

import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from pathlib import Path

JOB_VARIABLE = "BACKUPS_JOB"
"""The environment variable that holds the id of the job a process works for; children inherit it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@functools.cache
def boot() -> str:
    """The identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identity(pid: int) -> str:
    """A name for the process *pid* that no other process ever has: boot, number and start time; "" if there is none."""
    started = _started(pid)
    return f"{boot()}:{pid}:{started}" if started else ""


def current() -> str:
    """The identity of this process."""
    return identity(os.getpid())


def alive(name: str) -> bool:
    """Whether the process with this `identity` runs on this machine; zombies do not count."""
    start_of_machine, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    return bool(started) and start_of_machine == boot() and _started(int(pid)) == started


def end_with_parent(parent: int) -> None:
    """In a child process: have the kernel send SIGTERM when *parent*, which started it, dies (``prctl(2)``, Linux only).

    If the parent has died already, the child exits at once.
    """
    if sys.platform != "linux":
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def of_job(job: str) -> list[int]:
    """The numbers of all processes that work for the job with this id, without zombies."""
    wanted = f"{JOB_VARIABLE}={job}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return [pid for pid in found if _started(pid)]


def end_all_of_job(job: str, within: float) -> bool:
    """Kill every process that works for a job and wait until they are gone. False if one is left after *within* seconds."""
    deadline = time.monotonic() + within
    while left := of_job(job):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _started(pid: int) -> str:
    """Field 22 of ``/proc/PID/stat`` (``proc(5)``): the start time in ticks since boot; "" if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] in "ZX" else fields[19]
