"""Backups that only recipients can read: nothing shows the data, every exchange is noticed, and no key loss is a surprise."""

import json
import os
import shutil
import stat
from dataclasses import replace
from datetime import timedelta

import pytest

from backups.engine.encryption.chain import ENVELOPE, Recipient, envelope, new_chain, parse_public
from backups.engine.encryption.identity import make_identity, public_of, read_identity, recovery_key_in
from backups.engine.encryption.keyring import read_keyring
from backups.engine.errors import DamageFound, EngineError, KeyMissing, UsageError
from backups.engine.names import MANIFEST
from backups.engine.prune import prune
from backups.engine.recipients import (
    add_recipient,
    check_kit,
    encryption_findings,
    opened_by_kit,
    remove_recipient,
    rotate,
    switch_on,
)
from backups.engine.repository.folder import initialise, open_repository
from backups.engine.repository.retention import Policy
from backups.engine.restore.to_folder import restore_to
from backups.engine.runtime.secret_file import memory_file
from backups.engine.types import Depth, Hold
from backups.engine.verify import verify_backup
from tests.encryption.conftest import SECRETS
from tests.restore.stores import back_up, context, rows_of


def restored(encrypted, backup, repository=None):
    target = encrypted.folder / f"restored-{backup.id}"
    restore_to(repository or encrypted.repository, backup, target, context())
    return rows_of(target / "sqlite/personal-ledger.sqlite3", immutable=True), (
        target / "files/plans/secret-plans.txt"
    ).read_text()


def expected(encrypted):
    return rows_of(encrypted.database), (encrypted.files / "secret-plans.txt").read_text()


def test_nothing_in_the_repository_shows_the_data(encrypted):
    encrypted.repository.set_hold(encrypted.load(0), Hold(time=context().now(), note="a note that says much"))
    files = [file for file in encrypted.place.rglob("*") if file.is_file()]
    assert len(files) > 8
    for file in files:
        shown = file.read_bytes() + str(file.relative_to(encrypted.place)).encode()
        assert not [secret for secret in SECRETS if secret in shown], file
    private = encrypted.key.read_text().splitlines()[1]
    assert not any(private.encode() in file.read_bytes() for file in files)
    assert stat.S_IMODE(encrypted.key.stat().st_mode) == stat.S_IMODE(encrypted.kit.stat().st_mode) == 0o600
    assert private not in repr(encrypted.keyring) and encrypted.load(0).hold.note == "a note that says much"
    chain = encrypted.repository.sealing.chain_of(encrypted.load(0).manifest)
    assert chain.key.hex() not in repr(chain) and str(chain.key) not in repr(chain)


def test_no_plain_data_is_written_to_the_repository_meanwhile(encrypted, monkeypatch):
    """Copies that are captured, and restores that are tested, lie beside the key."""
    places = []
    make = type(encrypted.repository).scratch_folder

    def watched(self, token):
        places.append(self.scratch)
        return make(self, token)

    monkeypatch.setattr(type(encrypted.repository), "scratch_folder", watched)
    encrypted.back_up(verify=Depth.RESTORE)
    assert len(places) == 2 and all(place.parent == encrypted.key.parent for place in places)
    assert not list(encrypted.key.with_name("encryption_key.scratch").iterdir())


def test_backups_are_restored_verified_and_continued(encrypted):
    assert [encrypted.load(number).verification for number in (0, 1)] == ["restore", "hashes"]
    assert restored(encrypted, encrypted.load(1)) == expected(encrypted)
    third = encrypted.back_up("incremental", verify=Depth.RESTORE)
    assert third.manifest.parent == encrypted.ids[1] and third.verification == "restore"
    assert third.manifest.bytes_stored < 10_000
    assert third.manifest.encryption.chain == encrypted.ids[0]
    fourth = encrypted.back_up()
    assert fourth.manifest.encryption.chain == fourth.id
    assert fourth.manifest.encryption.commitment != third.manifest.encryption.commitment


