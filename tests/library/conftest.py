"""Libraries to test with: real SQLite files in WAL mode and a real Chroma, in a folder of the test's own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from refserver.library import vectors

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Places:
    """Where one library keeps what it has; also for child processes."""

    root: Path

    @property
    def settings(self) -> dict[str, Path]:
        return {
            "REFSERVER_DATABASE": self.root / "data" / "refserver.sqlite3",
            "CHROMA_PATH": self.root / "data" / "chroma",
            "REFSERVER_FILES": self.root / "data" / "documents",
            "REFSERVER_CONTROL_DATABASE": self.root / "control.sqlite3",
            "REFSERVER_RUN_DIR": self.root / "run",
            "STATIC_ROOT": self.root / "static",
        }

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REFSERVER_", "CHROMA_", "BACKUP_", "DJANGO_"))
        }
        named = {name: str(path) for name, path in self.settings.items()}
        named["REFSERVER_STATIC_ROOT"] = named.pop("STATIC_ROOT")
        return (
            inherited
            | named
            | {
                "REFSERVER_ENV_FILE": "/dev/null",
                "REFSERVER_SECRET_KEY": "only-for-tests-" * 4,
                "BACKUP_REPOSITORY": str(self.root / "backups"),
                "DJANGO_SETTINGS_MODULE": "refserver.settings",
                "PYTHONPATH": str(ROOT),
            }
        )

    @property
    def chroma(self) -> Path:
        return self.settings["CHROMA_PATH"]

    def manage(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a management command in a process of its own."""
        return self.python(str(ROOT / "manage.py"), *arguments, timeout=timeout)

    def script(self, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process of its own, with Django set up."""
        return self.python("-c", f"import django; django.setup()\n{code}", *arguments)

    def python(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def at(places: Places) -> Iterator[Places]:
    """Point this process's settings and database connections at *places*."""
    files = {"default": "REFSERVER_DATABASE", "control": "REFSERVER_CONTROL_DATABASE"}
    for path in places.settings.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    places.settings["STATIC_ROOT"].mkdir(exist_ok=True)
    before = {alias: connections[alias].settings_dict["NAME"] for alias in files}
    with ExitStack() as stack:
        stack.enter_context(override_settings(**places.settings))
        connections.close_all()
        for alias, name in files.items():
            connections[alias].settings_dict["NAME"] = str(places.settings[name])
        try:
            yield places
        finally:
            vectors.store().close()
            connections.close_all()
            for alias, name in before.items():
                connections[alias].settings_dict["NAME"] = name


@pytest.fixture(scope="session")
def empty_places(tmp_path_factory, django_db_blocker) -> Places:
    """Migrated databases, to be copied."""
    with at(Places(tmp_path_factory.mktemp("empty"))) as places, django_db_blocker.unblock():
        for alias in ("default", "control"):
            call_command("migrate", database=alias, verbosity=0)
    return places


@pytest.fixture(scope="session")
def sample_places(empty_places, tmp_path_factory, django_db_blocker) -> Places:
    """The sample library, to be copied."""
    root = tmp_path_factory.mktemp("sample") / "library"
    shutil.copytree(empty_places.root, root)
    with at(Places(root)) as places, django_db_blocker.unblock():
        call_command("load_sample", stdout=io.StringIO())
    return places


@pytest.fixture
def library(empty_places, tmp_path, django_db_blocker) -> Iterator[Places]:
    """An empty library of the test's own."""
    yield from _copied(empty_places, tmp_path, django_db_blocker)


@pytest.fixture
def sample_library(sample_places, tmp_path, django_db_blocker) -> Iterator[Places]:
    """The sample library, as a copy of the test's own."""
    yield from _copied(sample_places, tmp_path, django_db_blocker)


def _copied(source: Places, tmp_path: Path, blocker) -> Iterator[Places]:
    root = tmp_path / "library"
    shutil.copytree(source.root, root)
    with at(Places(root)) as places, blocker.unblock():
        yield places
