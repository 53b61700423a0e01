"""A repository that others can write to: forged, replaced, removed and rolled back backups, proofs and holds are noticed."""

import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backups.engine.adopt import adopt
from backups.engine.create import Request, create_backup
from backups.engine.errors import DamageFound, EngineError, UsageError
from backups.engine.evidence.journal import Do
from backups.engine.evidence.keys import keys_for, make_key, read_keys
from backups.engine.names import DATA, MANIFEST, SUMS
from backups.engine.prune import delete
from backups.engine.repository.folder import initialise, open_repository
from backups.engine.repository.suspicion import is_unchecked, suspicions
from backups.engine.restore.to_folder import restore_to
from backups.engine.types import BackupKind, Depth, Hold, Proof, Source, SourceKind
from backups.engine.verify import verify_backup
from refserver.recovery.locations import read_locations
from tests.restore.stores import back_up, change_rows, context, make_database
from tests.trust.signed import Signed, change_manifest


def test_what_was_made_is_vouched_for(signed):
    assert [signed.load(number).verification for number in (0, 1)] == ["restore", "hashes"]
    assert signed.noticed == []
    assert stat.S_IMODE(signed.key.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in signed.journal.read_bytes().splitlines()]
    assert [line["do"] for line in lines] == ["backup", "proof", "backup", "proof"]
    secret = signed.key.read_text().splitlines()[1]
    assert all(secret not in file.read_text(errors="replace") for file in signed.folder.glob("repository/**/*.json*"))
    assert secret not in repr(signed.keys)


def test_a_forged_backup_with_a_forged_proof(signed):
    forged = signed.ids[1].replace("-incremental-", "-full-")[:-6] + "abcdef"
    forged = f"2099{forged[4:]}"
    target = signed.place(0).with_name(forged)
    shutil.copytree(signed.place(0), target)
    change_manifest(target, id=forged, note="forged")
    proof = json.loads(next((target / "proofs").iterdir()).read_text()) | {"id": forged}
    next((target / "proofs").iterdir()).write_text(json.dumps(proof))

    backup = signed.repository.load("default", forged)
    assert backup.damaged and backup.verified_at is None and backup.proofs == ()
    assert [problem.code for problem in backup.problems] == ["unvouched"]
    assert signed.repository.find("latest", None).id == signed.ids[1]
    with pytest.raises(DamageFound, match="Nothing vouches for"):
        restore_to(signed.repository, backup, signed.folder / "restored", context())
    assert not (signed.folder / "restored").exists()
    # Its bytes are sound, and that does not make it real
    verified = signed.run("verify", forged)
    assert verified.code == 5 and "not signed" in verified.out
    made = signed.back_up("incremental")
    assert made.manifest.parent == signed.ids[1]


def test_an_incremental_without_a_signed_parent_is_full(signed):
    for number in (0, 1):
        change_manifest(signed.place(number), note="replaced")
    request = Request(sources=(Source(kind=SourceKind.SQLITE, name="app", path=signed.database),), kind=BackupKind.INCREMENTAL)
    created = create_backup(signed.repository, request, context())
    assert created.backup.manifest.kind is BackupKind.FULL
    assert "Nothing vouches for" in created.reason


def test_a_replaced_manifest(signed):
    change_manifest(signed.place(0), note="replaced")
    full, incremental = signed.load(0), signed.load(1)
    assert full.problems[0].code == "unvouched" and "not the one that was signed" in full.problems[0].message
    assert incremental.problems[0].lies_in == full.id  # what it needs is not what it was made on
    with pytest.raises(EngineError):
        signed.repository.find("latest", None)


def test_a_proof_of_another_backup(signed):
    proof = next((signed.place(0) / "proofs").iterdir())
    (signed.place(1) / "proofs" / proof.name).write_bytes(proof.read_bytes())
    own = json.loads(proof.read_text()) | {"id": signed.ids[1], "depth": "restore"}
    (signed.place(1) / "proofs" / f"2099{proof.name[4:]}").write_text(json.dumps(own))
    assert signed.load(1).verification == "hashes"