def test_without_a_key_everything_that_can_be_said_is_said(encrypted):
    repository = open_repository(encrypted.place)
    backup = repository.find("latest", None)
    assert backup.manifest.locked and not backup.damaged and backup.verification == "hashes"
    assert backup.manifest.parent == encrypted.ids[0] and backup.manifest.sources == ()
    with pytest.raises(KeyMissing, match=r"Recipients: .*, recovery") as refused:
        restore_to(repository, backup, encrypted.folder / "out", context())
    assert refused.value.exit_code == 10 and refused.value.details["recipients"][-1] == "recovery"
    with pytest.raises(KeyMissing):
        verify_backup(repository, backup, Depth.HASHES, context())
    assert not (encrypted.folder / "out").exists()
    pruned = prune(repository, "default", Policy(keep_last=1, verified_floor=0), context(), dry_run=True, trash=timedelta(0))
    assert all(decision.keep for decision in pruned.decisions)  # the newest needs its full backup


def test_commands_without_a_key(encrypted):
    none = encrypted.folder / "nothing"
    listed = encrypted.run("list", "--json", key=none)
    assert listed.code == 0 and [item["encrypted"] for item in json.loads(listed.out)["backups"]] == [True, True]
    assert "no key here opens it" in encrypted.run("list", key=none).out
    assert "no key here opens it" in encrypted.run("show", "latest", key=none).out
    verified = encrypted.run("verify", "--all", key=none)
    assert verified.code == 10 and verified.out.count("ENCRYPTED: its files are as they were written") == 2
    archive = encrypted.backup_folder(1) / "data.tar.zst.enc"
    content = archive.read_bytes()
    archive.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    verified = encrypted.run("verify", "--all", key=none)
    assert verified.code == 5 and "its SHA-256 differs" in verified.out
    archive.write_bytes(content)
    restore = encrypted.run("restore", "latest", "--to", encrypted.folder / "out", key=none)
    assert (
        restore.code == 10
        and "Recipients: " in restore.err
        and f"{none} does not exist" in restore.err
        and not (encrypted.folder / "out").exists()
    )
    again = encrypted.run("restore", "latest", "--to", encrypted.folder / "out", key=encrypted.kit)
    assert again.code == 0, again.err


def test_another_key_opens_nothing(encrypted):
    other = encrypted.folder / "other_key"
    make_identity(other)
    repository = open_repository(encrypted.place, None, read_keyring(other, encrypted.place))
    with pytest.raises(KeyMissing, match="no key here opens them"):
        restore_to(repository, repository.find("latest", None), encrypted.folder / "out", context())


def test_the_recovery_kit_alone_restores(encrypted):
    shutil.rmtree(encrypted.key.with_name("encryption_key.recipients"))
    encrypted.key.unlink()
    typed = encrypted.folder / "typed"
    key = recovery_key_text(encrypted)
    typed.write_text("  " + key.lower().replace("-", " ").replace("i", "1"))
    typed.chmod(0o600)
    repository = open_repository(encrypted.place, None, read_keyring(typed, encrypted.place))
    assert restored(encrypted, repository.find("latest", None), repository) == expected(encrypted)


def recovery_key_text(encrypted):
    lines = encrypted.kit.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith("RBKEY-"))
    return lines[first].strip() + lines[first + 1].strip()


def test_a_recovery_key_with_a_wrong_letter(encrypted):
    key = recovery_key_text(encrypted)
    assert recovery_key_in(key) is not None and recovery_key_in("no key") is None
    for wrong in (key[:-1], key[:8] + ("A" if key[8] != "A" else "B") + key[9:], key[:12]):
        with pytest.raises(UsageError, match="wrong or missing letter"):
            recovery_key_in(wrong)


def test_nothing_is_encrypted_before_the_kit_is_read_back(encrypted):
    shutil.rmtree(encrypted.place)
    other = encrypted.kit.read_text()
    shutil.rmtree(encrypted.key.parent)
    assert encrypted.run("init").code == 0
    kit = encrypted.folder / "new.txt"
    made = encrypted.run("key", "init", "--kit", kit)
    assert made.code == 0 and "Nothing is encrypted yet" in made.out and "RBKEY" not in made.out
    assert encrypted.back_up().manifest.encryption is None
    with pytest.raises(UsageError, match="not the recovery key of this repository"):
        check_kit(encrypted.repository, encrypted.keyring, other, context())
    assert encrypted.back_up().manifest.encryption is None
    checked = encrypted.run("key", "check", "--kit", kit)
    assert checked.code == 0 and "Encryption is on" in checked.out
    created = encrypted.run("create", "--sqlite", encrypted.database, "--kind", "incremental")
    assert created.code == 0 and "is not encrypted" in created.err  # why it became a full backup
    assert encrypted.repository.find("latest", None).manifest.encryption is not None
    assert encrypted.run("key", "init", "--kit", encrypted.folder / "third.txt").code == 2


