"""Child processes that answer requests: whatever one does, the parent gets an answer or a clear error in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backups.engine.errors import Cancelled, EngineError, NoSpace, SourceBusy
from backups.engine.runtime.child import Child
from tests.capture.processes import Peer, is_running, until

SERVANT = "tests.capture.servant"


def test_answers_and_events() -> None:
    seen = []
    with Child(SERVANT) as child:
        assert child.ask("echo", timeout=20, value={"größe": [1, None, "\udcff"]}) == {"größe": [1, None, "\udcff"]}
        child.begin("count", to=5)
        assert child.finish(timeout=20, on_event=seen.append) == 5
        assert child.ask("echo", timeout=20, value="x" * 300_000) == "x" * 300_000
    assert [event["number"] for event in seen] == [0, 1, 2, 3, 4]
    assert not is_running(child.pid)


@pytest.mark.parametrize(("how", "says"), [("exit", "exited with status 7"), ("kill", "was killed by SIGKILL")])
def test_a_child_that_dies(how: str, says: str) -> None:
    with pytest.raises(EngineError, match=says), Child(SERVANT) as child:
        child.ask(how, timeout=20)
    assert not is_running(child.pid)


def test_a_child_that_died_before_the_request() -> None:
    with pytest.raises(EngineError, match="was killed by SIGKILL"), Child(SERVANT) as child:
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not is_running(child.pid))
        child.ask("echo", timeout=20, value=1)


def test_a_child_that_hangs_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"did not answer for 0\.4 s"), Child(SERVANT) as child:
        child.ask("hang", timeout=0.4)
    assert time.monotonic() - began < 5
    assert not is_running(child.pid)


def test_a_child_that_reports_progress_is_not_killed() -> None:
    with Child(SERVANT) as child:
        child.ask("echo", timeout=20, value=1)
        child.begin("count", to=12, pause=0.1)
        assert child.finish(timeout=0.7) == 12


def test_errors_arrive_as_they_were_raised() -> None:
    with Child(SERVANT) as child:
        with pytest.raises(SourceBusy) as busy:
            child.ask("busy", timeout=20)
        assert (busy.value.message, busy.value.hint, busy.value.details) == ("it is locked", "wait", {"pid": 5})
        with pytest.raises(NoSpace, match="No space left"):
            child.ask("full", timeout=20)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            child.ask("bug", timeout=20)
        with pytest.raises(EngineError, match="KeyError"):
            child.ask("no such request", timeout=20)
        assert child.ask("echo", timeout=20, value="still there") == "still there"


def test_a_wait_can_be_cancelled() -> None:
    def cancel() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled), Child(SERVANT) as child:
        child.ask("hang", timeout=60, check=cancel)
    assert not is_running(child.pid)


def test_a_cancellation_is_reported_as_such_when_a_child_dies_with_it() -> None:
    asked = threading.Event()

    def cancel() -> None:
        if asked.is_set():
            raise Cancelled("enough")

    with pytest.raises(Cancelled), Child(SERVANT) as child:
        child.ask("echo", timeout=20, value=1)
        asked.set()
        child.ask("kill", timeout=20, check=cancel)


def test_a_busy_child_ends_with_its_parent() -> None:
    for doing in ("hang", "rest", "after"):
        with Peer("tests.capture.servant", "parent", doing) as parent:
            child = int(parent.hear())
            assert is_running(child)
            parent.kill()
            until(lambda pid=child: not is_running(pid), within=5, what=f"the end of a child that was at {doing}")


def test_signals_to_the_process_group_are_left_to_the_parent() -> None:
    with Child(SERVANT) as child:
        child.ask("echo", timeout=20, value=1)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
        assert child.ask("echo", timeout=20, value=2) == 2
        assert os.getpgid(child.pid) != os.getpgid(0)


def test_only_answers_go_to_standard_output() -> None:
    """The protocol is one JSON object a line; a child with nobody to read it ends."""
    process = subprocess.run(
        [sys.executable, "-m", "backups.engine.capture.packer"], input=b"", capture_output=True, timeout=30
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")
