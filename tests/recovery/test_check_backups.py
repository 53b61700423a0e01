"""`scripts/check_backups.sh`, as a monitoring system runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backups.engine.monitoring_check import Level, judge
from backups.engine.repository.folder import open_repository
from backups.engine.types import Depth, Source, SourceKind
from tests.recovery.clone import Clone, Done
from tests.restore.stores import back_up, make_database, until

LINE = re.compile(r"^BACKUPS (OK|WARNING|CRITICAL|UNKNOWN): [^|\n]+( \| (\S+=-?[\d.]+\w*(;[\d.]*)*\s?)+)?\n$")


def level(done: Done) -> int:
    """The exit code; the answer must be one line with the same level."""
    found = LINE.match(done.stdout)
    assert found, done
    assert Level[found[1]] == done.returncode
    return done.returncode


@pytest.mark.slow
def test_fresh_old_missing_and_invalid(clone: Clone, tmp_path: Path) -> None:
    fine = clone.check()
    assert level(fine) == 0
    assert clone.ids()[0] in fine.stdout and "not read again (--deep reads it)" in fine.stdout
    assert re.search(r"\| age=\d+s;;93600;0 proof_age=\d+s;;;0 backups=2;;;0 damaged=0;0;;0 free=\d+B", fine.stdout)
    old = clone.check("--max-age", "0.0001")
    assert level(old) == 2
    assert "more than 0.0001 h" in old.stdout
    assert level(clone.check("--repo", tmp_path)) == 2
    for nonsense in (("--max-age", "soon"), ("--max-age", "-1"), ("--max-age", "nan"), ("--max-age",), ("--depp",), ("x",)):
        assert level(clone.check(*nonsense)) == 3
    assert level(clone.check(REFSERVER_ENV_FILE="gone")) == 3


@pytest.mark.slow
def test_deep_finds_a_flipped_byte(clone: Clone) -> None:
    whole = clone.check("--deep")
    assert level(whole) == 0
    assert "every byte read" in whole.stdout and "not read again" not in whole.stdout
    newest, full = clone.ids()
    data = clone.repository / "backups/default" / full / "data.tar.zst"
    content = bytearray(data.read_bytes())
    table = json.loads((data.parent / "manifest.json").read_text())["data"]["table_offset"]
    for place in range(100, table, 4000):  # every block
        content[place] ^= 255
    data.write_bytes(content)
    assert level(clone.check()) == 0  # it reads only the recorded proofs
    broken = clone.check("--deep")
    assert level(broken) == 2
    assert f"2 damaged, the newest {newest}" in broken.stdout
    again = clone.check()
    assert level(again) == 2, "it is recorded, and the full backup shares the damage"
    assert "no usable backup: 2 damaged" in again.stdout


@pytest.mark.slow
def test_a_missing_archive_is_noticed_without_reading_it(clone: Clone) -> None:
    newest, full = clone.ids()
    (clone.repository / "backups/default" / newest / "data.tar.zst").unlink()
    found = clone.check()
    assert level(found) == 2
    assert f"the newest backup, {newest}, is damaged" in found.stdout
    (clone.repository / "backups/default" / newest).rename(clone.repository / "away")
    assert level(clone.check()) == 0
    (clone.repository / "backups/default" / full / "data.tar.zst").write_bytes(b"short")
    assert level(clone.check()) == 2


@pytest.mark.slow
def test_every_set_is_checked(clone: Clone) -> None:
    repository = open_repository(clone.repository)
    source = Source(kind=SourceKind.SQLITE, name="control", path=clone.root / "control.sqlite3")
    make_database(source.path, 10)
    made = [back_up(repository, (source,), set=name, verify=Depth.HASHES) for name in ("control", "other")]
    fine = clone.check()
    assert level(fine) == 0
    assert "control: " in fine.stdout
    for backup in made:
        (repository.backup_folder(backup.manifest.set, backup.id) / "data.tar.zst").unlink()
        found = clone.check()
        assert level(found) == 2
        assert f"{backup.manifest.set}: no usable backup" in found.stdout
    assert level(clone.check("--set", "default")) == 0
    assert level(clone.check("--set", "typo")) == 2


@pytest.mark.slow
def test_a_read_only_repository(clone: Clone) -> None:
    """Root can write regardless of modes, unless its capability is dropped."""
    for path in [*clone.repository.rglob("*"), clone.repository]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in clone.repository.rglob("*")}
    bound = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    assert clone.run(*bound, "touch", clone.repository / "new").returncode != 0
    done = clone.run(*bound, "scripts/check_backups.sh", "--deep")
    assert level(done) == 0
    assert {path: path.stat().st_mtime_ns for path in clone.repository.rglob("*")} == before
    for path in [clone.repository, *clone.repository.rglob("*")]:
        path.chmod(0o755)


def test_a_missing_environment_is_reported_in_one_line(clone: Clone) -> None:
    (clone.root / ".venv").unlink()
    (clone.root / "requirements.lock").unlink()
    done = clone.check()
    assert level(done) == 3
    assert "no working .venv" in done.stdout


def let_the_check_hang(clone: Clone, seconds: int) -> Path:
    """Let the check's Python hang, as reading from a disk that is away does. Returns a file that exists from then on."""
    real, begun = (clone.root / ".venv").resolve() / "bin/python", clone.root / "begun"
    (clone.root / ".venv").unlink()
    (clone.root / ".venv/bin").mkdir(parents=True)
    python = clone.root / ".venv/bin/python"
    hang = f"touch {begun}; exec sleep {seconds}"
    python.write_text(f'#!/bin/sh\ncase "$*" in *recovery.check*) {hang} ;; *) exec {real} "$@" ;; esac\n')
    python.chmod(0o755)
    return begun


def test_a_hanging_repository_is_unknown(clone: Clone) -> None:
    let_the_check_hang(clone, 60)
    script = clone.root / "scripts/check_backups.sh"
    script.write_text(script.read_text().replace("seconds=60", "seconds=1"))
    done = clone.check()
    assert level(done) == 3
    assert "no answer within 1 s" in done.stdout


def test_the_check_can_be_stopped(clone: Clone) -> None:
    begun = let_the_check_hang(clone, 2)
    with subprocess.Popen(
        ["scripts/check_backups.sh"], cwd=clone.root, env=clone.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        until(begun.exists, "the check")
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 3
    assert said.startswith("BACKUPS UNKNOWN")


@pytest.mark.slow
def test_judgements(template: Clone) -> None:
    scanned = open_repository(template.repository).scan("default")
    now = datetime.now(UTC)
    room = 1 << 40
    assert judge(scanned, now, max_age=26, free=room).level is Level.OK
    assert judge(scanned, now, max_age=26, free=1000).level is Level.WARNING
    assert judge(scanned, now + timedelta(hours=27), max_age=26, free=room).level is Level.CRITICAL
    assert judge(scanned, now - timedelta(hours=1), max_age=26, free=room).level is Level.WARNING  # a clock
    assert judge([], now, max_age=26, free=room).level is Level.CRITICAL
