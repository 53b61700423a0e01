"""Copies of backups in a second repository: complete and verified, or absent."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
from datetime import UTC, datetime, timedelta

import pytest

from backups.engine.cli import main
from backups.engine.copies import copy_backups
from backups.engine.encryption.keyring import read_keyring
from backups.engine.errors import Cancelled, EngineError, NoSpace, RepositoryLocked, UsageError
from backups.engine.names import DATA, MANIFEST
from backups.engine.prune import delete, prune
from backups.engine.repository.arrivals import Arrival
from backups.engine.repository.folder import initialise, open_repository
from backups.engine.repository.retention import Policy
from backups.engine.repository.suspicion import suspicions
from backups.engine.runtime import durable
from backups.engine.types import Depth, Hold, Problem, Proof
from tests.restore.stores import change_rows, context, rows_of, verified
from tests.trust.signed import change_manifest


def assert_complete(places, expected=None):
    """Everything is there: as it was written, in chains, signed and proven, and nothing is left to do."""
    assert places.ids == (places.here.ids if expected is None else expected)
    for backup in places.far.backups("default"):
        assert_sound(places, backup)
        assert backup.verification == "hashes", backup.problems
    assert not suspicions(places.far, "default")
    assert not list((places.folder / "arriving").iterdir())


def assert_sound(places, backup):
    manifest = places.folder / "backups/default" / backup.id / MANIFEST
    assert hashlib.sha256(manifest.with_name(DATA).read_bytes()).hexdigest() == backup.manifest.data.sha256
    assert manifest.read_bytes() == places.here.repository.read_manifest("default", backup.id)
    assert backup.manifest.parent is None or backup.manifest.parent in places.ids


FILES = {MANIFEST, DATA, "SHA256SUMS", "signature.json", "origin.json", "hold.json", "proofs"}


def flip(path, offset=200):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# What a copy is


def test_a_copy_has_the_bytes_the_holds_and_a_proof_of_its_own(places):
    here = places.here
    here.repository.set_hold(here.load(1), Hold(time=datetime.now(UTC), note="before the move"))
    assert here.load(0).verification == "restore"
    done = places.copy()
    assert [one for _, one in done.copied] == here.ids
    assert_complete(places)
    assert places.far.load("default", here.ids[0]).verification == "hashes", "a proof there is no proof of the copy"
    assert places.far.load("default", here.ids[1]).hold.reason == "before the move"
    assert places.place(0).joinpath("origin.json").read_bytes() == here.place(0).joinpath("signature.json").read_bytes()
    again = places.copy()
    assert (again.copied, again.present, again.sent) == ((), 2, 0)


def test_a_copy_restores_without_the_first_repository(places, tmp_path):
    places.copy()
    shutil.rmtree(places.here.folder / "repository")
    assert main(["restore", "latest", f"--repo={places.folder}", f"--to={tmp_path / 'back'}", "--progress=none"]) == 0
    assert rows_of(tmp_path / "back/sqlite/app.sqlite3") == rows_of(places.here.database)


def test_a_removed_copy_is_noticed(places):
    places.copy()
    shutil.rmtree(places.place(1))
    assert [problem.lies_in for problem in suspicions(places.far, "default")] == [places.here.ids[1]]


def test_later_backups_and_chosen_ones_bring_what_they_need(places):
    places.copy([1])
    assert_complete(places)
    change_rows(places.here.database, "third", [9])
    places.here.back_up("incremental")
    assert len(places.copy().copied) == 1
    assert_complete(places)


def test_a_copy_of_a_copy_keeps_the_first_signature(places):
    places.copy()
    third = initialise(places.here.folder / "third", datetime.now(UTC))
    copy_backups(places.far, third, "default", (), context())
    there = third.backup_folder("default", places.here.ids[0])
    assert (there / "origin.json").read_bytes() == places.here.place(0).joinpath("signature.json").read_bytes()


# Cut short


@pytest.mark.parametrize(
    "step",
    [
        "arrive",
        "publish",
        "published",
        pytest.param("journal", marks=pytest.mark.slow),
        pytest.param("write", marks=pytest.mark.slow),
        pytest.param("rename", marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_step_leaves_complete_backups_and_the_next_copy_completes_it(places, faults, step):
    here = places.here
    here.repository.set_hold(here.load(1), Hold(time=datetime.now(UTC), note="kept"))
    for number in itertools.count(1):
        if not killed_at(places, step, number):
            break
        for backup in places.far.backups("default"):
            assert_sound(places, backup)
        places.copy()
        assert_complete(places)
        assert set(os.listdir(places.place(1))) == FILES
        assert places.far.load("default", here.ids[1]).hold.signed
        for backup_id in here.ids[::-1]:
            forget(places, backup_id)
    assert number > 1


def killed_at(places, step, number):
    """Copy in a child that is killed when it reaches *step* for the *number*-th time; whether it was."""
    child = os.fork()
    if child == 0:
        reached = itertools.count(1)
        durable.FAULTS[step] = lambda: next(reached) == number and os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(BaseException):
            places.copy()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def forget(places, backup_id):
    """As if a backup had never been copied."""
    repository = places.far
    backup = repository.load("default", backup_id)
    repository.set_hold(backup, None)
    delete(repository, backup, context())
    shutil.rmtree(places.folder / "trash")


def test_what_arrived_is_not_sent_again(places, faults):
    size = places.here.load(0).manifest.data.bytes
    assert killed_at(places, "publish", 1)
    done = places.copy([0])
    assert (done.sent, done.resumed) == (0, size)
    assert places.ids == places.here.ids[:1]


def test_the_rest_is_sent_and_damage_of_what_arrived_is_found(places):
    archive = places.here.place(0) / DATA
    size = archive.stat().st_size
    content = archive.read_bytes()
    for arrived, sent in ((content[:5000], size - 5000), (b"\0" * 5000, size - 5000 + size), (content + b"more", size)):
        with places.far.arrivals.receiving(0):
            arrival = places.far.arrivals.of(
                "default", places.here.ids[0], places.here.repository.read_manifest("default", places.here.ids[0])
            )
            arrival.put(DATA, arrived)
        assert places.copy([0]).sent == sent
        assert_complete(places, places.here.ids[:1])
        forget(places, places.here.ids[0])


def test_a_full_disk_keeps_what_arrived(places, faults):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ("arrive", "write", "publish"):
        faults[step] = full
        with pytest.raises(NoSpace, match="0 backups were copied"):
            places.copy()
        faults.clear()
        assert places.ids == []
    places.copy()
    assert_complete(places)


def test_a_cancelled_slow_copy_goes_on(places):
    asked = itertools.count()
    with pytest.raises(Cancelled, match="not sent again"):
        places.copy(ctx=context(should_cancel=lambda: next(asked) > 4), limit=20_000)
    done = places.copy()
    assert 0 < done.resumed < places.here.load(0).manifest.data.bytes
    assert_complete(places)


# Others at work


def test_one_copy_at_a_time_and_a_writer_there_is_waited_for(places):
    with places.far.arrivals.receiving(0), pytest.raises(RepositoryLocked, match="copying"):
        places.copy(wait=0)
    with places.far.writing("create", datetime.now(UTC)), pytest.raises(RepositoryLocked):
        places.copy(wait=0)
    done = places.copy()
    assert done.resumed and len(done.copied) == 2
    assert_complete(places)


def test_nothing_is_pruned_while_it_is_sent_and_backups_are_made(places, faults):
    tried = []

    def meanwhile():
        faults.clear()
        with pytest.raises(RepositoryLocked):
            prune(places.here.repository, "default", Policy(keep_last=1), context(), dry_run=False, trash=timedelta(0))
        tried.append(places.here.back_up())

    faults["arrive"] = meanwhile
    assert len(places.copy().copied) == 2
    assert len(tried) == 1
    assert len(places.copy().copied) == 1
    assert_complete(places)


def test_a_parent_that_is_pruned_there_while_its_child_arrives(places, faults):
    places.copy([0])

    def meanwhile():
        faults.clear()
        delete(places.far, places.far.load("default", places.here.ids[0]), context())

    faults["arrive"] = meanwhile
    done = places.copy()
    assert [(one.id, one.problem.code) for one in done.refused] == [(places.here.ids[1], "missing_file")]
    assert places.ids == []
    assert len(places.copy().copied) == 2, "it is needed, and so it is brought back"
    assert_complete(places)


# Retention there


def test_what_was_pruned_there_comes_back_only_by_its_id(places):
    places.copy()
    for backup_id in places.here.ids[::-1]:
        delete(places.far, places.far.load("default", backup_id), context())
    for _ in range(2):
        done = places.copy()
        assert (done.copied, [one for _, one in done.left_out]) == ((), places.here.ids)
        places.far.empty_trash(datetime.now(UTC), timedelta(0))
    assert len(places.copy([1]).copied) == 2
    assert_complete(places)


# Damage


def test_a_damaged_backup_is_refused_by_name_and_the_others_are_copied(places, capsys, monkeypatch):
    monkeypatch.setenv("BACKUP_SIGNING_KEY", str(places.here.key))
    here = places.here.folder / "repository"
    flip(places.here.place(1) / DATA)
    change_rows(places.here.database, "third", [9])
    full = places.here.back_up().id
    for _ in range(2):  # then it is known to be damaged
        code = main(["copy", f"--from={here}", f"--to={places.folder}", "--json", "--progress=none"])
        answer = json.loads(capsys.readouterr().out)
        assert code == 5
        assert [(one["id"], one["problem"]["code"]) for one in answer["refused"]] == [(places.here.ids[1], "archive")]
        assert places.ids == [places.here.ids[0], full]
    assert places.here.load(1).damaged
    assert not list((places.folder / "arriving").iterdir())


@pytest.mark.parametrize("how", ["archive", "gone", "manifest", "forged"])
def test_nothing_that_needs_a_damaged_backup_is_copied(places, how):
    place = places.here.place(0)
    if how == "archive":
        flip(place / DATA)
    elif how == "gone":
        (place / DATA).unlink()
    elif how == "manifest":
        flip(place / MANIFEST)
    else:
        change_manifest(place, note="another")
    done = places.copy()
    assert [one.id for one in done.refused] == places.here.ids
    assert places.ids == []


def test_a_copy_of_a_damaged_source_counts_as_damaged(places):
    here = places.here
    problem = Problem(code="sqlite_integrity", source="sqlite/app", message="row 7 is missing from an index")
    failed = Proof(
        id=here.ids[1], time=datetime.now(UTC), ok=False, depth=Depth.RESTORE, seconds=1, bytes=1, problems=(problem,)
    )
    here.repository.record_proof("default", failed)
    assert len(places.copy().copied) == 2
    copy = places.far.load("default", here.ids[1])
    assert copy.damaged and copy.failure.blames_source
    assert not places.far.load("default", here.ids[0]).damaged


def test_a_disk_that_returns_other_bytes_publishes_nothing(places, monkeypatch):
    real = Arrival.read_back
    monkeypatch.setattr(Arrival, "read_back", lambda self, name: (piece[:-1] + b"?" for piece in real(self, name)))
    with pytest.raises(EngineError, match="returns other bytes"):
        places.copy()
    assert places.ids == []


# Wrong places


def test_wrong_places_are_refused(places, tmp_path):
    here = str(places.here.folder / "repository")
    assert main(["copy", "--from", here, "--to", here]) == 2
    assert main(["copy", "--from", here, "--to", str(tmp_path / "not mounted")]) == 3
    assert not (tmp_path / "not mounted").exists()
    twin = shutil.copytree(here, tmp_path / "twin")
    with pytest.raises(UsageError, match="same id"):
        copy_backups(places.here.repository, open_repository(twin), None, (), context())
    assert main(["copy", "--from", str(places.folder), "--to", here]) == 4, "nothing to copy"


def test_a_copy_there_is_verified_like_any_backup(places):
    places.copy()
    assert verified(places.far, places.far.load("default", places.here.ids[1]), "restore").ok


def test_an_encrypted_backup_is_copied_without_its_key(made_encrypted, tmp_path):
    far = initialise(tmp_path / "far", datetime.now(UTC))
    done = copy_backups(open_repository(made_encrypted.place), far, None, (), context())
    assert [one for _, one in done.copied] == made_encrypted.ids
    with_key = open_repository(tmp_path / "far", None, read_keyring(made_encrypted.key, tmp_path / "far"))
    backup = with_key.load("default", made_encrypted.ids[1])
    assert backup.verification == "hashes"
    assert verified(with_key, backup, "restore").ok
