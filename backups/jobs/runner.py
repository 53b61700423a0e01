"""Run one claimed job: start its process, record its progress, stop it when requested, and record its end.

A worker reads no live file and holds no lock of a source; its child does the work. When the worker dies, the kernel tells the
child to stop (`processes.end_with_parent`), and the reconciler ends the job.
"""

import enum
import logging
import math
import os
import selectors
import signal
import subprocess
import time
from typing import Any

from django.db import DatabaseError, IntegrityError, connections

from backups.conf import REPOSITORY_AWAY, configuration
from backups.engine.errors import EngineError, RepositoryMissing, from_os_error
from backups.engine.names import BACKUP_ID
from backups.engine.runtime import processes
from backups.models import Job, JobLog

from . import completion, interruption, leftovers, lifecycle
from .child_output import ChildOutput, storable
from .heartbeat import touch_heartbeat
from .job_type import Work
from .types import INCOMPLETE, environment, job_type, job_types

WRITE_EVERY = 0.5
"""Seconds between writes of progress to the job's row."""

CHECK_EVERY = 0.2
"""Seconds between checks whether the job is to stop."""

KILL_AFTER = 1.0
"""Seconds from SIGTERM to SIGKILL, for types that may be killed."""

SAVE_WITHIN = 600.0
"""Seconds for which saving the end is retried while the control database does not accept it."""

SAVE_WITHIN_WHEN_INTERRUPTED = 10.0

_CHUNK = 65_536
_GONE_WITHIN = 2.0
_WAIT_WHILE_RUNNING, _WAIT_AT_END = 250, 2_000
"""Milliseconds that a statement waits for a locked SQLite database."""

_log = logging.getLogger(__name__)


class StopReason(enum.Enum):
    """Why a job's process was told to stop."""

    CANCELLED = enum.auto()
    OVER_LIMIT = enum.auto()
    INTERRUPTED = enum.auto()
    """The worker is to end at once."""
    CLAIM_LOST = enum.auto()
    """The job has been ended, or claimed, by another process."""


def run(job: Job) -> Job:
    """Do the work of a job that this process has claimed, and bring it to its final state.

    1. Call the type's ``prepare``, and start its command as a child that ends with this process.
    2. Twice a second, write progress, new log lines and a heartbeat.
    3. When cancelled, over the limit, or interrupted: send SIGTERM, and SIGKILL where the type allows it.
    4. Read the answer, remove leftovers, call the type's ``complete``, and save the end.

    A crash leaves a running row for the reconciler. A control database that is locked or away delays what is written, and
    never stops the work. Raises ``DatabaseError`` when the end could not be saved within `SAVE_WITHIN`.
    """
    output = ChildOutput(job)
    try:
        kind = job_type(job.kind)
        command = kind.command(kind.parse(job.arguments), str(job.pk))
        work = completion.prepare(job)
        parent = os.getpid()
        child = subprocess.Popen(
            command,
            env={**environment(), "PYTHONUNBUFFERED": "1", processes.JOB_VARIABLE: str(job.pk)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # not signalled with the group of the worker
            preexec_fn=lambda: processes.end_with_parent(parent),  # one system call, and nothing that could hold a lock
        )
    except (EngineError, OSError) as problem:
        error = from_os_error(problem, "Starting the job") if isinstance(problem, OSError) else problem
        return _finish(job, Job.State.FAILED, output, None, error=error.as_json())
    job.child = processes.identity(child.pid)
    with child:
        reason = _follow(job, child, output, killable=kind.killable)
        if child.returncode < 0 and not processes.end_all_of_job(str(job.pk), _GONE_WITHIN):
            _log.warning("Processes of %s do not end: %s", job, processes.of_job(str(job.pk)))
    if reason is StopReason.CLAIM_LOST:
        _log.warning("%s belongs to another worker now; its process here was stopped", job)
        return job
    return _conclude(job, child.returncode, output, reason, work)


def _follow(job: Job, child: subprocess.Popen[bytes], output: ChildOutput, *, killable: bool) -> StopReason | None:
    """Read the child's output until it has ended. Returns why it was told to stop; None when it was not."""
    assert child.stdout is not None and child.stderr is not None
    began = checked = time.monotonic()
    written = 0.0
    reason, kill_at = None, math.inf
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, output.add_answer)
        selector.register(child.stderr, selectors.EVENT_READ, output.add_events)
        while True:
            ended = child.poll() is not None
            received = [_receive(selector, key) for key, _ in selector.select(0 if ended else 0.1)]
            if ended and not any(received):
                break  # a grandchild may hold the pipes open; the child's own output has been read
            if not selector.get_map() and not ended:
                time.sleep(0.05)  # it closed both pipes and goes on
            now = time.monotonic()
            if now - written >= WRITE_EVERY:
                written = now
                touch_heartbeat()
                _write(job, output, _WAIT_WHILE_RUNNING)
            if reason is None and now - checked >= CHECK_EVERY:
                checked = now
                reason = _stop_reason(job) or (StopReason.OVER_LIMIT if now - began > job.limit else None)
                if reason is not None:
                    child.terminate()
                    kill_at = now + KILL_AFTER if killable else math.inf
            if now > kill_at:
                child.kill()
    output.end_line()
    return reason