def test_a_removed_or_renamed_failure_turns_nothing_green(signed):
    now = datetime.now(UTC) + timedelta(seconds=1)
    found = signed.load(0).manifest.problems
    failed = Proof(id=signed.ids[0], time=now, ok=False, depth=Depth.RESTORE, seconds=1, bytes=1, problems=found)
    signed.repository.record_proof("default", failed)
    assert signed.load(0).verification == "damaged"
    good, bad = sorted((signed.place(0) / "proofs").iterdir())
    good.rename(good.with_name(f"2099{good.name[4:]}"))
    assert signed.load(0).verification == "damaged"
    bad.unlink()
    assert signed.load(0).verification == "none" and ("lost_proofs", signed.ids[0]) in signed.noticed
    verify_backup(signed.repository, signed.load(0), Depth.RESTORE, context())
    assert signed.load(0).verification == "restore"


def copies(signed: Signed, count: int) -> list[str]:
    """The ids of further published backups, made of the archive of the first."""
    original = signed.repository.read("default", signed.ids[0]).manifest
    made = []
    for number in range(count):
        stamp = f"2026120{number // 10 + 1}T0000{number % 10}0Z"
        manifest = original.model_copy(update={"id": f"{stamp}-full-{number:06x}"})
        repository = signed.repository
        staged = repository.stage(manifest.id, "copy")
        (staged / DATA).write_bytes((signed.place(0) / DATA).read_bytes())
        repository.publish(staged, manifest)
        made.append(manifest.id)
    return made


def test_removed_backups_are_named(signed):
    ids = [*signed.ids, *copies(signed, 12)]
    for backup_id in ids[2:]:
        shutil.rmtree(signed.repository.backup_folder("default", backup_id))
        (signed.folder / "repository/trash" / f"20261202T000000Z.default.{backup_id}").mkdir()  # as if they had been deleted
    assert {one for code, one in signed.noticed if code == "vanished"} == set(ids[2:])
    assert signed.repository.deleted({("default", one) for one in ids[2:]}) == set()
    verified = signed.run("verify", "--all")
    assert verified.code == 5 and all(one in verified.out for one in ids[2:])
    doctor = signed.run("doctor")
    assert doctor.code == 1 and ids[2] in doctor.out
    assert ids[2] in signed.run("list").out


def test_a_deletion_with_the_key_is_none_of_that(signed):
    incremental = signed.load(1)
    delete(signed.repository, incremental, context())
    assert signed.noticed == [] and signed.repository.deleted({("default", incremental.id)}) == {("default", incremental.id)}
    # Brought back by an attacker, it does not belong to the set
    trashed = next((signed.folder / "repository/trash").glob(f"*.{incremental.id}"))
    trashed.rename(signed.repository.backup_folder("default", incremental.id))
    assert "it was deleted" in signed.repository.load("default", incremental.id).problems[0].message


def test_the_whole_repository_rolled_back(signed):
    earlier = signed.folder / "earlier"
    shutil.copytree(signed.folder / "repository", earlier)
    change_rows(signed.database, "newest", [9])
    newest = signed.back_up("incremental", verify=Depth.HASHES)
    shutil.rmtree(signed.folder / "repository")
    earlier.rename(signed.folder / "repository")
    assert [code for code, _ in signed.noticed] == ["journal"] and "rolled back" in signed.run("doctor").out
    assert signed.load(1).verification == "none"  # real, and nothing is proven
    assert signed.repository.deleted({("default", newest.id)}) == set()
    assert signed.back_up().verification == "none"  # backups go on
    assert [code for code, _ in signed.noticed] == ["journal"]


@pytest.mark.parametrize("how", ["edited", "removed", "cut", "appended", "foreign", "gone"])
def test_an_edited_journal(signed, how):
    lines = signed.journal.read_bytes().splitlines(keepends=True)
    if how == "edited":
        lines[1] = lines[1].replace(b'"do":"proof"', b'"do":"hold"')
    elif how == "removed":
        del lines[1]
    elif how == "cut":
        del lines[-1]
    elif how == "appended":
        lines.append(lines[-1].replace(b'"n":4', b'"n":5'))
    elif how == "foreign":
        lines = [line.replace(b'"set":"default"', b'"set":"another"') for line in lines]
    signed.journal.write_bytes(b"".join(lines))
    if how == "gone":
        signed.journal.unlink()
    assert [code for code, _ in signed.noticed] == ["journal"]
    assert signed.load(0).verification == ("restore" if how == "appended" else "none")
    assert not signed.load(0).damaged  # its own statement tells that it is real
    adopt(signed.repository, context())
    assert signed.noticed == [] and signed.load(0).verification == "restore"


