"""Run one claimed job: start its process, pass on what it tells, end it when asked, and write down how it ended.

A worker is a process of Django-Q. It reads no live file and holds no lock of a source; its child does the work. When the worker
dies, the kernel tells the child to stop (`processes.end_with_parent`), and the reconciler finds the job without a worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import DatabaseError, IntegrityError, connections
from django.utils import timezone

from backups.conf import configuration
from backups.engine.errors import EngineError, from_os_error
from backups.engine.names import BACKUP_ID
from backups.engine.runtime import processes
from backups.models import Job, JobLog

from . import interruption, leftovers, lifecycle
from .heartbeat import touch_heartbeat
from .logs import in_one_line
from .reconcile import prove_later
from .types import JobType, job_type, job_types

TELL_EVERY = 0.5
"""Seconds between two writes of progress to the job's row."""

LOOK_EVERY = 0.2
"""Seconds between two looks whether somebody wants the job to end."""

KILL_AFTER = 1.0
"""Seconds that a job may take to end after it was asked to, before it is killed."""

LAST_WORDS = 600.0
"""Seconds for which the end of a job is offered to a database that does not take it."""

LAST_WORDS_WHEN_INTERRUPTED = 10.0

MOST_LINES = 20_000
"""Log lines kept of a job; what comes after is counted."""

_LONGEST_ANSWER = 32 << 20
_CHUNK = 65_536
_GONE_WITHIN = 2.0
_BRIEFLY, _PATIENTLY = 250, 2_000
"""Milliseconds for which a statement waits for a locked SQLite: while a child wants to be heard, and at the end."""

