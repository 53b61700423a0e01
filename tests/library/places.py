"""The paths of a test's library, and how to use it in this or another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from django.db import connections
from django.test import override_settings

from refserver.library import unsettled, vectors
from refserver.library.embedding import from_blob
from refserver.library.models import Embedding, PageEmbedding
from refserver.library.vectors import PAGES, PAPERS, store

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Places:
    """The paths of one library, also for child processes."""

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
                "REFSERVER_OPEN_LIBRARY": "yes",
                "REFSERVER_SECRET_KEY": "only-for-tests-" * 4,
                "BACKUP_REPOSITORY": str(self.root / "backups"),
                "BACKUP_SIGNING_KEY": str(self.root / "signing_key"),
                "DJANGO_SETTINGS_MODULE": "refserver.settings",
                "PYTHONPATH": str(ROOT),
            }
        )

    @property
    def chroma(self) -> Path:
        return self.settings["CHROMA_PATH"]

    def manage(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a management command in a new process."""
        return self.python(str(ROOT / "manage.py"), *arguments, timeout=timeout)

    def script(self, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python code in a new process, with Django set up."""
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
        stack.enter_context(override_settings(REFSERVER_OPEN_LIBRARY=True, **places.settings))
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


def assert_equal_stores() -> None:
    """Chroma holds exactly every row's vector with the row's facts."""
    papers = {f"paper-{row.paper_id}": row for row in Embedding.objects.select_related("paper")}
    pages = {f"page-{row.pk}": row for row in PageEmbedding.objects.select_related("paper")}
    for name, rows in ((PAPERS, papers), (PAGES, pages)):
        assert store().count(name) == len(rows)
        for id_, record in store().records(name, list(rows)).items():
            row = rows.pop(id_)
            np.testing.assert_array_equal(record.vector, from_blob(row.vector))
            assert record.metadata["title"] == row.paper.title
            assert record.metadata["file_name"] == row.paper.file_name
            assert record.metadata["paper_id"] == row.paper_id
            assert record.metadata.get("page") == getattr(row, "page", None)
        assert not rows
    assert not unsettled.pending()
