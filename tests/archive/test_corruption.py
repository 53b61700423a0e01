"""A repository that rots: every flipped bit, lost file and cut-off file is found, named, and never restored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.archive.blocks import BLOCK
from backups.engine.archive.reader import Archives
from backups.engine.archive.table import FrameRef
from backups.engine.cli import main
from backups.engine.errors import DamageFound, RepositoryMissing
from backups.engine.repository.folder import open_repository
from backups.engine.types import Hold, Proof
from tests.restore.stores import History, copy_of, verified

DATA = "data.tar.zst"


@contextmanager
def flipped(path: Path, offset: int, bit: int = 3) -> Iterator[None]:
    """One bit of a file is another while the context lasts."""
    original = path.read_bytes()
    content = bytearray(original)
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(original)


def run(capsys: Any, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The command in this process: exit code and JSON."""
    code = main([*map(str, arguments), "--json", "--progress=none"])
    return code, json.loads(capsys.readouterr().out)


def archives_of(history: History) -> Archives:
    return Archives(history.repository.locate("default"))


def is_whole(history: History, number: int) -> bool:
    """Whether all that a backup needs can be read at this moment."""
    with archives_of(history) as archives:
        try:
            tree = archives.tree(history.ids[number])
            for entry in tree.entries.values():
                for ref in tree.refs(entry):
                    archives.read(ref)
        except DamageFound:
            return False
    return True


def needing(history: History, number: int) -> tuple[str, ...]:
    """The other backups that cannot be read whole at this moment, newest first: the truth for ``also_in``."""
    return tuple(history.ids[other] for other in (3, 2, 1, 0) if other != number and not is_whole(history, other))


