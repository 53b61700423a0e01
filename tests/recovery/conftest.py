"""The template of all clones: made once for each test run, with the sample library, two backups, and one newer document."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.once import made_once
from tests.library.conftest import empty_places, sample_places
from tests.recovery.clone import Clone, copy_of, copy_project

__all__ = ["empty_places", "sample_places"]


@pytest.fixture(scope="session")
def template(sample_places, tmp_path_factory) -> Clone:
    """65 documents in a full backup, 66 in an incremental one, 67 live. Do not change it."""

    def fill(root: Path) -> None:
        clone = Clone(copy_project(root))
        var = clone.root / "var"
        var.mkdir()
        shutil.copytree(sample_places.root / "data", var / "data")
        shutil.copy(sample_places.root / "control.sqlite3", var)
        clone.refbackup("init", "--repo", clone.repository)
        for number, kind in enumerate(("full", "incremental")):
            clone.refbackup("create", "--repo", clone.repository, "--kind", kind, "--verify", "hashes", *clone.stores)
            document = clone.root / f"added-{number}.md"
            document.write_text(f"# A finding of day {number}\n\nIt is about backups.\n")
            done = clone.run(".venv/bin/python", "manage.py", "ingest", document)
            assert done.returncode == 0, done.stderr

    return Clone(made_once(tmp_path_factory, "recovery", fill))


@pytest.fixture
def clone(template, tmp_path: Path) -> Clone:
    """A copy of the template for one test."""
    return copy_of(template, tmp_path / "refserver")
