"""What ``manage.py``, the web server and the worker do around their start: errors name their file and what to read.

Nothing starts before the stores have been looked at, because a start creates what is missing, and so hides a loss.
"""

import importlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backups.engine.errors import EngineError
from refserver.recovery.faults import Fault, Section, find_faults, foreign_owner
from refserver.recovery.locations import PATH_SETTINGS, ROOT, Locations

_CREATES = frozenset({"migrate"})
_NEEDS_STORES = _CREATES | {
    *(
        "wsgi",
        "serve",
        "backups_worker",
        "qcluster",
        "load_sample",
        "ingest",
        "reembed",
        "make_admin",
        "changepassword",
        "backup_plans_install",
        "install_schedules",
        "consistency_check",
        "check_consistency",
    ),
}
"""Commands that use or create the stores, except those for recovery."""


@contextmanager
def explained(command: str = "", *, exit_code: int = 1) -> Iterator[None]:
    """Look at the stores before *command* begins, and explain an error of a file or a database; then exit with *exit_code*.

    Errors that no file is to blame for are passed on.
    """
    settings = os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refserver.settings")
    try:
        importlib.import_module(settings)
    except Exception as problem:
        if not _is_of_the_system(problem) and type(problem).__name__ != "ImproperlyConfigured":
            raise
        _stop([Fault("", str(problem), Section.SETTING)], exit_code)
    if command in _NEEDS_STORES:
        _look_first(command, exit_code)
    try:
        yield
    except Exception as problem:
        if not _is_of_the_system(problem):
            raise
        faults = find_faults(_locations(), thorough=True)
        if not faults:
            raise
        _stop(faults, exit_code)


def _look_first(command: str, exit_code: int) -> None:
    locations = _locations()
    foreign = foreign_owner(locations)
    faults = [foreign] if foreign else find_faults(locations, creating=command in _CREATES)
    if any(fault.blocks for fault in faults):
        _stop([fault for fault in faults if fault.blocks], exit_code)
    if command == "serve":
        for fault in faults:
            sys.stderr.write(f"Warning: {fault.as_text()}\n")


def _locations() -> Locations:
    """The locations in Django's settings."""
    from django.conf import settings

    values = {name: str(getattr(settings, name)) for name in PATH_SETTINGS}
    return Locations(paths={name: Path(value) for name, value in values.items()}, values=values)


def _is_of_the_system(problem: BaseException | None) -> bool:
    """Whether a database, a file or a setting is to blame, perhaps through errors that were raised from it."""
    while problem is not None:
        if isinstance(problem, (sqlite3.Error, OSError, EngineError)):
            return True
        problem = problem.__cause__
    return False


def _stop(faults: list[Fault], exit_code: int) -> None:
    name = Path(sys.argv[0]).name
    for fault in faults:
        sys.stderr.write(f"{name}: {fault.as_text()}\n")
    sys.stderr.write(f"{name}: not started. To look at everything: {ROOT / 'scripts' / 'disaster_recovery.sh'} --look\n")
    sys.exit(exit_code)