def extents(history: History, number: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Offset and length of each frame of an archive, and of its table."""
    data = history.backup(number).manifest.data
    with archives_of(history) as archives:
        frames = archives.frames(history.ids[number])
        found = [(frames[n].offset, frames[n].stored) for n in range(len(frames))]
    return found, (data.table_offset, data.table_bytes)


def still_reads(mine: History, number: int, frame: int) -> bool:
    """Whether a block of a damaged archive still is, by its hash, what was stored."""
    with archives_of(mine) as archives:
        try:
            archives.read(FrameRef(mine.ids[number], frame))
        except DamageFound:
            return False
    return True


@pytest.mark.parametrize("number", range(4))
@pytest.mark.slow
def test_a_flipped_bit_in_a_block_is_located_and_affected_backups_are_named(mine: History, number: int) -> None:
    blocks, _ = extents(mine, number)
    assert len(blocks) >= (15, 5, 4, 3)[number]
    with archives_of(mine) as archives:
        tree = archives.tree(mine.ids[number])
    path = mine.place(number) / DATA
    seen: set[tuple[str, ...]] = set()
    for frame, (offset, stored) in enumerate(blocks):
        with flipped(path, offset + frame * 37 % stored, frame % 8):
            proof = verified(mine.repository, mine.backup(number), "hashes")
            truth = needing(mine, number)
            harmless = still_reads(mine, number, frame)
        assert not proof.ok
        if harmless:  # a bit that means nothing to zstd: only the archive's sum tells
            assert [problem.code for problem in proof.problems] == ["archive"]
            continue
        users = {
            (entry.path, place * BLOCK)
            for entry in tree.entries.values()
            for place, ref in enumerate(tree.refs(entry))
            if (ref.backup, ref.frame) == (mine.ids[number], frame)
        }
        named = [problem for problem in proof.problems if problem.code == "block"]
        assert {(problem.file, problem.offset) for problem in named} >= users != set()
        assert all(f"byte {offset})" in problem.message for problem in named if (problem.file, problem.offset) in users)
        assert all(problem.also_in == truth for problem in proof.problems), (frame, proof.problems, truth)
        assert proof.problems[0].code == "archive" and proof.problems[0].file == DATA
        seen.add(truth)
    if number < 3:
        assert len(seen) > 1, "some blocks are shared by more backups than others"


@pytest.mark.parametrize("number", range(4))
@pytest.mark.slow
def test_a_flipped_bit_between_blocks_is_located_and_affects_no_other_backup(mine: History, number: int) -> None:
    blocks, table = extents(mine, number)
    path = mine.place(number) / DATA
    at = 0
    gaps = []
    for offset, stored in [*blocks, table]:
        gaps += [(at, offset)] if offset > at else []
        at = offset + stored
    assert at == path.stat().st_size and gaps
    for start, end in gaps:
        for offset in {start, start + 5, (start + end) // 2, end - 1} & {*range(start, end)}:
            with flipped(path, offset):
                proof = verified(mine.repository, mine.backup(number), "hashes")
                truth = needing(mine, number)
            (problem,) = proof.problems
            assert (problem.code, problem.file, problem.also_in) == ("archive", DATA, ()) == ("archive", DATA, truth)
            if problem.offset is None:  # a bit that means nothing to zstd: told as such, and true
                assert "no content changed" in problem.message
            else:
                assert start <= problem.offset <= offset
                assert "no content changed" not in problem.message


@pytest.mark.parametrize("number", range(4))
def test_a_flipped_bit_in_a_table_is_found_and_affected_backups_are_named(mine: History, number: int) -> None:
    _, (offset, stored) = extents(mine, number)
    path = mine.place(number) / DATA
    for place in range(0, stored, max(1, stored // 12)):
        with flipped(path, offset + place):
            proof = verified(mine.repository, mine.backup(number), "hashes")
            truth = needing(mine, number)
        assert {problem.code for problem in proof.problems} == {"archive", "table"}
        assert all(problem.also_in == truth for problem in proof.problems)
        assert proof.problems[1].offset == offset
        assert len(truth) == 3 - number


def test_a_later_backup_that_shares_nothing_with_a_damaged_one_is_not_named(mine: History) -> None:
    """What an incremental replaced in its parent harms the parent alone."""
    blocks, _ = extents(mine, 1)
    replaced = 0
    for offset, _ in blocks:
        with flipped(mine.place(1) / DATA, offset + 3):
            named = verified(mine.repository, mine.backup(1), "hashes").problems[0].also_in
        replaced += mine.ids[3] not in named
    assert replaced


def test_verifying_an_incremental_reads_what_it_needs_from_its_ancestors(mine: History) -> None:
    """Each block of the full backup is damaged in turn; the newest incremental notices exactly the blocks that it uses."""
    blocks, _ = extents(mine, 0)
    with archives_of(mine) as archives:
        tree = archives.tree(mine.ids[3])
        used = set()
        for entry in tree.entries.values():
            for ref in tree.refs(entry):
                step: Any = ref
                while step is not None:  # a block, and what its delta builds on
                    used.add((step.backup, step.frame))
                    step = archives.frame(step).base
    own = {frame for backup, frame in used if backup == mine.ids[0]}
    assert len(own) > 10
    for frame, (offset, _) in enumerate(blocks):
        with flipped(mine.place(0) / DATA, offset + 9):
            proof = verified(mine.repository, mine.backup(3), "hashes")
        assert proof.ok is (frame not in own)
        if not proof.ok:
            assert mine.ids[0] in proof.problems[0].message, "the archive that rots is named"
            assert mine.ids[0] in proof.problems[0].also_in


def test_verify_all_names_every_damaged_backup(mine: History, capsys: Any) -> None:
    blocks, _ = extents(mine, 0)
    with flipped(mine.place(0) / DATA, blocks[0][0] + 9):
        code, answer = run(capsys, "verify", "--all", "--repo", mine.repository.folder)
        assert code == 5 and not answer["ok"]
        bad = {item["id"] for item in answer["results"] if not item["ok"]}
        assert bad == {mine.ids[0], *needing(mine, 0)}


# Manifests, checksums and what is written later


@pytest.mark.slow
def test_a_flipped_bit_in_a_manifest_is_reported_as_damage(mine: History, capsys: Any) -> None:
    path = mine.place(2) / "manifest.json"
    size = path.stat().st_size
    repo = mine.repository.folder
    format_at = path.read_bytes().index(b'"format": 1') + len('"format": ')
    for number, offset in enumerate([format_at, *range(0, size, max(1, size // 120))]):
        with flipped(path, offset, 1 if offset == format_at else number % 7):
            code, answer = run(capsys, "verify", mine.ids[2], "--repo", repo)
            assert code == 5, (offset, answer)
            code, answer = run(capsys, "list", "--repo", repo)
            assert code == 0 and [item["id"] for item in answer["backups"]] == list(reversed(mine.ids))
            code, answer = run(capsys, "restore", mine.ids[2], "--to", "target", "--repo", repo)
            assert code == 5 and answer["error"]["code"] == "damaged"
            assert not Path("target").exists() and not [*Path.cwd().glob(".*partial")]
            if number % 10 == 0:
                code, answer = run(capsys, "verify", "--all", "--repo", repo)
                assert code == 5
                named = next(item for item in answer["results"] if item["id"] == mine.ids[2])
                assert named["problems"][0]["file"] == "manifest.json"


@pytest.mark.slow
def test_a_flipped_bit_in_the_checksums_is_damage(mine: History, capsys: Any) -> None:
    path = mine.place(3) / "SHA256SUMS"
    for offset in range(path.stat().st_size):
        with flipped(path, offset, offset % 8):
            proof = verified(mine.repository, mine.backup(3), "hashes")
            assert not proof.ok
            assert {problem.file for problem in proof.problems} <= {"SHA256SUMS", "manifest.json"}
            assert all(problem.also_in == () for problem in proof.problems)
            if offset % 20 == 0:
                code, _ = run(capsys, "restore", mine.ids[3], "--to", "target", "--repo", mine.repository.folder)
                assert (code == 5 or offset < 78) and (code == 0 or not Path("target").exists())
                if code == 0:  # the checksum of the archive is not needed: each block has its own
                    Path("target").rename(f"target-{offset}")


@pytest.mark.slow
def test_a_flipped_bit_in_a_proof_or_hold_breaks_nothing_and_the_hold_stays(mine: History, capsys: Any) -> None:
    backup = mine.backup(1)
    mine.repository.set_hold(backup, Hold(time=datetime(2026, 1, 1, tzinfo=UTC), note="for the auditor"))
    assert verified(mine.repository, backup, "hashes").ok
    (proof,) = (mine.place(1) / "proofs").glob("*.json")
    for path in (proof, mine.place(1) / "hold.json"):
        for offset in range(path.stat().st_size):
            with flipped(path, offset, offset % 8):
                code, answer = run(capsys, "list", "--repo", mine.repository.folder)
                assert code == 0
                (item,) = (item for item in answer["backups"] if item["id"] == mine.ids[1])
                assert item["hold"] is not None
                assert item["verification"] in ("none", "hashes", "restore", "damaged")
    assert mine.backup(1).verified_at is not None


def test_a_proof_of_another_backup_proves_nothing(mine: History) -> None:
    assert verified(mine.repository, mine.backup(1), "hashes").ok
    (proof,) = (mine.place(1) / "proofs").glob("*.json")
    (mine.place(2) / "proofs").mkdir()
    (mine.place(2) / "proofs" / proof.name).write_bytes(proof.read_bytes())
    assert mine.backup(2).verified_at is None
    assert Proof.model_validate_json(proof.read_bytes()).id == mine.ids[1]


def test_a_flipped_bit_in_repository_json_is_refused_or_harmless(mine: History) -> None:
    path = mine.repository.folder / "repository.json"
    refused = 0
    for offset in range(path.stat().st_size):
        with flipped(path, offset, offset % 8):
            try:
                assert len(open_repository(mine.repository.folder).scan()) == 4
            except RepositoryMissing as problem:  # and RepositoryTooNew
                assert problem.exit_code == 3 and problem.hint
                refused += 1
    assert refused > 10


# Files that are gone, cut off or longer


@pytest.mark.parametrize("name", [DATA, "manifest.json", "SHA256SUMS"])
@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_missing_file_is_named(mine: History, capsys: Any, name: str, number: int) -> None:
    (mine.place(number) / name).unlink()
    repo = mine.repository.folder
    code, answer = run(capsys, "verify", mine.ids[number], "--repo", repo)
    assert code == 5
    if name == "manifest.json":
        assert answer["error"]["id"] == mine.ids[number]
    else:
        problems = answer["results"][0]["problems"]
        assert name in {problem["file"] for problem in problems}
        others = [*reversed(mine.ids[number + 1 :])] if name == DATA else []
        assert next(problem["also_in"] for problem in problems if problem["file"] == name) == others
    code, _ = run(capsys, "restore", mine.ids[number], "--to", "target", "--repo", repo)
    assert code == 5 and not Path("target").exists()
    assert run(capsys, "list", "--repo", repo)[0] == 0


@pytest.mark.parametrize("number", [0, 1])
def test_an_archive_truncated_at_any_length_is_found(mine: History, capsys: Any, number: int) -> None:
    path = mine.place(number) / DATA
    content = path.read_bytes()
    blocks, (table, _) = extents(mine, number)
    lengths = {0, 1, 100, len(content) // 2, table - 1, table, len(content) - 1, *(offset + 5 for offset, _ in blocks[::4])}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        proof = verified(mine.repository, mine.backup(number), "hashes")
        assert {"archive_size", "table"} <= {problem.code for problem in proof.problems}
        assert proof.problems[0].offset == length
        assert proof.problems[0].also_in == needing(mine, number)
        code, _ = run(capsys, "restore", mine.ids[number], "--to", "target", "--repo", mine.repository.folder)
        assert code == 5 and not Path("target").exists()
    path.write_bytes(content + b"more")
    proof = verified(mine.repository, mine.backup(number), "hashes")
    assert [(problem.code, problem.offset) for problem in proof.problems] == [("archive_size", len(content))]


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
@pytest.mark.slow
def test_small_files_truncated_at_any_length_are_damage(mine: History, capsys: Any, name: str) -> None:
    path = mine.place(1) / name
    content = path.read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        assert run(capsys, "verify", mine.ids[1], "--repo", mine.repository.folder)[0] == 5
        assert run(capsys, "list", "--repo", mine.repository.folder)[0] == 0


def test_a_missing_parent_is_named(mine: History, capsys: Any) -> None:
    place = mine.place(0)
    place.rename(place.with_name("elsewhere"))
    for number in (1, 2, 3):
        code, answer = run(capsys, "verify", mine.ids[number], "--repo", mine.repository.folder)
        assert code == 5 and mine.ids[0] in answer["results"][0]["problems"][0]["message"]
        code, answer = run(capsys, "restore", mine.ids[number], "--to", "target", "--repo", mine.repository.folder)
        assert code == 5 and answer["error"]["id"] == mine.ids[0] and not Path("target").exists()
        code, answer = run(capsys, "files", mine.ids[number], "--repo", mine.repository.folder)
        assert code == 5


def test_a_missing_archive_of_a_parent_fails_the_proof(mine: History) -> None:
    (mine.place(0) / DATA).unlink()
    for depth in ("hashes", "restore"):
        proof = verified(mine.repository, mine.backup(3), depth)
        assert not proof.ok and proof.problems[0].also_in == tuple(mine.ids[number] for number in (2, 1, 0))


# What follows from damage


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below *folder* with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_restore_refuses_any_damaged_block_and_leaves_nothing(history: History, tmp_path: Path, capsys: Any) -> None:
    mine = copy_of(history, tmp_path / "copy")
    refused = 0
    for number in range(4):
        blocks, _ = extents(mine, number)
        assert run(capsys, "restore", mine.ids[number], "--to", "target", "--repo", mine.repository.folder)[0] == 0
        sound = contents(tmp_path / "target")
        shutil.rmtree(tmp_path / "target")
        for offset, stored in blocks[:: max(1, len(blocks) // 5)]:
            with flipped(mine.place(number) / DATA, offset + stored // 2):
                code, answer = run(capsys, "restore", mine.ids[number], "--to", "target", "--repo", mine.repository.folder)
                if code == 0:  # a bit that means nothing to zstd: every block still has its hash
                    assert contents(tmp_path / "target") == sound
                    shutil.rmtree(tmp_path / "target")
                    continue
                refused += 1
                assert code == 5 and answer["error"]["id"] == mine.ids[number] and answer["error"]["offset"] == offset
                assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    assert refused > 10


def test_a_partial_restore_needs_only_its_own_blocks(mine: History, capsys: Any) -> None:
    """A block of the database rots; the rest is still restored."""
    with archives_of(mine) as archives:
        tree = archives.tree(mine.ids[3])
        ref = next(iter(tree.refs(tree.entries["sqlite/app.sqlite3"])))
        offset = archives.frame(ref).offset
    path = mine.repository.backup_folder("default", ref.backup) / DATA
    with flipped(path, offset + 9):
        assert run(capsys, "restore", mine.ids[3], "--to", "all", "--repo", mine.repository.folder)[0] == 5
        for only in ("chroma", "files"):
            assert run(capsys, "restore", mine.ids[3], "--to", only, "--only", only, "--repo", mine.repository.folder)[0] == 0


def test_latest_skips_a_backup_once_its_damage_is_recorded(mine: History, capsys: Any) -> None:
    repo = mine.repository.folder
    blocks, _ = extents(mine, 3)
    with flipped(mine.place(3) / DATA, blocks[0][0] + 2):
        assert mine.repository.find("latest", None).id == mine.ids[3]
        assert run(capsys, "verify", "--repo", repo)[0] == 5
        assert mine.repository.find("latest", None).id == mine.ids[2]
        _, answer = run(capsys, "list", "--repo", repo)
        assert [item["verification"] for item in answer["backups"]] == ["damaged", "none", "none", "none"]
        _, answer = run(capsys, "show", mine.ids[3], "--repo", repo)
        assert answer["proofs"][0]["problems"][0]["file"] == DATA
    assert run(capsys, "verify", mine.ids[3], "--repo", repo)[0] == 0, "a disk that reads again is believed again"
    assert mine.repository.find("latest", None).id == mine.ids[3]


def test_an_unreadable_backup_is_deleted_by_its_whole_id(mine: History, capsys: Any) -> None:
    (mine.place(3) / "manifest.json").write_bytes(b"{")
    assert run(capsys, "delete", mine.ids[3][:-2], "--repo", mine.repository.folder)[0] == 5
    assert run(capsys, "delete", mine.ids[3], "--repo", mine.repository.folder)[0] == 0
    assert mine.repository.ids("default") == list(reversed(mine.ids[:3]))


# Forged repositories


@pytest.mark.parametrize(
    "change",
    [
        {"parent": ["a", "list"]},
        {"parent": 7},
        {"parent": "../../../etc"},
        {"parent": "20260101T000000Z-full-000000"},
        {"data": None},
        {"data": {"table_offset": -1}},
        {"data": {"table_offset": 1e400}},
        {"data": {"table_offset": 10**30}},
        {"data": {"table_bytes": -1}},
        {"data": {"table_bytes": 0}},
        {"data": {"table_bytes": 1 << 40}},
        {"data": {"table_offset": "x"}},
        {"data": {"table_blake3": None}},
        {"id": "../../x"},
        {"set": "../x"},
        {"sources": [{"kind": "sqlite", "name": "../../x"}]},
        {"time": "yesterday"},
        {"format": "one"},
        {"format": None},
        {"encryption": {"method": "none"}},
    ],
)
def test_a_forged_manifest_is_damage_for_its_backup_and_its_dependents(
    mine: History, capsys: Any, change: dict[str, Any]
) -> None:
    path = mine.place(2) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for key, value in change.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) and isinstance(manifest.get(key), dict) else value
    path.write_text(json.dumps(manifest))
    for number in (2, 3):
        for command in (["verify"], ["restore", "--to", "target"], ["files"]):
            code, _ = run(capsys, command[0], mine.ids[number], *command[1:], "--repo", mine.repository.folder)
            damaged = number == 2 or change.keys() & {"parent", "data", "id", "encryption"}
            assert code == (5 if damaged else 0), (number, command)
    assert run(capsys, "list", "--repo", mine.repository.folder)[0] == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"7", b"null", b"[" * 100_000, b'{"format": 1}'])
def test_a_manifest_of_any_bytes_is_damage(mine: History, capsys: Any, content: bytes) -> None:
    (mine.place(2) / "manifest.json").write_bytes(content)
    assert run(capsys, "verify", mine.ids[2], "--repo", mine.repository.folder)[0] == 5
    assert run(capsys, "verify", mine.ids[3], "--repo", mine.repository.folder)[0] == 5
    assert run(capsys, "list", "--repo", mine.repository.folder)[0] == 0
    with pytest.raises(DamageFound):
        mine.backup(2)


def test_an_oversized_manifest_is_not_read(mine: History, capsys: Any) -> None:
    with (mine.place(2) / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk, and would take a terabyte of memory
    assert run(capsys, "verify", mine.ids[3], "--repo", mine.repository.folder)[0] == 5
    assert run(capsys, "list", "--repo", mine.repository.folder)[0] == 0