def test_no_backup_becomes_plain_because_the_key_is_lost(encrypted):
    """Removing what this host remembers, or its setting, does not make it store plain data."""
    shutil.rmtree(encrypted.key.with_name("encryption_key.recipients"))
    with pytest.raises(KeyMissing, match="does not know for whom"):
        encrypted.back_up()
    with pytest.raises(KeyMissing, match="does not know for whom"):
        encrypted.back_up("incremental")
    assert len(encrypted.ids) == 2
    refused = encrypted.run("create", "--sqlite", encrypted.database, key=encrypted.folder / "nothing")
    assert refused.code == 10 and "No backup was made" in refused.err


def test_what_this_host_remembers_must_be_readable(encrypted):
    remembered = memory_file(encrypted.key, "recipients", encrypted.place)
    remembered.write_text('{"repository": "x", "recipients": [{"name": "host", "public": "short"}]}')
    with pytest.raises(EngineError, match="for whom backups are encrypted"):
        _ = encrypted.keyring


# An attacker with write access to the repository


def change_manifest(folder, **more):
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | more))


@pytest.mark.parametrize(
    "change",
    [
        {"time": "2020-01-01T00:00:00Z"},
        {"safety": True},
        {"kind": "snapshot"},
        {"sealed": ""},
        {"sealed": "AAAA"},
        {"encryption": {"chain": "20260101T000000Z-full-000001", "commitment": "0" * 64}},
        {"note": "planted"},
        {"data": {"bytes": 1, "sha256": "0" * 64}},
        {"mixed": None},
    ],
    ids=str,
)
def test_a_changed_manifest(encrypted, change):
    change_manifest(encrypted.backup_folder(1), **change)
    with pytest.raises(DamageFound):
        encrypted.load(1)


def test_a_manifest_that_pretends_not_to_be_encrypted(encrypted):
    folder = encrypted.backup_folder(1)
    values = json.loads((folder / MANIFEST).read_bytes())
    del values["encryption"]
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DamageFound):
        encrypted.load(1)


def test_the_record_of_another_backup(encrypted):
    first, second = (json.loads((encrypted.backup_folder(number) / MANIFEST).read_bytes()) for number in (0, 1))
    change_manifest(encrypted.backup_folder(1), sealed=first["sealed"])
    with pytest.raises(DamageFound, match="changed after it was written, or is that of another"):
        encrypted.load(1)
    change_manifest(encrypted.backup_folder(1), **{**first, "id": second["id"]})
    with pytest.raises(DamageFound):
        encrypted.load(1)


def test_archives_exchanged(encrypted):
    third = encrypted.back_up("incremental")
    one, other = (
        encrypted.backup_folder(1) / "data.tar.zst.enc",
        encrypted.place / f"backups/default/{third.id}/data.tar.zst.enc",
    )
    one.write_bytes(other.read_bytes())
    proof = verify_backup(encrypted.repository, encrypted.load(1), Depth.HASHES, context())
    assert not proof.ok and any("decrypted" in problem.message for problem in proof.problems)


def test_a_flipped_bit_is_named_with_what_needs_it(encrypted):
    archive = encrypted.backup_folder(0) / "data.tar.zst.enc"
    content = bytearray(archive.read_bytes())
    content[50_000] ^= 1
    archive.write_bytes(content)
    proof = verify_backup(encrypted.repository, encrypted.load(0), Depth.HASHES, context())
    assert {problem.code for problem in proof.problems} == {"archive", "block"}
    assert all(encrypted.ids[1] in problem.also_in for problem in proof.problems if problem.code == "block")
    with pytest.raises(DamageFound, match="cannot be decrypted"):
        restore_to(encrypted.repository, encrypted.load(0), encrypted.folder / "out", context())
    assert not (encrypted.folder / "out").exists()


