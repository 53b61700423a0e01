"""Stores to plant findings in: copies of a consistent one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consistency.stores import Home, build
from tests.library.conftest import empty_places, library, sample_library, sample_places

__all__ = ["empty_places", "library", "sample_library", "sample_places"]


@pytest.fixture(scope="session")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with consistent stores."""
    return build(tmp_path_factory.mktemp("fine")).root


@pytest.fixture
def home(fine: Path, tmp_path: Path) -> Iterator[Home]:
    """A copy for one test."""
    copy = Home(Path(shutil.copytree(fine, tmp_path / "home")))
    yield copy
    copy.close()
