"""Drills: a restore on real terms, the application's own probe, and what is recorded."""

from __future__ import annotations

import json
import mmap
import shutil
import subprocess
from pathlib import Path

import pytest

from backups.engine.drill import forget_cached
from backups.engine.repository.folder import open_repository
from tests.recovery.clone import Clone


def drill(clone: Clone, *arguments: str) -> tuple[int, dict]:
    done = clone.run(".venv/bin/python", "-m", "backups.engine", "drill", "--repo", clone.repository, "--json", *arguments)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_drill_probes_the_application_and_records_time_and_age(clone: Clone) -> None:
    probe = (
        'bash -c \'sqlite3 "$REFSERVER_DATABASE" "SELECT count(*) FROM library_paper" && ls $REFSERVER_FILES | wc -l'
        " && test -f $CHROMA_PATH/chroma.sqlite3 && test -d $REFBACKUP_RESTORED/sqlite'"
    )
    code, answer = drill(clone, "--probe", probe)
    assert (code, answer["ok"]) == (0, True)
    [proof] = open_repository(clone.repository).find("latest", None).proofs[-1:]
    assert proof.drill
    assert proof.ok
    assert proof.checks["probe"]["said"].split() == ["66", "66"]
    assert 0 < proof.checks["recovery_point_seconds"] < 3600
    assert proof.seconds >= proof.checks["restore_seconds"] > 0
    assert not list((clone.repository / "scratch").iterdir())


@pytest.mark.slow
def test_a_probe_that_fails_fails_the_drill_and_not_the_backup(clone: Clone) -> None:
    (clone.root / ".env").write_text("BACKUP_DRILL_COMMAND=bash -c 'echo no; exit 7'\n")
    code, answer = drill(clone)
    assert (code, answer["ok"]) == (1, False)
    assert answer["results"][0]["ok"]
    assert answer["results"][0]["checks"]["probe"] | {"seconds": 0} == {"ok": False, "status": 7, "seconds": 0, "said": "no"}
    assert not open_repository(clone.repository).find("latest", None).damaged
    code, answer = drill(clone, "--probe", "nothing-of-that-name")
    assert (code, answer["error"]["code"]) == (2, "usage")
    assert not list((clone.repository / "scratch").iterdir())


def test_the_page_cache_of_the_archives_is_dropped_first(clone: Clone) -> None:
    if not shutil.which("fincore"):
        pytest.skip("fincore is not installed: apt-get install util-linux")
    repository = open_repository(clone.repository)
    files = [clone.repository / "backups/default" / name / "data.tar.zst" for name in clone.ids()]
    for file in files:
        file.read_bytes()
        with file.open("rb") as stream:
            subprocess.run(["sync", str(file)], check=True)
            mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ).close()
    assert all(map(remembered, files))
    forget_cached(repository, repository.find("latest", None))
    if any(map(remembered, files)):
        pytest.skip("this machine's file system does not drop cached files")
    assert not any(map(remembered, files))


def remembered(file: Path) -> int:
    done = subprocess.run(["fincore", "-nbo", "RES", str(file)], capture_output=True, text=True, check=True)
    return int(done.stdout)