def test_an_envelope_of_somebody_else(encrypted):
    """HPKE does not say who sealed: the commitment in the manifests tells a planted key from the real one."""
    owner = public_of(read_identity(encrypted.key), "host")
    planted = new_chain("default", encrypted.ids[0])
    (encrypted.backup_folder(0) / ENVELOPE).write_bytes(envelope(planted, [owner]))
    with pytest.raises(DamageFound, match="not that of its backups"):
        encrypted.load(1)
    (encrypted.backup_folder(0) / ENVELOPE).write_text("{")
    with pytest.raises(DamageFound, match="cannot be read"):
        encrypted.load(1)
    (encrypted.backup_folder(0) / ENVELOPE).unlink()
    with pytest.raises(DamageFound, match="is missing"):
        encrypted.load(1)


def test_proofs_cannot_be_changed_or_moved(encrypted):
    (proof,) = (encrypted.backup_folder(1) / "proofs").iterdir()
    stored = json.loads(proof.read_bytes())
    assert set(stored) == {"id", "time", "ok", "depth", "scope", "drill", "encryption", "sealed"}
    proof.write_text(json.dumps(stored | {"depth": "restore"}))
    assert encrypted.load(1).proofs == ()


# Recipients


def test_a_recipient_added_opens_what_was_there_before(encrypted):
    other = encrypted.folder / "other_key"
    make_identity(other)
    added = add_recipient(encrypted.repository, encrypted.keyring, public_of(read_identity(other), "auditor"), context())
    assert added.done == (encrypted.ids[0],) and not added.left
    repository = open_repository(encrypted.place, None, read_keyring(other, encrypted.place))
    assert restored(encrypted, repository.find("latest", None), repository) == expected(encrypted)
    again = add_recipient(encrypted.repository, encrypted.keyring, public_of(read_identity(other), "auditor"), context())
    assert again.done == added.done  # after a crash
    with pytest.raises(UsageError, match="already"):
        add_recipient(encrypted.repository, encrypted.keyring, public_of(read_identity(other), "another"), context())
    assert encrypted.back_up("incremental").manifest.parent == encrypted.ids[1]


def test_a_recipient_removed_opens_no_new_chain(encrypted):
    other = encrypted.folder / "other_key"
    make_identity(other)
    add_recipient(encrypted.repository, encrypted.keyring, public_of(read_identity(other), "auditor"), context())
    remove_recipient(encrypted.repository, encrypted.keyring, "auditor", context())
    assert "auditor" not in (encrypted.backup_folder(0) / ENVELOPE).read_text()
    created = encrypted.back_up("incremental")
    assert created.manifest.kind == "full"  # the key of the old chain may have been kept
    repository = open_repository(encrypted.place, None, read_keyring(other, encrypted.place))
    assert repository.find("latest", None).manifest.locked
    with pytest.raises(UsageError, match="a loss of the others would lose the backups"):
        remove_recipient(encrypted.repository, encrypted.keyring, "recovery", context())


def test_new_keys_replace_the_old_ones(encrypted):
    before, old_kit = encrypted.key.read_text(), encrypted.kit.read_text()
    kit = encrypted.folder / "host/second.txt"
    rotated = rotate(encrypted.repository, encrypted.keyring, kit, context())
    assert rotated.done == (encrypted.ids[0],) and not rotated.left
    assert encrypted.key.read_text() != before
    assert restored(encrypted, encrypted.load(1)) == expected(encrypted)
    # The old kit is valid until the new one is read back; nothing is sealed to the host's old key
    assert opened_by_kit(encrypted.repository, old_kit) == opened_by_kit(encrypted.repository, kit.read_text()) == (1, [])
    with pytest.raises(UsageError, match="not read back yet"):
        rotate(encrypted.repository, encrypted.keyring, encrypted.folder / "third.txt", context())
    check_kit(encrypted.repository, encrypted.keyring, kit.read_text(), context())
    assert opened_by_kit(encrypted.repository, old_kit) == (0, [encrypted.ids[0]])
    assert opened_by_kit(encrypted.repository, kit.read_text()) == (1, [])
    old = encrypted.folder / "old_key"
    old.write_text(before)
    old.chmod(0o600)
    assert open_repository(encrypted.place, None, read_keyring(old, encrypted.place)).find("latest", None).manifest.locked
    assert encrypted.back_up("incremental").manifest.kind == "full"


