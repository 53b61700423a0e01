"""The packer on its own: what it reads, what it need not read, and how deep its deltas go."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from backups.engine.archive.blocks import BLOCK, MAX_DEPTH
from backups.engine.archive.reader import Archives
from backups.engine.archive.table import Entry, EntryType
from backups.engine.capture.packer import Packer
from backups.engine.capture.staging import GRAIN_NS, identify, is_unchanged
from backups.engine.runtime.child import Server
from tests.capture.conftest import Bench, Stores, accounts, files_source, sqlite_source, write_batches
from tests.capture.processes import until
from tests.capture.states import check_state


def settle(*folders: Path) -> None:
    """Wait until the last change of every file is long enough ago for its time stamps to be believed."""
    paths = [path for folder in folders for path in ([folder] if folder.is_file() else folder.rglob("*"))]
    last = max(max(path.stat().st_ctime_ns, path.stat().st_mtime_ns) for path in paths)
    until(lambda: time.time_ns() > last + GRAIN_NS, what="the end of the grain")


class Quiet(Server):
    """A server that nobody listens to."""

    def emit(self, event: str, **values: Any) -> None:
        pass


def read_of(bench: Bench, sources: list[dict[str, Any]], folder: Path, parent: str | None, *, reread: bool = False) -> Any:
    """Pack in this process on top of *parent*, publish nothing, and return the tallies by source."""
    folder.mkdir()
    reader = Packer(Quiet())
    place = (str(folder), str(bench.repository.folder), "default")
    problem = reader.begin("20300101T000000Z-incremental-000000", *place, parent, reread=reread)
    assert problem is None
    return reader.pack(sources, 0, 1 << 40)["sources"]


@pytest.mark.slow
def test_an_unchanged_file_is_not_read(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    for name in ("one", "two", "three"):
        (folder / name).write_bytes(os.urandom(300_000))
    settle(folder)
    parent = bench.create(files_source(folder)).backup
    source = {"kind": "files", "prefix": "files/papers", "path": str(folder), "elsewhere": [], "exclude": []}

    assert read_of(bench, [source], tmp_path / "1", parent.id)["files/papers"]["read"] == 0
    assert read_of(bench, [source], tmp_path / "2", None)["files/papers"]["read"] == 900_000
    assert read_of(bench, [source], tmp_path / "4", parent.id, reread=True)["files/papers"]["read"] == 900_000
    (folder / "two").touch()
    assert read_of(bench, [source], tmp_path / "3", parent.id)["files/papers"]["read"] == 300_000


@pytest.mark.slow
def test_unchanged_stores_are_not_read_and_still_restore(bench: Bench, stores: Stores) -> None:
    settle(stores.database, stores.chroma)
    full = bench.create(*stores.sources).backup
    for _ in range(3):
        backup = bench.create(*stores.sources, kind="incremental").backup
        assert [record.method for record in backup.manifest.sources] == ["unchanged", "unchanged"]
        assert backup.manifest.bytes_stored < 4000
        assert [record.bytes for record in backup.manifest.sources] == [record.bytes for record in full.manifest.sources]
        assert backup.manifest.sources[1].collections == full.manifest.sources[1].collections
    folder = bench.restore(backup)
    check_state([folder / "sqlite/app.sqlite3"], [folder / "chroma/vectors"])
    read = bench.create(*stores.sources, kind="incremental", reread_hours=0.0, verify="restore").backup
    assert [record.method for record in read.manifest.sources] == ["pinned", "cut"]
    assert read.manifest.sources[1].collections == full.manifest.sources[1].collections
    assert read.verification == "restore"
    assert read.manifest.bytes_stored < 4000
    assert bench.create(*stores.sources, kind="incremental", verify="restore").backup.verification == "restore"


@pytest.mark.slow
def test_a_change_of_one_store_leaves_the_other_unread(bench: Bench, stores: Stores) -> None:
    settle(stores.database, stores.chroma)
    bench.create(*stores.sources)
    database = sqlite3.connect(stores.database)
    database.execute("UPDATE paper SET number = number + 1")
    database.commit()
    database.close()
    backup = bench.create(*stores.sources, kind="incremental").backup
    assert [record.method for record in backup.manifest.sources] == ["pinned", "unchanged"]


@pytest.mark.slow
def test_a_change_in_the_log_alone_is_detected(bench: Bench, tmp_path: Path) -> None:
    """The database file itself has not been touched, and yet it is not what it was."""
    path = accounts(tmp_path / "app.sqlite3")
    settle(path)
    bench.create(sqlite_source(path))
    before = path.stat()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE account SET amount = 5 WHERE id = 3")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    backup = bench.create(sqlite_source(path), kind="incremental").backup
    database.close()
    assert backup.manifest.sources[0].method == "pinned"
    restored = sqlite3.connect(bench.restore(backup) / "sqlite/app.sqlite3")
    assert restored.execute("SELECT amount FROM account WHERE id = 3").fetchone() == (5,)
    restored.close()


def test_a_time_stamp_is_trusted_once_its_granularity_has_passed(tmp_path: Path) -> None:
    """Two changes within one tick of the file system's clock bear the same times: only an older one tells something."""
    path = tmp_path / "file"
    path.write_bytes(b"first")
    status = path.stat()
    last = max(status.st_mtime_ns, status.st_ctime_ns)

    def unchanged(captured_at: int) -> bool:
        entry = Entry(
            path="files/x/file",
            kind=EntryType.FILE,
            mode=0o644,
            mtime_ns=status.st_mtime_ns,
            size=5,
            identity=identify(status, captured_at),
        )
        return is_unchanged(entry, status)

    assert not unchanged(last)
    assert not unchanged(last + GRAIN_NS)
    assert unchanged(last + GRAIN_NS + 1)
    path.touch()
    assert not is_unchanged(None, status)


