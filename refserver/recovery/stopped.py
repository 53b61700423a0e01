"""Stops services for a restore and starts them again, also after a recovery that was killed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from backups.engine.errors import Cancelled, EngineError
from backups.engine.runtime import durable

from . import services
from .interruption import Interruption
from .locations import Locations
from .report import Report
from .services import ServeProcess, Service, SystemdUnit


@contextlib.contextmanager
def stopped(
    running: Sequence[Service],
    locations: Locations,
    report: Report,
    interruption: Interruption,
    *,
    may_start: Callable[[], bool],
) -> Iterator[None]:
    """Stop *running*; start it again at the end, however that comes, if *may_start* allows.

    What a killed recovery had stopped is started, too. Raises what stopping or starting raises.
    """
    file = locations.recovery / "stopped.json"
    left = [service for service in _load(file) if not _is_among(service, running)]
    if left:
        names = ", ".join(service.title for service in left)
        report.write(f"An earlier recovery did not finish and left {names} stopped: it will be started, too.")
    to_start = [*left]
    _save(file, [*running, *left])
    failed: EngineError | None = None
    try:
        for service in running:
            report.step(f"Stopping {service.title}")
            to_start.insert(0, service)
            try:
                service.stop(interruption.check)
            except Cancelled:  # it is stopping already: wait, or it would not be started again
                service.stop(lambda: None)
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
        if any(_is_among(service, [other]) for other in services.running(locations)):
            continue  # it did not stop, or was started meanwhile
        report.step(f"Starting {service.title.partition(' (')[0]}")
        try:
            report.write(f"    {service.start()}")
        except EngineError as problem:
            failed = problem
            report.write(f"    {problem.message}\n    -> {problem.hint}")
    return failed


def _is_among(service: Service, others: Sequence[Service]) -> bool:
    """Whether one of *others* is the same service, though perhaps another process."""
    return any(type(service) is type(other) for other in others)


def _save(file: Path, to_start: Sequence[Service]) -> None:
    """The file holds a process's environment: only its owner may read it."""
    durable.write_file(file, json.dumps([service.as_json() for service in to_start]).encode(), 0o600)


def _load(file: Path) -> list[Service]:
    """What a killed recovery had stopped."""
    try:
        saved = json.loads(file.read_bytes())
        return [SystemdUnit(one["unit"]) if "unit" in one else ServeProcess(**one["serve"]) for one in saved]
    except (OSError, ValueError, TypeError, KeyError):
        return []