def test_the_key_of_the_host_is_lost(encrypted):
    """Backups go on meanwhile; new keys open what is made from then on, and the old kit what was before."""
    encrypted.key.unlink()
    assert [backup.manifest.locked for backup in encrypted.repository.backups()] == [True, True]
    made = encrypted.back_up("incremental", verify=Depth.RESTORE)
    assert (made.manifest.kind, made.verification) == ("full", "restore")
    kit = encrypted.folder / "host/second.txt"
    rotated = rotate(encrypted.repository, encrypted.keyring, kit, context())
    assert rotated.done == (made.id,) and set(rotated.left) == {encrypted.ids[0]}
    check_kit(encrypted.repository, encrypted.keyring, kit.read_text(), context())
    assert restored(encrypted, encrypted.back_up()) == expected(encrypted)
    old = open_repository(encrypted.place, None, read_keyring(encrypted.kit, encrypted.place))
    assert restored(encrypted, old.find(encrypted.ids[1], None), old) == expected(encrypted)


def test_a_copy_made_before_a_rotation_opens_afterwards(encrypted):
    """What could not be sealed again, in a copy or after damage, opens with the key that is kept beside the new one."""
    elsewhere = encrypted.folder / "elsewhere"
    shutil.copytree(encrypted.place, elsewhere)
    (encrypted.backup_folder(0) / ENVELOPE).rename(encrypted.folder / "away")
    kit = encrypted.folder / "host/second.txt"
    rotate(encrypted.repository, encrypted.keyring, kit, context())
    check_kit(encrypted.repository, encrypted.keyring, kit.read_text(), context())
    (encrypted.folder / "away").rename(encrypted.backup_folder(0) / ENVELOPE)
    assert restored(encrypted, encrypted.load(1)) == expected(encrypted)
    shutil.rmtree(encrypted.folder / f"restored-{encrypted.ids[1]}")
    copy = open_repository(elsewhere, None, read_keyring(encrypted.key, elsewhere))
    assert restored(encrypted, copy.find("latest", None), copy) == expected(encrypted)


def test_a_planted_recipient_gets_no_key(encrypted):
    """An attacker adds a key to the envelope, and waits until the host rewrites it."""
    other = encrypted.folder / "other_key"
    make_identity(other)
    planted = public_of(read_identity(other), "evil")
    place = encrypted.backup_folder(0) / ENVELOPE
    content = json.loads(place.read_bytes())
    content["recipients"].append({"name": "evil", "public": planted.text, "sealed": content["recipients"][0]["sealed"]})
    place.write_text(json.dumps(content))
    proof = verify_backup(encrypted.repository, encrypted.load(0), Depth.HASHES, context())
    assert [problem.code for problem in proof.problems] == ["envelope"]
    assert any("names recipients that nobody" in one[1] for one in encryption_findings(encrypted.repository))
    check_kit(encrypted.repository, encrypted.keyring, encrypted.kit.read_text(), context())
    assert "evil" not in place.read_text()
    assert open_repository(encrypted.place, None, read_keyring(other, encrypted.place)).find("latest", None).manifest.locked
    assert verify_backup(encrypted.repository, encrypted.load(0), Depth.HASHES, context()).ok


def test_a_chain_of_somebody_else_is_not_continued(encrypted):
    """A chain can be sealed to a public key by anyone: a host continues only its own."""
    other = encrypted.folder / "other/encryption_key"
    kit = encrypted.folder / "other.txt"
    switch_on(encrypted.repository, read_keyring(other, encrypted.place), kit, context())
    theirs = read_keyring(other, encrypted.place)
    theirs.keep(
        replace(theirs.policy, recipients=(*theirs.policy.recipients, *encrypted.keyring.owners), checked=context().now())
    )
    planted = back_up(open_repository(encrypted.place, None, read_keyring(other, encrypted.place)), encrypted.sources)
    assert not encrypted.repository.load("default", planted.id).manifest.locked
    made = encrypted.back_up("incremental")
    assert made.manifest.parent == encrypted.ids[1] or made.manifest.kind == "full"
    assert made.manifest.encryption.chain != planted.id


