"""Waits until RefServer has stopped: says at once what it waits for, and interrupts its running jobs after a grace period."""

import time
from collections.abc import Callable
from pathlib import Path

GRACE_SECONDS = 20.0
"""How long running jobs may go on after RefServer was told to stop. Then they are interrupted, as if cancelled."""

STOP_SECONDS = 120.0
"""How long stopping may take in all. The supervisor kills what does not end within 30 seconds of the interruption."""

_FIRST_SAID_AFTER = 0.8
_SAID_EVERY = 3.0
_ENGINE = "backups.engine"


def wait_for_end(
    pid: int,
    running: Callable[[], bool],
    interrupt: Callable[[], object],
    check: Callable[[], None],
    say: Callable[[str], None],
) -> bool:
    """Wait until *running* says no, at most `STOP_SECONDS`. Returns whether it has ended.

    *pid* is the supervisor, already told to stop. *say* is told what it waits for within a second and then every three;
    *interrupt* is called once, after `GRACE_SECONDS`; *check* is called while waiting and may raise.
    """
    began = time.monotonic()
    say_at, interrupted = _FIRST_SAID_AFTER, False
    while running():
        waited = time.monotonic() - began
        if waited > STOP_SECONDS:
            return False
        if waited > GRACE_SECONDS and not interrupted:
            interrupted = True
            say(f"after {GRACE_SECONDS:g} s: interrupting {work_of(pid)}")
            interrupt()
        elif waited > say_at:
            limit = STOP_SECONDS if interrupted else GRACE_SECONDS
            then = "" if interrupted else ", then it is interrupted"
            say(f"waiting for {work_of(pid)}: {waited:.0f} s of at most {limit:g} s{then}")
            say_at = waited + _SAID_EVERY
        check()
        time.sleep(0.05)
    return True


def work_of(pid: int) -> str:
    """What the supervisor *pid* (0: unknown) still does: its running engine processes, or just its own name."""
    if not pid:
        return "RefServer"
    parents = _parents()
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    found = [f"{name} (process {process})" for process in sorted(below) if (name := _engine_command(process))]
    return ", ".join(found) or f"RefServer (process {pid})"


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        found[int(entry.name)] = int(status[status.rindex(")") + 2 :].split()[1])
    return found


def _engine_command(pid: int) -> str:
    """``refbackup create`` for a process that runs it, else ""."""
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if _ENGINE not in words:
        return ""
    return f"refbackup {words[words.index(_ENGINE) + 1]}"