def test_a_journal_of_45_mib(signed):
    with signed.journal.open("r+b") as file:
        file.truncate(45 << 20)
    assert signed.noticed == [("journal", None)] and not signed.load(0).damaged
    assert "at most" in suspicions(signed.repository, "default")[0].message


def test_a_link_or_pipe_in_the_place_of_a_journal(signed):
    signed.journal.unlink()
    os.mkfifo(signed.journal)
    assert signed.noticed == [("journal", None)]
    signed.back_up()
    assert adopt(signed.repository, context()).left_out == [] and signed.noticed == []


@pytest.mark.parametrize("step", ["published", "journal"])
def test_a_kill_between_publishing_and_the_journal(signed, step):
    killed = signed.run("create", "--no-verify", "--sqlite", f"app={signed.database}", REFBACKUP_FAULT=f"{step}:kill")
    assert killed.code < 0 and len(signed.ids) == 3
    backup = signed.load(2)
    assert not backup.damaged and signed.noticed == []
    assert backup.id.encode() not in signed.journal.read_bytes()
    verify_backup(signed.repository, backup, Depth.HASHES, context())
    assert signed.load(2).verification == "hashes"
    lines = [json.loads(line) for line in signed.journal.read_bytes().splitlines()]
    assert [(line["do"], line["id"]) for line in lines[-2:]] == [("backup", backup.id), ("proof", backup.id)]


def test_a_torn_last_line(signed):
    with signed.journal.open("ab") as file:
        file.write(b'{"n": 5, "prev')
    assert signed.noticed == []
    signed.repository.set_hold(signed.load(0), Hold(time=datetime.now(UTC), note="real"))
    assert signed.noticed == [] and signed.load(0).hold.signed


def test_holds(signed):
    planted = Hold(time=datetime.now(UTC), note="for the auditor")
    (signed.place(1) / "hold.json").write_text(planted.model_dump_json())
    assert signed.noticed == [("tampered_hold", signed.ids[1])]
    assert not signed.load(1).damaged and signed.load(1).hold.reason == "for the auditor (nobody signed this hold)"
    signed.repository.set_hold(signed.load(1), None)
    signed.repository.set_hold(signed.load(0), planted)
    assert signed.noticed == [] and signed.load(0).hold.reason == "for the auditor"
    (signed.place(0) / "hold.json").unlink()  # it holds all the same: what retention keeps is not for others to say
    assert signed.noticed == [("tampered_hold", signed.ids[0])] and signed.load(0).hold is not None
    signed.repository.set_hold(signed.load(0), None)
    assert signed.noticed == [] and signed.load(0).hold is None


def test_another_set_and_another_repository(signed):
    shutil.copytree(signed.folder / "repository/backups/default", signed.folder / "repository/backups/forged")
    shutil.rmtree(signed.place(0))
    for backup_id in signed.repository.ids("forged"):
        change_manifest(signed.repository.backup_folder("forged", backup_id), set="forged")
    assert all(backup.damaged for backup in signed.repository.backups("forged"))
    other = initialise(signed.folder / "other", datetime.now(UTC), signed.keys)
    shutil.copytree(signed.place(0), other.backup_folder("default", signed.ids[0]))
    assert other.load("default", signed.ids[0]).damaged