def test_a_plain_backup_in_the_place_of_the_parent(encrypted):
    """Its blocks would be taken for the real ones."""
    parent, child = encrypted.ids
    envelope_before = (encrypted.backup_folder(0) / ENVELOPE).read_bytes()
    plain = encrypted.folder / "plain"
    initialise(plain, context().now())
    made = back_up(open_repository(plain), encrypted.sources)
    shutil.rmtree(encrypted.backup_folder(0))
    target = encrypted.place / "backups/default" / parent
    shutil.move(plain / "backups/default" / made.id, target)
    (target / MANIFEST).write_text((target / MANIFEST).read_text().replace(made.id, parent))
    (target / ENVELOPE).write_bytes(envelope_before)
    repository = encrypted.repository
    with pytest.raises(DamageFound, match="not encrypted with the same key"):
        restored(encrypted, repository.load("default", child), repository)


def test_two_full_backups_of_a_host_that_is_no_recipient_in_one_process(encrypted):
    shutil.rmtree(encrypted.place)
    shutil.rmtree(encrypted.key.parent)
    assert encrypted.run("init").code == 0
    switch_on(encrypted.repository, encrypted.keyring, encrypted.kit, context(), host=False)
    check_kit(encrypted.repository, encrypted.keyring, encrypted.kit.read_text(), context())
    repository = encrypted.repository
    for _ in range(2):
        assert back_up(repository, encrypted.sources, verify=Depth.RESTORE).verification == "restore"


def test_the_policy_is_read_when_the_lock_is_held(encrypted):
    """A backup that waited must not encrypt for recipients of an earlier policy."""
    waiting = encrypted.repository
    kit = encrypted.folder / "host/second.txt"
    rotate(encrypted.repository, encrypted.keyring, kit, context())
    made = back_up(waiting, encrypted.sources)
    names = {
        one["public"]
        for one in json.loads((encrypted.place / "backups/default" / made.id / ENVELOPE).read_text())["recipients"]
    }
    assert names == {one.text for one in encrypted.keyring.policy.recipients}


@pytest.mark.parametrize("data", [{}, "x", None], ids=str)
def test_visible_fields_of_another_form(encrypted, data):
    change_manifest(encrypted.backup_folder(1), data=data)
    for repository in (encrypted.repository, open_repository(encrypted.place)):
        with pytest.raises(DamageFound):
            repository.load("default", encrypted.ids[1])
        assert len(repository.scan("default")) == 2


def test_keys_that_give_no_secret_are_no_public_keys(encrypted):
    assert encrypted.run("key", "add", "auditor", "A" * 43 + "=").code == 2
    assert parse_public("A" * 43 + "=") is None and parse_public("") is None
    assert encrypted.back_up().manifest.encryption is not None


def test_a_locked_backup_is_held_without_a_note(encrypted):
    none = encrypted.folder / "nothing"
    assert encrypted.run("hold", encrypted.ids[0], key=none).code == 0
    assert encrypted.run("hold", encrypted.ids[0], "--note", "why", key=none).code == 10
    assert encrypted.load(0).hold is not None


@pytest.mark.slow
def test_a_rotation_killed_at_any_write(encrypted):
    """Afterwards this host and the old kit open everything, and reading the new kit back, or another rotation, ends it."""
    for step in range(1, 20):
        old_kit, kit = encrypted.kit.read_text(), encrypted.folder / f"host/kit-{step}.txt"
        killed = encrypted.run("key", "rotate", "--kit", kit, fault=f"rename@{step}:kill")
        assert restored(encrypted, encrypted.load(1)) == expected(encrypted)
        shutil.rmtree(encrypted.folder / f"restored-{encrypted.ids[1]}")
        assert opened_by_kit(encrypted.repository, old_kit) == (1, [])
        if encrypted.keyring.policy.named("recovery-before") is not None:
            check_kit(encrypted.repository, encrypted.keyring, kit.read_text(), context())
            assert not encrypted.key.with_name("encryption_key.next").exists()
            assert opened_by_kit(encrypted.repository, old_kit)[0] == 0
            encrypted.kit = kit
        if killed.code == 0:
            break
    assert step > 4
    assert len(json.loads((encrypted.backup_folder(0) / ENVELOPE).read_text())["recipients"]) == 2
    assert len(encrypted.keyring.owners) == 1