@pytest.mark.slow
def test_a_change_within_the_same_tick_is_seen(bench: Bench, tmp_path: Path) -> None:
    """Same size, same modification time: right after a backup the time stamps are not believed."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for round_ in range(5):
        path = folder / "file"
        path.write_bytes(b"first")
        stamp = path.stat()
        bench.create(files_source(folder), kind="incremental")
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        backup = bench.create(files_source(folder), kind="incremental").backup
        assert (bench.restore(backup) / "files/papers/file").read_bytes() == b"other", round_


@pytest.mark.slow
def test_a_modification_time_that_is_set_back_is_seen(bench: Bench, tmp_path: Path) -> None:
    """Long after the backup: size and modification time are equal, the time of the inode's change is not."""
    folder = tmp_path / "papers"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(b"first")
    settle(folder)
    bench.create(files_source(folder))
    stamp = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns
    backup = bench.create(files_source(folder), kind="incremental").backup
    assert (bench.restore(backup) / "files/papers/file").read_bytes() == b"other"


@pytest.mark.slow
def test_a_file_replaced_by_one_with_the_same_times_is_seen(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "file").write_bytes(b"first")
    stamp = (folder / "file").stat()
    (tmp_path / "other").write_bytes(b"other")
    os.utime(tmp_path / "other", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    settle(folder, tmp_path / "other")
    bench.create(files_source(folder))
    (tmp_path / "other").replace(folder / "file")
    backup = bench.create(files_source(folder), kind="incremental").backup
    assert (bench.restore(backup) / "files/papers/file").read_bytes() == b"other"


class Meddler(Packer):
    """A packer during whose reading of a file something happens to it."""

    def __init__(self, happens: Callable[[Path], None]) -> None:
        super().__init__(Quiet())
        self.happens = happens

    def _changing_file(self, path: str, name: str, root: int, *more: Any) -> None:
        store = self._blocks.store
        place = Path(f"/proc/self/fd/{root}", name)

        def store_and_disturb(descriptor: int, entry: Any, before: Any) -> bool:
            complete = store(descriptor, entry, before)
            if name == "target" and place.exists():
                self.happens(place)
            return complete

        with patch.object(self._blocks, "store", store_and_disturb):
            super()._changing_file(path, name, root, *more)


def append_and_remove(place: Path) -> None:
    with place.open("ab") as file:
        file.write(b"more")
    place.unlink()


def append_and_exchange(place: Path) -> None:
    append_and_remove(place)
    place.symlink_to("/etc/hostname")


def append_and_pipe(place: Path) -> None:
    append_and_remove(place)
    os.mkfifo(place)


def append_and_make_folder(place: Path) -> None:
    append_and_remove(place)
    place.mkdir()


@pytest.mark.parametrize("happens", [append_and_remove, append_and_exchange, append_and_pipe, append_and_make_folder])
def test_a_file_that_disappears_while_it_is_read_leaves_no_trace(bench: Bench, tmp_path: Path, happens: Any) -> None:
    """What had been stored of it is cut off again, and nothing names it."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for name in ("a", "target", "z"):
        (folder / name).write_bytes(name.encode() * 1000)
    (tmp_path / "staged").mkdir()
    reader = Meddler(happens)
    reader.begin("20300101T000000Z-full-000000", str(tmp_path / "staged"), str(tmp_path), "default", None)
    source = {"kind": "files", "prefix": "files/papers", "path": str(folder), "elsewhere": [], "exclude": []}
    tally = reader.pack([source], 0, 0)["sources"]["files/papers"]
    assert tally["files"] == 2
    if happens is append_and_remove:
        assert tally["notes"] == ["target was deleted while the backup ran and is not in it"]
        assert not tally["left_out"]
    else:
        assert [(item["path"], item["reason"]) for item in tally["left_out"]] == [("target", "changed")]
    unpacked = subprocess.run(
        ["tar", "--zstd", "-tf", tmp_path / "staged/data.tar.zst"], capture_output=True, text=True, check=True
    )
    assert unpacked.stdout.split() == ["files/papers/", "files/papers/a", "files/papers/z"]
    assert sorted(reader._tree.entries) == ["files/papers", "files/papers/a", "files/papers/z"]


# Deltas


@pytest.mark.slow
def test_twenty_changes_of_one_block_all_restore_and_deltas_stay_shallow(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(os.urandom(3 * BLOCK + 1000))
    contents, made = [], []
    for number in range(21):
        if number:
            with path.open("r+b") as file:
                file.seek(BLOCK + 37 * number)
                file.write(os.urandom(300))
        contents.append(path.read_bytes())
        made.append(bench.create(files_source(folder), kind="incremental" if number else "full").backup)

    depths = [depth_of(bench, backup.id) for backup in made]
    assert max(depths) == MAX_DEPTH == 8
    assert depths[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 1]
    assert all(backup.manifest.bytes_stored < 12_000 for backup in made[1:])
    for backup, content in zip(made, contents, strict=True):
        assert (bench.restore(backup) / "files/papers/file").read_bytes() == content
        shutil.rmtree(bench.folder / f"restored-{made.index(backup) + 1}")


def depth_of(bench: Bench, backup: str) -> int:
    """How many deltas lie below the second block of the file in *backup*, counted by walking down."""
    with Archives(bench.repository.locate("default")) as archives:
        tree = archives.tree(backup)
        ref = list(tree.refs(tree.entries["files/papers/file"]))[1]
        depth = 0
        while (base := archives.frame(ref).base) is not None:
            assert archives.frame(ref).depth > archives.frame(base).depth
            ref, depth = base, depth + 1
    return depth


@pytest.mark.slow
def test_whole_tables_are_written_at_intervals(bench: Bench, tmp_path: Path) -> None:
    """Partial tables since the last whole one never outgrow it for long, so that few are read to restore."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}").write_bytes(os.urandom(2000))
    whole = []
    for number in range(25):
        for changed in range(12):
            (folder / f"{(number * 7 + changed) % 40}").write_bytes(os.urandom(2000))
        backup = bench.create(files_source(folder), kind="incremental").backup
        data = backup.manifest.data
        whole.append(data.table_whole)
        assert data.partial_bytes <= 2 * data.whole_bytes + data.table_bytes
    assert whole[0]
    assert 2 <= sum(whole) <= 15
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    target = bench.restore(backup) / "files/papers"
    assert {path.name: path.read_bytes() for path in target.iterdir()} == wanted


