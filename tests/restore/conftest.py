"""Backups to work on: made once a run, copied for each test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.restore import stores


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch, tmp_path) -> None:
    """No test sees the settings of whoever runs it."""
    for name in os.environ:
        if name.startswith(("BACKUP_", "REFSERVER_", "CHROMA_", "REFBACKUP_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def history(tmp_path_factory) -> stores.History:
    """A full backup and three incrementals; not to be changed."""
    return stores.history(tmp_path_factory.mktemp)


@pytest.fixture
def mine(history, tmp_path: Path) -> stores.History:
    """A copy of the repository, to be damaged."""
    return stores.copy_of(history, tmp_path / "mine")