_log = logging.getLogger(__name__)


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
    3. Cancelled, over its limit, or the worker is interrupted: SIGTERM, and SIGKILL where the kind allows it.
    4. Read its answer, look at what it made, clear what it left half-made, and write the end.

    A control database that is locked or away delays what is told, and never stops the work.
    """
    from .submit import before_job

    try:
        kind = job_type(job.kind)
        command = kind.command(kind.parse(job.arguments), str(job.pk))
        before_job(job)
        parent = os.getpid()
        child = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env={**os.environ, "PYTHONUNBUFFERED": "1", processes.JOB_VARIABLE: str(job.pk)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # a signal to the group of the worker is not for it
            preexec_fn=lambda: processes.end_with_parent(parent),  # calls the kernel and nothing that could hold a lock
        )
    except EngineError as problem:
        return _finish(job, Job.State.FAILED, _Heard(), error=problem.as_json())
    except OSError as problem:
        return _finish(job, Job.State.FAILED, _Heard(), error=from_os_error(problem, "Starting the job").as_json())
    job.child = processes.identity(child.pid)
    heard = _Heard()
    with child:
        why = _follow(job, kind, child, heard)
        if child.returncode < 0 and not processes.end_all_of_job(str(job.pk), _GONE_WITHIN):
            _log.warning("Processes of %s do not end: %s", job, processes.of_job(str(job.pk)))
    if why == "lost":
        _log.warning("%s is no longer this worker's; its process was told to stop", job)
        return job
    return _conclude(job, child.returncode, heard, why)


def _follow(job: Job, kind: JobType[Any], child: subprocess.Popen[bytes], heard: _Heard) -> str:
    """Listen until the child has ended. Returns why it was stopped, "" when it was not: see `_wish`, and "limit"."""
    assert child.stdout is not None and child.stderr is not None
    began = looked = time.monotonic()
    told = 0.0
    why, kill_at = "", math.inf
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ, heard.answer)
        ready.register(child.stderr, selectors.EVENT_READ, None)
        while True:
            ended = child.poll() is not None
            received = [_receive(job, ready, key, heard) for key, _ in ready.select(0 if ended else 0.1)]
            if ended and not any(received):
                break  # a grandchild may hold the pipes open: what the child itself said has been read
            if not ready.get_map() and not ended:
                time.sleep(0.05)  # it closed both pipes and goes on
            now = time.monotonic()
            if now - told >= TELL_EVERY:
                told = now
                touch_heartbeat()
                _tell(job, heard, _BRIEFLY)
            if not why and now - looked >= LOOK_EVERY:
                looked = now
                why = _wish(job) or ("limit" if now - began > job.limit else "")
                if why:
                    child.terminate()
                    kill_at = now + KILL_AFTER if kind.killable else math.inf
            if now > kill_at:
                child.kill()
    if heard.partial:
        _hear(job, heard, b"\n")
    return why


def _receive(job: Job, ready: selectors.BaseSelector, key: selectors.SelectorKey, heard: _Heard) -> int:
    """Take in what one pipe holds; returns how many bytes."""
    received = os.read(key.fd, _CHUNK)
    if not received:
        ready.unregister(key.fileobj)
    elif key.data is None:
        _hear(job, heard, received)
    elif len(heard.answer) < _LONGEST_ANSWER:
        heard.answer += received
    return len(received)


def _wish(job: Job) -> str:
    """Why the job is to end now: "stop" (the worker is interrupted), "cancel", "lost" (not ours any more); "" when it is not.

    A database that cannot be asked has no wish.
    """
    if interruption.interrupting():
        return "stop"
    try:
        state = Job.objects.filter(pk=job.pk).values_list("state", "claim", "cancel_asked", "cancel_by").first()
    except DatabaseError:
        return ""
    if state is None or state[0] != Job.State.RUNNING or state[1] != job.claim:
        return "lost"
    job.cancel_by = state[3]
    return "cancel" if state[2] is not None else ""


def _tell(job: Job, heard: _Heard, patience: int) -> bool:
    """Write what is new. False when the database does not take it now: it is offered again, and nothing is forgotten."""
    values: dict[str, Any] = {"child": job.child}
    if heard.event is not None and heard.changed:
        values |= heard.event | {"phases": heard.phases}
    connection = connections[configuration().database]
    try:
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {patience:d}")
        lifecycle.beat(job, **values)
        heard.changed = False
        JobLog.objects.bulk_create(heard.lines, batch_size=500)
    except IntegrityError:
        pass  # the job's row is gone, and its lines with it
    except DatabaseError:
        connection.close_if_unusable_or_obsolete()
        return False
    heard.lines = []
    return True


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
        event = message.get("event") if isinstance(message, dict) else None
        if event == "progress" and _note_progress(heard, message, now):
            continue
        if event == "log":
            _note_line(job, heard, str(message.get("line", "")), str(message.get("level", "")), now)
        elif text:
            _note_line(job, heard, text, JobLog.Level.WARNING, now)


def _note_progress(heard: _Heard, event: dict[str, Any], now: datetime) -> bool:
    """Take in an event as `engine.progress.json_lines` writes it; False when it is none."""
    try:
        total, left = event.get("total"), event.get("left")
        told = {
            "phase": str(event["phase"])[:40],
            "done": int(event["done"]),
            "total": None if total is None else int(total),
            "rate": float(event["rate"]),
            "left": None if left is None else float(left),
        }
        seconds = round(float(event["elapsed"]), 3) if event["finished"] else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    if not heard.phases or heard.phases[-1]["name"] != told["phase"] or heard.phases[-1]["seconds"] is not None:
        heard.phases.append({"name": told["phase"], "started": now.isoformat(), "seconds": None})
    heard.phases[-1] |= {"done": told["done"], "total": told["total"], "seconds": seconds}
    heard.event, heard.changed = told, True
    return True


def _note_line(job: Job, heard: _Heard, line: str, level: str, now: datetime) -> None:
    heard.count += 1
    if heard.count > MOST_LINES:
        return
    if heard.count == MOST_LINES:
        line, level = f"The log is full at {MOST_LINES:,} lines; what follows is left out.", JobLog.Level.WARNING
    if level not in JobLog.Level.values:
        level = JobLog.Level.ERROR if line.startswith("DAMAGED") else JobLog.Level.INFO
    heard.lines.append(JobLog(job=job, time=now, level=level, line=_storable(in_one_line(line[:4000]))))


def _conclude(job: Job, status: int, heard: _Heard, why: str) -> Job:
    """The final state from how the child ended, what it answered, and what it left."""
    answer = _answer(heard)
    error: dict[str, Any] | None = (answer or {}).get("error")
    result = answer if answer is not None and error is None else None
    if result is not None and (status == 0 or (status < 0 and _is_good(result))):
        # It had said all there was to say, also when a wish to end it, or a kill, arrived then
        return _finish(job, Job.State.SUCCEEDED, heard, exit_code=status, result=result)
    made = leftovers.published(job) if result is None else None
    if status < 0 or why:
        leftovers.clear(job)
    cut_off = result is None and (error or {}).get("code") in (None, "cancelled")
    known: dict[str, Any] = {"exit_code": max(status, -1000), "result": result or made}
    if cut_off and why == "cancel":
        message = f"Cancelled by {job.cancel_by or 'a person'}; {_what_remains(made)}"
        return _finish(job, Job.State.CANCELLED, heard, error=_error("cancelled", message), **known)
    if cut_off and why == "limit":
        message = f"It took longer than its limit of {job.limit} s and was stopped; {_what_remains(made)}"
        hint = "Raise the limit of the plan, or look in the log at which phase it hung."
        return _finish(job, Job.State.FAILED, heard, error=_error("limit", message, hint), **known)
    if cut_off and made is not None:
        _note_line(job, heard, "Its process was stopped when the work had been done.", "warning", timezone.now())
        job = _finish(job, Job.State.SUCCEEDED, heard, **known)
        prove_later(job)
        return job
    if cut_off and (error is not None or why == "stop"):
        message = "It was told to stop, and not by a person: the machine or the worker was stopping."
        hint = "Nothing half-made is left in place. It is tried again if its plan says so; else run it again."
        return _finish(job, Job.State.INTERRUPTED, heard, error=_error("interrupted", message, hint), **known)
    return _finish(job, Job.State.FAILED, heard, error=error or _unanswered(status, result, heard), **known)


def _is_good(result: dict[str, Any]) -> bool:
    """Whether an answer tells of no finding, by which its command would have ended with a status."""
    return bool(result.get("ok", True)) and not result.get("problems")


def _error(code: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"code": code, "message": message, "hint": hint}


def _what_remains(made: dict[str, Any] | None) -> str:
    if made is None:
        return "what had been staged was removed."
    if "to" in made:
        return f"{made['to']} had been restored by then, and is there."
    return f"{made['id']} had been published by then, and is there, not proven as asked."


def _answer(heard: _Heard) -> dict[str, Any] | None:
    """The JSON object that the command printed last, if it did."""
    for line in reversed(bytes(heard.answer).splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


def _unanswered(status: int, result: dict[str, Any] | None, heard: _Heard) -> dict[str, Any]:
    """The error of a command that ended with a status but no error of its own: it found something, or it died."""
    if result is not None:
        problems = [item for found in result.get("results", [result]) for item in found.get("problems", [])]
        first = problems[0]["message"] if problems else f"The command ended with status {status}."
        code = {5: "damaged", 6: "source_broken"}.get(status, "findings")
        more = f" ({len(problems)} findings in all)" if len(problems) > 1 else ""
        return _error(code, f"{first}{more}", "Look at the job's result for each finding.")
    if status < 0:
        name = signal.Signals(-status).name
        message = f"Its process was killed by {name} before it had finished, and not by this program. Nothing was published."
    else:
        message = f"Its process ended with status {status} and gave no answer."
    return _error("no_answer", message, "Look at the job's log, and at the machine's memory.")


def _finish(
    job: Job,
    state: Job.State,
    heard: _Heard,
    *,
    exit_code: int | None = None,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> Job:
    """Write the end; a database that does not take it is offered it again for ten minutes.

    The index is read before the end is written: who sees that a job is done finds what it made, also after a crash in between.
    Raises ``DatabaseError`` when the time is over; the reconciler then finds out how the job ended.
    """
    result, error = _storable(result), _storable(error)
    made = str((result or {}).get("id") or "")
    backup_id = made if BACKUP_ID.fullmatch(made) else job.backup_id
    job.state, job.result, job.backup_id = state, result, backup_id
    deadline = time.monotonic() + LAST_WORDS
    noted = False
    while True:
        try:
            noted = noted or _note_what_changed(job)
            if _tell(job, heard, _PATIENTLY):
                ended = lifecycle.end(job, state, exit_code=exit_code, result=result, error=error, backup_id=backup_id)
                break
        except DatabaseError:
            connections[configuration().database].close_if_unusable_or_obsolete()
        if interruption.interrupting():
            deadline = min(deadline, time.monotonic() + LAST_WORDS_WHEN_INTERRUPTED)
        if time.monotonic() > deadline:
            raise DatabaseError(f"The control database did not take the end of {job}.")
        _log.warning("The control database does not take the end of %s; it is offered again", job)
        touch_heartbeat()
        time.sleep(1.0)
    if not connections[configuration().database].in_atomic_block:
        connections[configuration().database].close()  # the next one waits as long as the settings say
    job.refresh_from_db()
    if ended:
        _say_how_it_ended(job)
    return job


def _note_what_changed(job: Job) -> bool:
    from .submit import after_job

    try:
        after_job(job)
    except OSError as problem:
        _log.warning("What %s changed cannot be read: %s", job, problem)
    return True


def _say_how_it_ended(job: Job) -> None:
    """One line a job, for whoever reads the worker's output."""
    seconds = job.took.total_seconds() if job.took else 0.0
    kind = job_types().get(job.kind)
    line = f"{kind.title if kind else job.kind} {str(job.pk)[:8]}: {job.get_state_display().lower()} after {seconds:.1f} s"
    if job.error is None:
        _log.info("%s%s", line, f", {job.backup_id}" if job.backup_id else "")
    else:
        _log.warning("%s: %s", line, job.error["message"])


def _storable(value: Any) -> Any:
    """*value*, of JSON, as every database takes it: no NUL, no half of a character, no number that is none."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
