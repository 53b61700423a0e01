"""Files planted in the place of a journal, a key or a proof: no command stops, waits or passes over what is gone."""

import hashlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from backups.engine.adopt import adopt
from backups.engine.create import Request, create_backup
from backups.engine.errors import UsageError
from backups.engine.evidence.keys import keys_for, memory_folder, read_keys
from backups.engine.prune import delete
from backups.engine.repository.suspicion import suspicions
from backups.engine.types import Depth, Source, SourceKind
from backups.engine.verify import verify_backup
from tests.restore.stores import ROOT, context
from tests.trust.signed import Signed

LINES = {
    "infinite": b'{"n":Infinity,"do":"backup","id":"x"}\n',
    "too large": b'{"n":1e999,"do":"backup","id":"x"}\n',
    "a word": b'"n"\n',
    "deep": b"[" * 60_000 + b"\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_no_journal_has(signed: Signed, line: bytes) -> None:
    lines = signed.journal.read_bytes()
    signed.journal.write_bytes(line + lines)
    assert "line 1 was changed" in suspicions(signed.repository, "default")[0].message
    signed.journal.write_bytes(lines + line)
    assert "not signed by a trusted key" in suspicions(signed.repository, "default")[0].message


def test_a_pipe_in_the_place_of_the_key(signed: Signed) -> None:
    signed.key.unlink()
    os.mkfifo(signed.key, 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        read_keys(signed.key)


def test_a_whole_set_that_is_gone(signed: Signed) -> None:
    shutil.rmtree(signed.journal.parent)
    assert signed.repository.sets() == ["default"]
    assert [(problem.code, problem.message) for problem in suspicions(signed.repository, "default")] == [
        ("journal", "The journal of the set default cannot be relied on: it is missing.")
    ]
    doctor = signed.run("doctor")
    assert doctor.code == 1 and "the set default cannot be relied on" in doctor.out
    adopt(signed.repository, context())
    assert signed.noticed == []


def test_what_is_no_line_is_replaced(signed: Signed) -> None:
    with signed.journal.open("ab") as file:
        file.write(b"x\n")
    assert signed.back_up(verify=Depth.HASHES).verification == "hashes"
    assert signed.noticed == [] and signed.load(2).verification == "hashes"


def test_lines_of_an_unknown_key_are_kept_and_named(signed: Signed) -> None:
    head = hashlib.sha256(signed.journal.read_bytes().splitlines()[-1]).hexdigest()
    with signed.journal.open("ab") as file:
        file.write(b'{"n":5,"previous":"%s"}\n' % head.encode())
    lines = signed.journal.read_bytes()
    ctx = context()
    proof = verify_backup(signed.repository, signed.load(0), Depth.HASHES, ctx)
    assert proof.ok and any(line.startswith("NOT SIGNED") and "trusted key" in line for line in ctx.lines)
    assert signed.back_up(verify=Depth.HASHES).verification == "none"
    held = signed.run("hold", signed.ids[0])
    assert held.code == 0 and "the journal does not say so" in held.err
    assert signed.journal.read_bytes() == lines


def test_a_backup_is_made_although_the_journal_cannot_take_it(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFBACKUP_FAULT", "journal:enospc")
    ctx = context()
    source = Source(kind=SourceKind.SQLITE, name="app", path=signed.database)
    made = create_backup(signed.repository, Request(sources=(source,)), ctx).backup
    assert any(line.startswith("NOT IN THE JOURNAL") and made.id in line for line in ctx.lines)
    monkeypatch.delenv("REFBACKUP_FAULT")
    assert signed.ids[2] == made.id and not signed.load(2).damaged and signed.noticed == []


def test_two_that_begin_forget_nothing_of_each_other(signed: Signed) -> None:
    memory = signed.keys.remembered(signed.folder / "repository")
    shutil.rmtree(memory_folder(signed.key))
    stale = signed.repository.evidence
    signed.keys.remember(signed.folder / "repository", memory)
    stale.begin()
    assert signed.keys.remembered(signed.folder / "repository") == memory


@pytest.mark.parametrize("planted", ["9{}-hashes.json", "0{}-hashes.json"])
def test_planted_proofs_drive_out_no_proof(signed: Signed, planted: str) -> None:
    place = signed.place(0) / "proofs"
    for number in range(41):
        (place / planted.format(number)).mkdir() if planted[0] == "0" else (place / planted.format(number)).write_text("x")
    assert verify_backup(signed.repository, signed.load(0), Depth.HASHES, context()).ok
    assert [proof.depth for proof in signed.load(0).proofs] == [Depth.RESTORE, Depth.HASHES]
    assert signed.noticed == []


def test_a_memory_in_the_repository_is_refused(signed: Signed) -> None:
    link = signed.folder / "repository" / "key"
    link.symlink_to(signed.key)
    with pytest.raises(UsageError, match="inside the repository"):
        keys_for(signed.folder / "repository", link)


def test_ids_are_later_than_all_that_were(signed: Signed) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    source = Source(kind=SourceKind.SQLITE, name="app", path=signed.database)
    ctx = context()
    ctx.now = lambda: ahead
    newest = create_backup(signed.repository, Request(sources=(source,)), ctx).backup
    delete(signed.repository, newest, context())
    killed = signed.run("create", "--no-verify", "--sqlite", f"app={signed.database}", REFBACKUP_FAULT="published:kill")
    assert killed.code < 0 and signed.ids[2] > newest.id and not signed.load(2).damaged


def test_a_backup_brought_back_names_what_signs_it(signed: Signed) -> None:
    incremental = signed.load(1)
    delete(signed.repository, incremental, context())
    trashed = next((signed.folder / "repository/trash").glob(f"*.{incremental.id}"))
    trashed.rename(signed.repository.backup_folder("default", incremental.id))
    assert "refbackup adopt" in signed.repository.load("default", incremental.id).problems[0].message
    adopt(signed.repository, context())
    assert not signed.repository.load("default", incremental.id).damaged


def test_a_key_that_is_gone_is_named(signed: Signed) -> None:
    signed.key.unlink()
    doctor = signed.run("doctor")
    assert doctor.code == 1 and "signing_key is missing" in doctor.out
    listed = signed.run("list")
    assert listed.code == 0 and "signing_key is missing" in listed.err
    shutil.rmtree(memory_folder(signed.key))  # as on a host that never signed
    assert "is missing" not in signed.run("list").err


@pytest.mark.parametrize("place", ["first", "between", "last"])
def test_a_long_line_costs_no_memory(signed, place):
    """As JSON it would take 900 MB; the process may take 300 more than it has."""
    lines = signed.journal.read_bytes().splitlines(keepends=True)
    planted = b'{"a":[' + b",".join([b"{}"] * 10_000_000) + b"]}\n"
    lines.insert({"first": 0, "between": 2, "last": len(lines)}[place], planted)
    signed.journal.write_bytes(b"".join(lines))
    code = (
        "import pathlib, resource, sys\n"
        "from backups.engine.evidence.keys import keys_for\n"
        "from backups.engine.repository.folder import open_repository\n"
        "from backups.engine.repository.suspicion import suspicions\n"
        "folder, key = map(pathlib.Path, sys.argv[1:])\n"
        "repository = open_repository(folder, keys_for(folder, key))\n"
        "size = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20),) * 2)\n"
        "print(*(problem.code for problem in suspicions(repository, 'default')))\n"
    )
    arguments = [sys.executable, "-c", code, str(signed.folder / "repository"), str(signed.key)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()[0]) == (0, "journal"), done.stderr
