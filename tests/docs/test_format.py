"""The worked example of the format is a repository that a reader written from the document reads, and so does the engine."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from backups.engine.cli import main
from backups.engine.create import Request, create_backup
from backups.engine.repository.folder import open_repository
from backups.engine.restore.to_folder import restore_to
from backups.engine.runtime.context import Context
from backups.engine.types import BackupKind, Depth, Source, SourceKind
from backups.engine.verify import verify_backup
from tests.docs import decoder
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "reference" / "format.md"
KINDS = ("full", "incremental")


@dataclass(frozen=True)
class Example:
    """The example as a repository on disk, its ids by kind, and the document's parts by name."""

    folder: Path
    ids: dict[str, str]
    parts: dict[str, str]

    @property
    def set_folder(self) -> Path:
        return self.folder / "backups" / "default"


def unhex(listing: str) -> bytes:
    """The bytes of an annotated listing; its offsets must follow each other."""
    content = b""
    for line in listing.splitlines():
        found = re.fullmatch(r"([0-9a-f]{6})  ((?:[0-9a-f]{2} ?)+?) *(?:  \| .*)?", line)
        assert found, f"no line of a listing: {line!r}"
        assert int(found[1], 16) == len(content), f"the offset is wrong: {line!r}"
        content += bytes.fromhex(found[2])
    return content


@pytest.fixture
def example(tmp_path: Path) -> Example:
    parts = {
        block.marker.removeprefix("example: "): block.text for block in blocks(PAGE) if block.marker.startswith("example: ")
    }
    folder = tmp_path / "repository"
    (folder / "backups" / "default").mkdir(parents=True)
    (folder / "repository.json").write_text(parts["repository.json"])
    ids = {}
    for kind in KINDS:
        ids[kind] = json.loads(parts[f"{kind}/manifest.json"])["id"]
        backup = folder / "backups" / "default" / ids[kind]
        backup.mkdir()
        for name in ("manifest.json", "SHA256SUMS"):
            (backup / name).write_text(parts[f"{kind}/{name}"])
        (backup / "data.tar.zst").write_bytes(unhex(parts[f"{kind}/data.tar.zst"]))
    return Example(folder, ids, parts)


def promised() -> dict[str, dict[str, tuple[int, str]]]:
    """What the last table of the document says comes out: kind → path → size and SHA-256."""
    rows: dict[str, dict[str, tuple[int, str]]] = {kind: {} for kind in KINDS}
    for found in re.finditer(r"^\| (full|incremental) \| `(\S+)` \| (\d+) \| `(\w{64})` \|$", PAGE.read_text(), re.MULTILINE):
        rows[found[1]][found[2]] = (int(found[3]), found[4])
    return rows


def described(files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    return {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_written_from_the_document_reads_the_example(example: Example, kind: str) -> None:
    assert promised()[kind]
    assert described(decoder.read_backup(example.set_folder, example.ids[kind])) == promised()[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_listing_of_the_table_is_the_table_in_the_archive(example: Example, kind: str) -> None:
    data = json.loads(example.parts[f"{kind}/manifest.json"])["data"]
    stored = unhex(example.parts[f"{kind}/data.tar.zst"])[data["table_offset"] :]
    assert unhex(example.parts[f"{kind}/table"]) == zstandard.ZstdDecompressor().decompress(stored)


def test_the_example_has_a_delta_and_a_partial_table(example: Example) -> None:
    reader = decoder.Reader(example.set_folder)
    table = reader.table(example.ids["incremental"])
    assert not table.whole
    assert [frame.depth for frame in table.frames] == [1]
    assert {entry.kind for entry in table.entries.values()} == {decoder.FILE, decoder.FOLDER, decoder.REMOVED}


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_reads_the_example(example: Example, kind: str, tmp_path: Path) -> None:
    repository = open_repository(example.folder)
    backup = repository.find(example.ids[kind], "default")
    assert verify_backup(repository, backup, Depth.HASHES, Context()).ok
    restore_to(repository, backup, tmp_path / "out", Context())
    restored = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert described(restored) == promised()[kind]


def test_the_command_verifies_the_example(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--all", "--repo", str(example.folder), "--depth", "restore", "--json", "--progress", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
def test_sha256sum_tar_and_zstd_read_the_full_backup(example: Example, tmp_path: Path) -> None:
    folder = example.set_folder / example.ids["full"]
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    subprocess.run(["tar", "--zstd", "-xf", str(folder / "data.tar.zst"), "-C", str(out)], check=True)
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert described(found) == promised()["full"]


@pytest.mark.slow
def test_the_reader_reads_what_the_engine_writes_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document also fits backups larger than a block, and deltas on deltas."""
    monkeypatch.chdir(tmp_path)
    live = tmp_path / "live"
    live.mkdir()
    (live / "large").write_bytes(b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(20_000)))
    (live / "empty").write_bytes(b"")
    assert main(["init", "--repo", "repository", "--progress", "none"]) == 0
    repository = open_repository(tmp_path / "repository")
    request = Request(sources=(Source(kind=SourceKind.FILES, name="live", path=live),), kind=BackupKind.INCREMENTAL)
    for number in range(11):
        with (live / "large").open("r+b") as file:
            file.seek(300_000 + number)
            file.write(b"x")
        backup = create_backup(repository, request, Context()).backup
        read = decoder.read_backup(repository.folder / "backups" / "default", backup.id)
        assert read == {f"files/live/{path.name}": path.read_bytes() for path in live.iterdir()}


def test_the_reader_notices_a_flipped_bit(example: Example) -> None:
    archive = example.set_folder / example.ids["full"] / "data.tar.zst"
    content = bytearray(archive.read_bytes())
    content[200] ^= 1
    archive.write_bytes(content)
    with pytest.raises(decoder.Refused):
        decoder.read_backup(example.set_folder, example.ids["full"])
