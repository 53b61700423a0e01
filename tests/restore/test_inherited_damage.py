"""What makes one backup useless makes others useless too: they are found, listed as damaged, and never chosen."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups.engine.archive.reader import Archives
from backups.engine.cli import main
from backups.engine.create import Request, create_backup
from backups.engine.errors import BackupNotFound, DamageFound
from backups.engine.repository.folder import Repository, initialise
from backups.engine.restore.to_folder import restore_to
from backups.engine.types import BackupKind, Depth, Source, SourceKind
from tests.capture.processes import ordinary
from tests.restore.stores import ROOT, History, back_up, change_rows, context, make_database, verified

Told = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def told(capsys: Any) -> Told:
    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = main([*map(str, arguments), "--json", "--progress=none"])
        return code, json.loads(capsys.readouterr().out)

    return run


def states(repository: Repository) -> list[str]:
    """Of all backups of the set, oldest first."""
    return [backup.verification for backup in reversed(repository.backups("default"))]


def flip_shared_block(mine: History) -> None:
    """Damage a block of the full backup that every incremental still needs."""
    with Archives(mine.repository.locate("default")) as archives:
        trees = [archives.tree(backup_id) for backup_id in mine.ids]
        needed = [{ref for entry in tree.entries.values() for ref in tree.refs(entry)} for tree in trees]
        frame = archives.frame(next(ref for ref in set.intersection(*needed) if ref.backup == mine.ids[0]))
    data = mine.place(0) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    content[frame.offset + frame.stored // 2] ^= 1
    data.write_bytes(content)


@pytest.mark.parametrize("number", [0, 3])
def test_a_flipped_byte_marks_every_backup_that_shares_it(mine: History, told: Told, number: int) -> None:
    flip_shared_block(mine)
    repo = f"--repo={mine.repository.folder}"
    assert told("verify", mine.ids[number], repo)[0] == 5
    assert states(mine.repository) == ["damaged"] * 4
    for command in (["show", "latest"], ["restore", "latest", "--to=out"], ["drill"], ["verify"]):
        assert told(*command, repo)[0] == 4, command
    assert {item["verification"] for item in told("list", repo)[1]["backups"]} == {"damaged"}


def test_a_restore_and_a_test_restore_mark_them_too(mine: History, tmp_path: Path) -> None:
    flip_shared_block(mine)
    with pytest.raises(DamageFound):
        restore_to(mine.repository, mine.backup(3), tmp_path / "out", context())
    assert states(mine.repository) == ["damaged"] * 4
    for place in (mine.place(number) for number in range(4)):
        shutil.rmtree(place / "proofs")
    assert not verified(mine.repository, mine.backup(2), "restore").ok
    assert states(mine.repository) == ["damaged"] * 4


def test_a_later_success_lifts_the_mark(mine: History) -> None:
    sound = (mine.place(0) / "data.tar.zst").read_bytes()
    flip_shared_block(mine)
    verified(mine.repository, mine.backup(0), "hashes")
    (mine.place(0) / "data.tar.zst").write_bytes(sound)
    assert states(mine.repository) == ["damaged"] * 4, "nobody has looked"
    assert verified(mine.repository, mine.backup(3), "hashes").ok
    assert states(mine.repository) == ["damaged"] * 3 + ["hashes"]


def remove_archive(place: Path) -> None:
    (place / "data.tar.zst").unlink()


def truncate_archive(place: Path) -> None:
    with (place / "data.tar.zst").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize("lose", [remove_archive, truncate_archive, shutil.rmtree])
def test_missing_files_are_noticed_without_a_verification(mine: History, told: Told, lose: Callable[[Path], None]) -> None:
    verified(mine.repository, mine.backup(3), "hashes")
    lose(mine.place(1))
    found = {backup.id: backup for backup in mine.repository.backups("default")}
    assert not found[mine.ids[0]].damaged
    for number in (2, 3):
        backup = found[mine.ids[number]]
        assert backup.damaged and mine.ids[1] in backup.problems[-1].message
        assert backup == mine.backup(number), "loaded alone it is judged alike"
    repo = f"--repo={mine.repository.folder}"
    assert told("show", "latest", repo)[1]["id"] == mine.ids[0]
    assert mine.repository.find("latest", "default").id == mine.ids[0]


def test_the_next_backup_builds_on_none_of_them(mine: History, tmp_path: Path) -> None:
    database = tmp_path / "app.sqlite3"
    make_database(database, 10)
    remove_archive(mine.place(0))
    with pytest.raises(BackupNotFound):
        mine.repository.find("latest", "default")
    source = Source(kind=SourceKind.SQLITE, name="app", path=database)
    made = back_up(mine.repository, (source,), "incremental", verify=Depth.HASHES)
    assert (made.manifest.kind, made.damaged) == (BackupKind.FULL, False)
    assert mine.repository.find("latest", "default").id == made.id


def break_index(path: Path) -> None:
    """Make an index disagree with its table: every byte is stored faithfully, and the database is damaged."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE INDEX IF NOT EXISTS by_tag ON item (tag)")
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET sql = 'CREATE INDEX by_tag ON item (body)' WHERE name = 'by_tag'")


