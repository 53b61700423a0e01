"""A served library and a real Chromium."""

from __future__ import annotations

import shutil

import pytest

from tests.library.conftest import empty_places, sample_library, sample_places

__all__ = ["empty_places", "sample_library", "sample_places"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the system's Chromium is; CI has it, and skips nothing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    return found