def _receive(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> int:
    received = os.read(key.fd, _CHUNK)
    if received:
        key.data(received)
    else:
        selector.unregister(key.fileobj)
    return len(received)


def _stop_reason(job: Job) -> StopReason | None:
    """Why the job is to stop now, or None; if its row cannot be read, it keeps running."""
    if interruption.interrupting():
        return StopReason.INTERRUPTED
    try:
        row = Job.objects.filter(pk=job.pk).values_list("state", "claim", "cancel_asked", "cancel_by").first()
    except DatabaseError:
        return None
    if row is None or row[:2] != (Job.State.RUNNING, job.claim):
        return StopReason.CLAIM_LOST
    job.cancel_by = row[3]
    return StopReason.CANCELLED if row[2] is not None else None


def _write(job: Job, output: ChildOutput, wait_ms: int) -> bool:
    """Write new progress and lines. False when the database does not accept them now; they are kept for the next call."""
    values: dict[str, Any] = {"child": job.child}
    if output.changed:
        values |= output.progress
    connection = connections[configuration().database]
    try:
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {wait_ms:d}")
        lifecycle.beat(job, **values)
        output.changed = False
        JobLog.objects.bulk_create(output.lines, batch_size=500)
    except IntegrityError:
        pass  # the job's row has been removed
    except DatabaseError:
        connection.close_if_unusable_or_obsolete()
        return False
    output.lines = []
    return True


def _conclude(job: Job, status: int, output: ChildOutput, reason: StopReason | None, work: Work) -> Job:
    answer = output.answer()
    error: dict[str, Any] | None = (answer or {}).get("error")
    result = answer if answer is not None and error is None else None
    if result is not None and (status == 0 or (_is_clean(result) and (status < 0 or result.get("missing")))):
        # Its answer is complete, even if it was told to stop, or killed, right after it
        warning = _incomplete(result)
        return _finish(job, Job.State.SUCCEEDED, output, work, exit_code=status, result=result, warning=warning)
    made = leftovers.published(job) if result is None else None
    if status < 0 or reason is not None:
        leftovers.clear(job)
    cut_off = result is None and (error or {}).get("code") in (None, "cancelled")
    ending: dict[str, Any] = {"exit_code": max(status, -1000), "result": result or made}
    if cut_off and reason is StopReason.CANCELLED:
        error = _error("cancelled", f"Cancelled by {job.cancel_by or 'a user'}; {_what_remains(made)}")
        return _finish(job, Job.State.CANCELLED, output, work, error=error, **ending)
    if cut_off and reason is StopReason.OVER_LIMIT:
        message = f"The job exceeded its time limit of {job.limit} s and was stopped; {_what_remains(made)}"
        error = _error("limit", message, "Raise the time limit of the plan, or find in the log the phase in which it hung.")
        return _finish(job, Job.State.FAILED, output, work, error=error, **ending)
    if cut_off and made is not None:
        output.add_line("The process was stopped after the work had been done.", JobLog.Level.WARNING)
        job = _finish(job, Job.State.SUCCEEDED, output, work, **ending)
        completion.prove_later(job)
        return job
    if cut_off and (error is not None or reason is StopReason.INTERRUPTED):
        error = _error("interrupted", "The job was interrupted: the worker or the machine was stopping.", leftovers.HINT)
        return _finish(job, Job.State.INTERRUPTED, output, work, error=error, **ending)
    return _finish(job, Job.State.FAILED, output, work, error=error or _unanswered(status, result), **ending)


def _is_clean(result: dict[str, Any]) -> bool:
    """Whether an answer has no problem, for which a job fails."""
    return bool(result.get("ok", True)) and not result.get("problems")


def _incomplete(result: dict[str, Any]) -> dict[str, Any] | None:
    """The warning of a backup that was made, and lacks something that belongs into it."""
    missing = result.get("missing")
    if not missing:
        return None
    message = f"The backup was made, but it is incomplete: {missing[0]['message']}."
    more = f" ({len(missing)} such findings altogether)" if len(missing) > 1 else ""
    return _error(INCOMPLETE, f"{message}{more}", "Make them readable and back up again, or exclude them.")


def _error(code: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"code": code, "message": message, "hint": hint}


def _what_remains(made: dict[str, Any] | None) -> str:
    if made is None:
        return "what had been staged was removed."
    if "to" in made:
        return f"{made['to']} had already been restored and was kept."
    return f"{made['id']} had already been published and was kept; it was not verified as requested."


def _unanswered(status: int, result: dict[str, Any] | None) -> dict[str, Any]:
    if result is not None:
        problems = [problem for item in result.get("results", [result]) for problem in item.get("problems", [])]
        first = problems[0]["message"] if problems else f"The command exited with status {status}."
        code = {5: "damaged", 6: "source_broken"}.get(status, "findings")
        more = f" ({len(problems)} findings altogether)" if len(problems) > 1 else ""
        return _error(code, f"{first}{more}", "See the job's result for each finding.")
    if status < 0:
        name = signal.Signals(-status).name
        message = f"The process was killed by {name} before it finished, from outside this program. Nothing was published."
    else:
        message = f"The process exited with status {status} and gave no answer."
    return _error("no_answer", message, "See the job's log, and check the machine's memory.")


def _finish(
    job: Job,
    state: Job.State,
    output: ChildOutput,
    work: Work | None,
    *,
    exit_code: int | None = None,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    warning: dict[str, Any] | None = None,
) -> Job:
    """Complete the job and save its end, retrying while the database does not accept it. *work* is None before ``prepare``.

    Raises ``DatabaseError`` after `SAVE_WITHIN`; the reconciler then ends the job.
    """
    if error is not None and error["code"] == RepositoryMissing.code:
        error = {**error, "hint": REPOSITORY_AWAY}
    result, error, warning = storable(result), storable(error), storable(warning)
    made = str((result or {}).get("id") or "")
    backup_id = made if BACKUP_ID.fullmatch(made) else job.backup_id
    job.state, job.result, job.error, job.backup_id = state, result, error, backup_id
    deadline = time.monotonic() + SAVE_WITHIN
    completed = False
    while True:
        try:
            if not completed:
                completion.complete(job, work)
                completed = True
            if _write(job, output, _WAIT_AT_END):
                ended = lifecycle.end(
                    job, state, exit_code=exit_code, result=result, error=error, warning=warning, backup_id=backup_id
                )
                break
        except DatabaseError:
            connections[configuration().database].close_if_unusable_or_obsolete()
        if interruption.interrupting():
            deadline = min(deadline, time.monotonic() + SAVE_WITHIN_WHEN_INTERRUPTED)
        if time.monotonic() > deadline:
            raise DatabaseError(f"The control database did not accept the end of {job}.")
        _log.warning("The control database does not accept the end of %s; retrying", job)
        touch_heartbeat()
        time.sleep(1.0)
    if not connections[configuration().database].in_atomic_block:
        connections[configuration().database].close()  # the next connection has the configured busy timeout again
    job.refresh_from_db()
    if ended:
        _log_end(job)
    return job


def _log_end(job: Job) -> None:
    seconds = job.took.total_seconds() if job.took else 0.0
    kind = job_types().get(job.kind)
    line = f"{kind.title if kind else job.kind} {str(job.pk)[:8]}: {job.get_state_display().lower()} after {seconds:.1f} s"
    why = job.error or job.warning
    if why is None:
        _log.info("%s%s", line, f", {job.backup_id}" if job.backup_id else "")
    else:
        _log.warning("%s: %s", line, why["message"])