def test_a_damaged_parent_is_skipped_and_the_reason_logged(bench: Bench, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3")
    only = bench.create(sqlite_source(path)).backup
    archive = bench.repository.backup_folder("default", only.id) / "data.tar.zst"
    with archive.open("r+b") as file:
        file.seek(only.manifest.data.table_offset + 5)
        file.write(b"xxxx")
    created = bench.create(sqlite_source(path), kind="incremental")
    assert created.backup.manifest.kind == "full"
    assert only.id in created.reason
    assert [line for line in bench.lines if "becomes a full backup" in line]


def test_a_damaged_block_of_the_parent_is_stored_again(bench: Bench, tmp_path: Path) -> None:
    """A delta is only made against what can be read; what changed on a damaged block is stored whole."""
    folder = tmp_path / "papers"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(os.urandom(2 * BLOCK))
    parent = bench.create(files_source(folder)).backup
    archive = bench.repository.backup_folder("default", parent.id) / "data.tar.zst"
    with archive.open("r+b") as file:
        file.seek(BLOCK // 2)
        file.write(b"damage")
    with path.open("r+b") as file:
        file.write(b"changed in the damaged block")
    created = bench.create(files_source(folder), kind="incremental").backup
    assert (bench.restore(created) / "files/papers/file").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_snapshots_hold_sqlite_alone_and_are_never_parents(bench: Bench, stores: Stores) -> None:
    full = bench.create(*stores.sources).backup
    snapshot = bench.create(*stores.sources, kind="snapshot").backup
    assert [record.kind for record in snapshot.manifest.sources] == ["sqlite"]
    assert bench.latest() == full.id
    assert bench.create(*stores.sources, kind="incremental").backup.manifest.parent == full.id


@pytest.mark.slow
def test_collections_come_and_go_between_incrementals(bench: Bench, stores: Stores, tmp_path: Path) -> None:
    """A second index beside the first, then without it again."""
    bench.create(*stores.sources)
    other = tmp_path / "other"
    write_batches([tmp_path / "other.sqlite3"], [other], most=30, seed=5)
    (segment,) = [entry for entry in other.iterdir() if entry.is_dir()]
    shutil.copytree(segment, stores.chroma / segment.name)
    with_it = bench.create(*stores.sources, kind="incremental").backup
    assert (bench.restore(with_it) / "chroma/vectors" / segment.name / "header.bin").exists()
    shutil.rmtree(stores.chroma / segment.name)
    without = bench.create(*stores.sources, kind="incremental", verify="restore").backup
    assert not (bench.restore(without) / "chroma/vectors" / segment.name).exists()
    assert without.verification == "restore"
