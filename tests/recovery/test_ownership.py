"""A recovery run as root, for the service of another user, who goes on afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.recovery.clone import Clone, copy_of
from tests.recovery.ordinary import give, ordinary, reason_to_skip


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())
def test_after_a_run_as_root_the_user_of_the_service_goes_on(template: Clone) -> None:
    folder = Path(tempfile.mkdtemp())  # that of the tests is closed to other users
    try:
        folder.chmod(0o755)
        clone = copy_of(template, folder / "refserver")
        give(clone.root)
        done = clone.recover("--latest", "--yes")
        assert done.returncode == 0, done.stdout
        clone.refbackup("create", "--repo", clone.repository, "--no-verify", "--progress", "none", *clone.stores)
        left = [path for path in (clone.root / "var").rglob("*") if path.lstat().st_uid == 0]
        assert left == []
        again = clone.run(*ordinary("scripts/disaster_recovery.sh", "--latest", "--yes"))
        assert again.returncode == 0, again.stdout + again.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)