def test_without_the_key_everything_works_and_says_so(signed):
    signed.key.unlink()
    repository = open_repository(signed.folder / "repository", keys_for(signed.folder / "repository", signed.key))
    backup = repository.find("latest", None)
    assert backup.verification == "hashes" and is_unchecked(repository, backup)
    restored = signed.run("restore", "latest", "--to", signed.folder / "restored")
    assert restored.code == 0 and "Nothing vouches for" in restored.err
    # A new key finds nothing that it could speak against
    make_key(signed.key)
    shutil.rmtree(signed.key.with_name("signing_key.heads"))
    assert is_unchecked(signed.repository, signed.load(1)) and signed.load(1).verification == "hashes"
    asked = signed.run("adopt")
    assert asked.code == 2 and "--yes" in asked.err
    assert signed.run("adopt", "--yes").code == 0
    assert signed.load(1).verification == "hashes" and not is_unchecked(signed.repository, signed.load(1))
    assert signed.noticed == []


def test_an_unsigned_repository_stays_as_it_was(tmp_path):
    make_database(tmp_path / "app.sqlite3", 10)
    folder = tmp_path / "repository"
    initialise(folder, datetime.now(UTC))
    source = Source(kind=SourceKind.SQLITE, name="app", path=tmp_path / "app.sqlite3")
    make_key(tmp_path / "key")  # made for another repository
    keys = keys_for(folder, tmp_path / "key")
    backup = back_up(open_repository(folder, keys), (source,), verify=Depth.HASHES)
    assert {file.name for file in (folder / "backups/default").iterdir()} == {backup.id}
    assert {file.name for file in (folder / "backups/default" / backup.id).iterdir()} == {DATA, MANIFEST, SUMS, "proofs"}
    opened = open_repository(folder, keys)
    assert opened.load("default", backup.id).verification == "hashes" and suspicions(opened, "default") == []
    adopt(opened, context())
    assert open_repository(folder, keys).load("default", backup.id).verification == "hashes"
    change_manifest(folder / "backups/default" / backup.id, note="replaced")
    assert open_repository(folder, keys).load("default", backup.id).damaged


def test_another_host_trusts_the_public_key(signed):
    import base64

    public = base64.b64encode(signed.keys.public[signed.keys.own].public_bytes_raw()).decode()
    elsewhere = Path(signed.folder / "elsewhere" / "signing_key")
    keys = read_keys(elsewhere, [public])
    assert keys is not None and keys.private is None
    opened = open_repository(signed.folder / "repository", keys)
    assert opened.load("default", signed.ids[0]).verification == "restore"
    change_manifest(signed.place(0), note="replaced")
    assert open_repository(signed.folder / "repository", keys).load("default", signed.ids[0]).damaged
    with pytest.raises(UsageError):
        read_keys(elsewhere, ["bm90IGEga2V5"])


def test_a_long_journal_becomes_a_state(signed, monkeypatch):
    monkeypatch.setattr("backups.engine.evidence.journal.LEAST_BEFORE_STATE", 2000)
    repository, before = signed.repository, signed.load(0)
    hold = Hold(time=datetime.now(UTC), note="held")
    for number in range(12):
        repository.set_hold(before, hold if number % 2 == 0 else None)
    repository.set_hold(before, hold)
    lines = [json.loads(line) for line in signed.journal.read_bytes().splitlines()]
    assert lines[0]["do"] == Do.STATE and len(lines) < 12 and lines[-1]["n"] > 16
    assert signed.noticed == [] and signed.load(0).hold is not None
    assert [signed.load(number).verification for number in (0, 1)] == ["restore", "hashes"]


def test_the_recovery_script_judges_too(signed, monkeypatch):
    monkeypatch.setenv("BACKUP_SIGNING_KEY", str(signed.key))
    locations = read_locations(repository=str(signed.folder / "repository"))
    change_manifest(signed.place(1), note="replaced")
    assert locations.open_repository().find("latest", None).id == signed.ids[0]
    assert locations.child_environment()["BACKUP_SIGNING_KEY"] == str(signed.key)


def test_keys_that_are_refused(signed):
    signed.key.chmod(0o640)
    with pytest.raises(UsageError, match="read by others"):
        keys_for(signed.folder / "repository", signed.key)
    inside = signed.folder / "repository" / "key"
    with pytest.raises(UsageError, match="inside the repository"):
        keys_for(signed.folder / "repository", inside, make=True)
    assert not inside.exists()
    signed.key.chmod(0o600)
    signed.key.write_text("not a key")
    refused = signed.run("list")
    assert refused.code == 2 and "not an Ed25519 private key" in refused.err
