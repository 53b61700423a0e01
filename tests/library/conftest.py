"""Libraries to test with: real SQLite files in WAL mode and a real Chroma, in a temporary folder."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command

from tests.fixtures.once import made_once
from tests.library.places import Places, at


@pytest.fixture(scope="session")
def empty_places(tmp_path_factory, django_db_blocker) -> Places:
    """Migrated databases, to be copied."""

    def fill(root: Path) -> None:
        with at(Places(root)), django_db_blocker.unblock():
            for alias in ("default", "control"):
                call_command("migrate", database=alias, verbosity=0)

    return Places(made_once(tmp_path_factory, "empty", fill))


@pytest.fixture(scope="session")
def sample_places(empty_places, tmp_path_factory, django_db_blocker) -> Places:
    """The sample library, to be copied."""

    def fill(root: Path) -> None:
        shutil.copytree(empty_places.root, root, dirs_exist_ok=True)
        with at(Places(root)), django_db_blocker.unblock():
            call_command("load_sample", stdout=io.StringIO())

    return Places(made_once(tmp_path_factory, "sample", fill))


@pytest.fixture
def library(empty_places, tmp_path, django_db_blocker) -> Iterator[Places]:
    """An empty library for one test."""
    yield from _copied(empty_places, tmp_path, django_db_blocker)


@pytest.fixture
def sample_library(sample_places, tmp_path, django_db_blocker) -> Iterator[Places]:
    """A copy of the sample library for one test."""
    yield from _copied(sample_places, tmp_path, django_db_blocker)


def _copied(source: Places, tmp_path: Path, blocker) -> Iterator[Places]:
    root = tmp_path / "library"
    shutil.copytree(source.root, root)
    with at(Places(root)) as places, blocker.unblock():
        yield places
