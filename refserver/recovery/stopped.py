"""Stops services for a restore and starts them again, also after a recovery was killed."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backups.engine.errors import Cancelled, EngineError
from backups.engine.runtime import durable, locks

from .interruption import Interruption
from .locations import Locations
from .report import Report
from .services import Service, is_among, running, service_from


@dataclass(frozen=True, slots=True, kw_only=True)
class KilledRecovery:
    """A recovery that was killed while *services* were stopped for it; they do not run. ``backup`` is what it restored.

    The record of an older version has no ``backup`` and no ``began``.
    """

    services: Sequence[Service]
    backup: str = ""
    began: datetime | None = None

    @property
    def message(self) -> str:
        """A sentence for people."""
        what = f"The recovery of {self.backup}" if self.backup else "A recovery"
        when = f", begun at {self.began:%Y-%m-%d %H:%M:%S} UTC," if self.began else ""
        return f"{what}{when} was killed, and left {', '.join(service.title for service in self.services)} stopped."


def killed_recovery(locations: Locations) -> KilledRecovery | None:
    """What a killed recovery left stopped; None if nothing, or while a recovery is running."""
    with contextlib.suppress(FileNotFoundError), (locations.recovery / "lock").open("rb") as lock:
        if not locks.acquire(lock.fileno(), shared=True):
            return None
    killed = _load(_file(locations))
    left = [service for service in killed.services if not is_among(service, running(locations))]
    return KilledRecovery(services=left, backup=killed.backup, began=killed.began) if left else None


def start_left(killed: KilledRecovery, locations: Locations, report: Report) -> None:
    """Start what a killed recovery left stopped. Raises what starting raises; then the record stays."""
    if failed := _start(killed.services, locations, report):
        raise failed
    _file(locations).unlink(missing_ok=True)


@contextlib.contextmanager
def stopped(
    to_stop: Sequence[Service],
    backup_id: str,
    locations: Locations,
    report: Report,
    interruption: Interruption,
    *,
    may_start: Callable[[], bool],
) -> Iterator[None]:
    """Stop services while *backup_id* is restored; start them again at the end, also after an error, if *may_start* allows.

    Services that a killed recovery left stopped are started, too. Raises what stopping or starting raises.
    """
    file = _file(locations)
    left = [service for service in _load(file).services if not is_among(service, to_stop)]
    if left:
        names = ", ".join(service.title for service in left)
        report.write(f"An earlier recovery did not finish and left {names} stopped: it will be started, too.")

    def say(text: str) -> None:
        report.write(f"    {text}")

    to_start = [*left]
    _save(file, KilledRecovery(services=[*to_stop, *left], backup=backup_id, began=datetime.now(UTC)))
    failed: EngineError | None = None
    try:
        for service in to_stop:
            report.step(f"Stopping {service.title}")
            to_start.insert(0, service)
            try:
                service.stop(interruption.check, say)
            except Cancelled:  # it is stopping already: wait, or it would not be started again
                service.stop(lambda: None, say)
                raise
        yield
    finally:
        if may_start() or not to_start:
            failed = _start(to_start, locations, report)
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        else:
            names = ", ".join(service.title for service in to_start)
            report.write(f"\nNot started, because the stores may be of different times: {names}.")
    if failed is not None:
        raise failed


def _start(to_start: Sequence[Service], locations: Locations, report: Report) -> EngineError | None:
    """Start the services and return the last failure."""
    failed: EngineError | None = None
    for service in reversed(to_start):
        if any(is_among(service, [other]) for other in running(locations)):
            continue  # it did not stop, or was started meanwhile
        report.step(f"Starting {service.title.partition(' (')[0]}")
        try:
            report.write(f"    {service.start()}")
        except EngineError as problem:
            failed = problem
            report.write(f"    {problem.message}\n    -> {problem.hint}")
    return failed


def _file(locations: Locations) -> Path:
    return locations.recovery / "stopped.json"


def _save(file: Path, recovery: KilledRecovery) -> None:
    """The file holds a process's environment: only its owner may read it."""
    about = {
        "backup": recovery.backup,
        "began": recovery.began.isoformat() if recovery.began else "",
        "services": [service.as_json() for service in recovery.services],
    }
    durable.write_file(file, json.dumps(about).encode(), 0o600)


def _load(file: Path) -> KilledRecovery:
    """What a killed recovery had stopped."""
    try:
        saved = json.loads(file.read_bytes())
        if isinstance(saved, list):  # until 1.0
            return KilledRecovery(services=[service_from(one) for one in saved])
        services = [service_from(one) for one in saved["services"]]
        return KilledRecovery(services=services, backup=str(saved["backup"]), began=datetime.fromisoformat(saved["began"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return KilledRecovery(services=())