def test_the_chains_of_other_hosts_keep_their_recipients(encrypted):
    other = encrypted.folder / "other/encryption_key"
    keyring = read_keyring(other, encrypted.place)
    switch_on(encrypted.repository, keyring, encrypted.folder / "other.txt", context())
    check_kit(
        encrypted.repository, read_keyring(other, encrypted.place), (encrypted.folder / "other.txt").read_text(), context()
    )
    theirs = open_repository(encrypted.place, None, read_keyring(other, encrypted.place))
    backup = back_up(theirs, encrypted.sources, set="other")
    place = encrypted.place / "backups/other" / backup.id / ENVELOPE
    before = place.read_bytes()
    rotate(encrypted.repository, encrypted.keyring, encrypted.folder / "host/second.txt", context())
    assert place.read_bytes() == before


def test_a_host_that_is_no_recipient_reads_the_chain_that_it_continues(encrypted):
    shutil.rmtree(encrypted.place)
    shutil.rmtree(encrypted.key.parent)
    assert encrypted.run("init").code == 0
    switch_on(encrypted.repository, encrypted.keyring, encrypted.kit, context(), host=False)
    check_kit(encrypted.repository, encrypted.keyring, encrypted.kit.read_text(), context())
    assert not encrypted.key.exists()
    first = encrypted.back_up(verify=Depth.RESTORE)
    second = encrypted.back_up("incremental", verify=Depth.RESTORE)
    assert (first.verification, second.verification, second.manifest.parent) == ("restore", "restore", first.id)
    third = encrypted.back_up()
    # A thief who takes the server reads one chain
    assert [backup.manifest.locked for backup in encrypted.repository.backups()] == [False, True, True]
    pruned = prune(
        encrypted.repository, "default", Policy(keep_last=1, verified_floor=0), context(), dry_run=False, trash=timedelta(0)
    )
    assert {item.id for item in pruned.decisions if not item.keep} == {first.id, second.id}
    with_kit = open_repository(encrypted.place, None, read_keyring(encrypted.kit, encrypted.place))
    assert restored(encrypted, with_kit.find(third.id, None), with_kit) == expected(encrypted)


def test_a_lost_manifest_is_no_loss(encrypted):
    for number in (0, 1):
        (encrypted.backup_folder(number) / MANIFEST).unlink()
    target = encrypted.folder / "saved"
    saved = encrypted.run("restore", encrypted.ids[1], "--to", target, "--salvage")
    assert saved.code == 0, saved.err
    assert rows_of(target / "sqlite/personal-ledger.sqlite3", immutable=True) == rows_of(encrypted.database)


def test_the_key_lies_outside_the_repository(encrypted):
    inside = encrypted.place / "key"
    shutil.copy2(encrypted.key, inside)
    refused = encrypted.run("list", key=inside)
    assert refused.code == 2 and "lies inside the repository" in refused.err
    encrypted.key.chmod(0o640)
    assert "can be read by others" in encrypted.run("list").err
    kit = encrypted.run("key", "rotate", "--kit", encrypted.place / "kit")
    assert kit.code == 2 and not (encrypted.place / "kit").exists()


def test_wrong_arguments_of_key(encrypted):
    for arguments in (
        ("key", "add", "auditor"),
        ("key", "add", "auditor", "short"),
        ("key", "remove"),
        ("key", "list", "name"),
        ("key", "check", "--no-host"),
        ("key", "rotate"),
    ):
        assert encrypted.run(*arguments).code == 2, arguments
    assert Recipient("auditor", os.urandom(32)).text
    assert encrypted.keyring.policy.checked - context().now() < timedelta(minutes=5)