@pytest.mark.slow
def test_a_damaged_source_is_suspected_until_a_test_restore_passes(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    repository = initialise(tmp_path / "repo", datetime.now(UTC))
    database = tmp_path / "app.sqlite3"
    make_database(database, 200)
    sources = (Source(kind=SourceKind.SQLITE, name="app", path=database),)
    good = back_up(repository, sources, verify=Depth.RESTORE)
    sound = database.read_bytes()
    break_index(database)
    before = back_up(repository, sources, "incremental", verify=Depth.HASHES)
    broken = back_up(repository, sources, "incremental")
    later = back_up(repository, sources, "incremental", verify=Depth.HASHES)
    assert repository.find("latest", "default").id == later.id, "nobody knows yet"
    assert not verified(repository, broken, "restore").ok
    assert repository.load("default", later.id).damaged
    assert [backup.id for backup in repository.backups("default") if backup.damaged] == [later.id, broken.id]
    assert not repository.load("default", before.id).damaged, "what came before may be sound"

    # The next backup is restored to find out, whatever the requested depth
    created = create_backup(
        repository, Request(sources=sources, kind=BackupKind.INCREMENTAL, verify=Depth.HASHES), context()
    ).backup
    assert created.damaged and created.proofs[-1].depth is Depth.RESTORE

    database.write_bytes(sound)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    change_rows(database, "repaired", [1])
    unproven = back_up(repository, sources, "incremental")
    assert repository.load("default", unproven.id).damaged
    repaired = back_up(repository, sources, "incremental", verify=Depth.HASHES)
    assert repaired.proofs[-1].depth is Depth.RESTORE and not repaired.damaged
    assert repository.find("latest", "default").id == repaired.id
    again = back_up(repository, sources, "incremental", verify=Depth.HASHES)
    assert again.proofs[-1].depth is Depth.HASHES and not repository.load("default", again.id).damaged
    assert good.id != again.id


def test_nothing_is_removed_while_the_needs_of_a_backup_are_unknown(mine: History) -> None:
    """A folder that this account may not enter, as after a backup by root."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        command = [*ordinary(), sys.executable, "-m", "backups.engine", *arguments, "--json", "--progress=none"]
        done = subprocess.run([*command, f"--repo={mine.repository.folder}"], cwd=ROOT, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    mine.place(3).chmod(0)
    code, listed = run("list")
    assert code == 0 and [item["id"] for item in listed["backups"]] == list(reversed(mine.ids)), "it hides no other"
    for removing in (["prune", "--keep-last=1", "--verified-floor=0"], ["delete", mine.ids[2]]):
        code, answer = run(*removing)
        assert code == 1 and answer["error"]["code"] == "permission", removing
    mine.place(3).chmod(0o755)
    assert len(mine.repository.backups("default")) == 4
