"""Run one claimed job: start its process, pass on what it tells, end it when asked, and write down how it ended.

A worker is a process of Django-Q. It reads no live file and holds no lock of a source; its child does the work. When the worker
dies, the kernel tells the child to stop (`processes.end_with_parent`), and the reconciler finds the job without a worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from django.utils import timezone

from . import jobs, processes
from .conf import configuration
from .engine.errors import EngineError, from_os_error
from .kinds import Kind, kind_of
from .models import Job, JobLog
from .watch import touch_heartbeat

TELL_EVERY = 0.5
"""Seconds between two writes of progress to the job's row."""

KILL_AFTER = 1.2
"""Seconds that a job may take to end after it was asked to, before it is killed."""

LAST_WORDS = 600.0
"""Seconds for which the end of a job is offered to a database that does not take it."""

MOST_LINES = 20_000
"""Log lines kept of a job; what comes after is counted."""

_LONGEST_ANSWER = 32 << 20
_CHUNK = 65_536


@dataclass(slots=True)
class _Heard:
    """What the child has told so far, and what of it is not yet in the database."""

    answer: bytearray = field(default_factory=bytearray)
    partial: bytes = b""
    lines: list[JobLog] = field(default_factory=list)
    count: int = 0
    event: dict[str, Any] | None = None
    phases: list[dict[str, Any]] = field(default_factory=list)
    changed: bool = False


def run(job: Job) -> Job:
    """Do the work of a job that this process has claimed, and bring it to its final state.

    1. Start the kind's command as a child that ends with this process.       A crash leaves: a running row, reconciled later.
    2. Twice a second write progress, new log lines and a heartbeat.
    3. Cancelled or over its limit: SIGTERM, and SIGKILL where the kind allows it; clear what it had staged.
    4. Read its answer and write the end. The answer decides, not the exit code alone.
    """
    kind = kind_of(job.kind)
    try:
        command = kind.command(kind.parse(job.arguments), str(job.pk))
        child = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # a signal to the group of the worker is not for it
            preexec_fn=processes.end_with_parent,  # a worker has one thread
        )
    except EngineError as problem:
        return _finish(job, Job.State.FAILED, error=problem.as_json())
    except OSError as problem:
        return _finish(job, Job.State.FAILED, error=from_os_error(problem, "Starting the job").as_json())
    with child:
        heard = _Heard()
        jobs.beat(job, child=processes.identity(child.pid))
        why = _follow(job, kind, child, heard)
    if why == "lost":
        return job
    _flush(job, heard)
    return _conclude(job, kind, child.returncode, heard, why)


def _follow(job: Job, kind: Kind[Any], child: subprocess.Popen[bytes], heard: _Heard) -> str:
    """Listen until the child has ended. Returns why it was stopped: "", "cancel", "limit", or "lost" (not ours any more)."""
    assert child.stdout is not None and child.stderr is not None
    began = told = time.monotonic()
    why, killed_at = "", 0.0
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ, heard.answer)
        ready.register(child.stderr, selectors.EVENT_READ, None)
        while ready.get_map():
            for key, _ in ready.select(0.1):
                stream = key.fileobj
                received = os.read(key.fd, _CHUNK)
                if not received:
                    ready.unregister(stream)
                elif key.data is None:
                    _hear(job, heard, received)
                elif len(heard.answer) < _LONGEST_ANSWER:
                    heard.answer += received
            now = time.monotonic()
            if now - told >= TELL_EVERY:
                told = now
                touch_heartbeat()
                asked = _tell(job, heard)
                if not why and (asked or now - began > job.limit):
                    why = asked or "limit"
                    child.terminate()
                    killed_at = now + KILL_AFTER
            if why and now > killed_at and (kind.killable or why == "lost"):
                child.kill()
            if child.poll() is not None and not ready.select(0):
                break  # a grandchild may hold the pipes open: what the child said has been read
    child.wait()
    return why


def _tell(job: Job, heard: _Heard) -> str:
    """Write what is new; "cancel" when somebody asked for it, "lost" when the job is no longer ours.

    A database that is locked or away is tried again at the next turn: the work goes on.
    """
    try:
        _flush(job, heard)
        state = Job.objects.filter(pk=job.pk).values_list("state", "claim", "cancel_asked").first()
    except DatabaseError:
        connections[configuration().database].close_if_unusable_or_obsolete()
        return ""
    if state is None or state[0] != Job.State.RUNNING or state[1] != job.claim:
        return "lost"
    return "cancel" if state[2] is not None else ""


def _flush(job: Job, heard: _Heard) -> None:
    values: dict[str, Any] = {}
    if heard.event is not None and heard.changed:
        event = heard.event
        values = {
            "phase": str(event["phase"])[:40],
            "done": int(event["done"]),
            "total": event["total"],
            "rate": float(event["rate"]),
            "left": event["left"],
            "phases": heard.phases,
        }
    jobs.beat(job, **values)
    heard.changed = False
    if heard.lines:
        JobLog.objects.bulk_create(heard.lines, batch_size=500)
        heard.lines = []


def _hear(job: Job, heard: _Heard, received: bytes) -> None:
    """Take in what the child wrote to standard error: events as JSON lines, anything else as a line of the log."""
    *lines, heard.partial = (heard.partial + received).split(b"\n")
    if len(heard.partial) > _CHUNK:
        lines, heard.partial = [*lines, heard.partial], b""
    now = timezone.now()
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip()
        message: Any = None
        if text.startswith("{"):
            with contextlib.suppress(ValueError):
                message = json.loads(text)
        if isinstance(message, dict) and message.get("event") == "progress":
            _note_progress(heard, message, now)
        elif isinstance(message, dict) and message.get("event") == "log":
            _note_line(job, heard, str(message.get("line", "")), str(message.get("level", "")), now)
        elif text:
            _note_line(job, heard, text, JobLog.Level.WARNING, now)


def _note_progress(heard: _Heard, event: dict[str, Any], now: datetime) -> None:
    if not heard.phases or heard.phases[-1]["name"] != event["phase"] or heard.phases[-1]["seconds"] is not None:
        heard.phases.append({"name": event["phase"], "started": now.isoformat(), "seconds": None})
    heard.phases[-1] |= {"done": event["done"], "total": event["total"]}
    if event["finished"]:
        heard.phases[-1]["seconds"] = round(event["elapsed"], 3)
    heard.event, heard.changed = event, True


def _note_line(job: Job, heard: _Heard, line: str, level: str, now: datetime) -> None:
    heard.count += 1
    if heard.count > MOST_LINES:
        return
    if heard.count == MOST_LINES:
        line, level = f"The log is full at {MOST_LINES:,} lines; what follows is left out.", JobLog.Level.WARNING
    if level not in JobLog.Level.values:
        level = JobLog.Level.ERROR if line.startswith("DAMAGED") else JobLog.Level.INFO
    heard.lines.append(JobLog(job=job, time=now, level=level, line=line[:4000]))


def _conclude(job: Job, kind: Kind[Any], status: int, heard: _Heard, why: str) -> Job:
    """The final state from how the child ended and what it answered."""
    answer = _answer(heard)
    error: dict[str, Any] | None = (answer or {}).get("error")
    result = answer if answer is not None and error is None else None
    backup_id = str((result or {}).get("id") or "") or job.backup_id
    known: dict[str, Any] = {"exit_code": max(status, -1000), "result": result, "backup_id": backup_id}
    if status == 0 and result is not None:
        return _finish(job, Job.State.SUCCEEDED, **known)  # done before the wish to end it arrived counts as done
    if why == "cancel" and (status < 0 or (error or {}).get("code") in (None, "cancelled")):
        _clear_debris(job, kind)
        message = f"Cancelled by {job.cancel_by or 'a person'}; what had been staged was removed."
        return _finish(job, Job.State.CANCELLED, error={"code": "cancelled", "message": message, "hint": ""}, **known)
    if why == "limit":
        _clear_debris(job, kind)
        message = f"It took longer than its limit of {job.limit} s and was stopped. Nothing was published."
        hint = "Raise the limit of the plan, or look in the log at which phase it hung."
        return _finish(job, Job.State.FAILED, error={"code": "limit", "message": message, "hint": hint}, **known)
    if error is not None and error.get("code") == "cancelled":
        message = "Its process was told to stop, and nobody had asked for that here: the machine or the worker was stopping."
        return _finish(job, Job.State.INTERRUPTED, error={**error, "message": message}, **known)
    if error is None:
        error = _unanswered(kind, status, result, heard)
    return _finish(job, Job.State.FAILED, error=error, **known)


def _answer(heard: _Heard) -> dict[str, Any] | None:
    """The JSON object that the command printed last, if it did."""
    for line in reversed(bytes(heard.answer).splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


def _unanswered(kind: Kind[Any], status: int, result: dict[str, Any] | None, heard: _Heard) -> dict[str, Any]:
    """The error of a command that ended with a status but no error of its own: it found something, or it died."""
    if result is not None:
        problems = [item for found in result.get("results", [result]) for item in found.get("problems", [])]
        first = problems[0]["message"] if problems else f"The command ended with status {status}."
        code = {5: "damaged", 6: "source_broken"}.get(status, "findings")
        more = f" ({len(problems)} findings in all)" if len(problems) > 1 else ""
        return {"code": code, "message": f"{first}{more}", "hint": "Look at the job's result for each finding."}
    if status < 0:
        message = f"Its process was killed by {signal.Signals(-status).name} before it had finished. Nothing was published."
    else:
        message = f"Its process ended with status {status} and said nothing."
    return {"code": "no_answer", "message": message, "hint": "Look at the job's log, and at the machine's memory."}


def _clear_debris(job: Job, kind: Kind[Any]) -> None:
    """Remove what a stopped job had staged, as its next run would. A busy repository is left to that run."""
    if not kind.writes:
        return
    with contextlib.suppress(EngineError, OSError):
        repository = configuration().open(job.repository)
        with repository.writing("clearing up", timezone.now(), wait=2.0):
            repository.clear_debris()


def _finish(job: Job, state: Job.State, **values: Any) -> Job:
    """Write the end; a database that does not take it is offered it again for ten minutes."""
    from .services import after_job

    deadline = time.monotonic() + LAST_WORDS
    while True:
        try:
            if jobs.end(job, state, **values):
                after_job(job)
            return job
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            connections[configuration().database].close_if_unusable_or_obsolete()
            touch_heartbeat()
            time.sleep(1.0)
