"""Keeps the generated parts of the documents current.

::

    python docs/generate.py             write them
    python docs/generate.py --check     change nothing; status 1 and the names of outdated documents
    python docs/generate.py --example   make a new worked example in reference/format.md

Generated parts lie between ``<!-- generated: WHAT -->`` and ``<!-- end -->``: help texts of the command, and the table of
errors. The worked example represents existing backups: make a new one only for a new version of the format.
"""

import argparse
import json
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

import zstandard

from backups.engine import errors
from backups.engine.cli import build_parser
from backups.engine.create import Request, create_backup
from backups.engine.repository.folder import Repository, initialise
from backups.engine.runtime.context import Context
from backups.engine.types import BackupKind, Source, SourceKind

DOCS = Path(__file__).resolve().parent
GENERATED = re.compile(r"(<!-- generated: (?P<what>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
EXAMPLE = re.compile(r"(<!-- example: (?P<what>\S+) -->\n```\w*\n).*?(\n```)", re.DOTALL)


def main() -> int:
    """Write or check the documents."""
    parser = argparse.ArgumentParser(description="Keep the generated parts of the documents current.")
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a document is outdated")
    parser.add_argument("--example", action="store_true", help="make a new worked example of the format")
    arguments = parser.parse_args()
    if arguments.example:
        _write_example(DOCS / "reference" / "format.md")
        return 0
    outdated = []
    for page in sorted(DOCS.rglob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = GENERATED.sub(lambda found: found[1] + generated(found["what"]) + "\n" + found[3], before)
        if _words(before) != _words(after):
            outdated.append(page.relative_to(DOCS).as_posix())
            if not arguments.check:
                page.write_text(after, encoding="utf-8")
    if outdated:
        sys.stdout.write(("Outdated: " if arguments.check else "Written: ") + ", ".join(outdated) + "\n")
    return int(arguments.check and bool(outdated))


def _words(text: str) -> list[str]:
    """The words of a text: versions of Python break the lines of help texts differently."""
    return text.split()


def generated(what: str) -> str:
    """The text that belongs between the markers of *what*: ``help``, ``help COMMAND`` or ``errors``."""
    if what == "errors":
        return _errors()
    _, _, command = what.partition(" ")
    return _help(command)


def _help(command: str) -> str:
    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    parser = build_parser()
    if command:
        choices = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = choices[command]
    return f"```text\n{parser.format_help().rstrip()}\n```"


def _errors() -> str:
    """The tree of errors as a table; the module's docstring gives their meanings."""
    line = re.compile(r"^\W*(\w+) {2,}(\w+) +(\d+)(?: {2,}(.+))?$", re.MULTILINE)
    meanings = {found[1]: found[4] or "anything else" for found in line.finditer(errors.__doc__ or "")}
    rows = ["| exit | `code` | what happened | hint |", "| --- | --- | --- | --- |"]
    for kind in sorted(errors.tree(), key=lambda kind: kind.exit_code):
        if kind.__module__ != errors.__name__:
            continue  # a refinement with its parent's code
        rows.append(f"| {kind.exit_code} | `{kind.code}` | {meanings[kind.__name__]} | {kind.default_hint} |")
    return "\n".join(rows)


# The worked example


def _write_example(page: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        blocks = dict(_example(Path(folder)))
    text = page.read_text(encoding="utf-8")
    page.write_text(EXAMPLE.sub(lambda found: found[1] + blocks[found["what"]].rstrip("\n") + found[3], text), encoding="utf-8")


POEM = """\
The cut is short, the writers wait,
a moment and no more;
two stores are seen at one same date,
then both go on as before.
What changed is kept, the rest is named,
a hash stands for each part;
and nothing here is ever claimed
that was not read from the start.
"""


def _example(folder: Path) -> Iterator[tuple[str, str]]:
    """Make a repository with a full and an incremental backup of three small files; yields each part as text."""
    live = folder / "notes"
    live.mkdir()
    for name, content in (("old.txt", "To be deleted.\n"), ("poem.txt", POEM), ("todo.txt", "Test a restore.\n")):
        (live / name).write_text(content)
    time.sleep(3)  # only a time stamp that is some seconds old is trusted
    tokens = (f"{number:06x}" for number in count(0xA1B2C3, 0x1111))
    ctx = Context(token=lambda: next(tokens))
    repository = initialise(folder / "repository", ctx.now())
    source = Source(kind=SourceKind.FILES, name="notes", path=live)
    yield "repository.json", (repository.folder / "repository.json").read_text()
    for kind in (BackupKind.FULL, BackupKind.INCREMENTAL):
        made = create_backup(repository, Request(sources=(source,), kind=kind), ctx).backup
        _anonymise(repository, made.id)
        yield from _described(repository.backup_folder("default", made.id), kind.value)
        (live / "old.txt").unlink(missing_ok=True)
        (live / "poem.txt").write_text(POEM.replace("ever claimed", "ever proclaimed"))


def _anonymise(repository: Repository, backup: str) -> None:
    folder = repository.backup_folder("default", backup)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["host"] = "example"
    manifest["sources"][0]["path"] = "/srv/notes"
    content = json.dumps(manifest, indent=1) + "\n"
    (folder / "manifest.json").write_text(content)
    first = (folder / "SHA256SUMS").read_text().splitlines()[0]
    (folder / "SHA256SUMS").write_text(f"{first}\n{sha256(content.encode()).hexdigest()}  manifest.json\n")


def _described(folder: Path, kind: str) -> Iterator[tuple[str, str]]:
    for name in ("manifest.json", "SHA256SUMS"):
        yield f"{kind}/{name}", (folder / name).read_text()
    data = json.loads((folder / "manifest.json").read_text())["data"]
    archive = (folder / "data.tar.zst").read_bytes()
    table = zstandard.ZstdDecompressor().decompress(archive[data["table_offset"] :])
    yield f"{kind}/table", _hex(_fields_of_table(table))
    yield f"{kind}/data.tar.zst", _hex(_fields_of_archive(archive, table))


def _fields_of_archive(archive: bytes, table: bytes) -> Iterator[tuple[bytes, str]]:
    """The archive's frames in order; for skippable ones the two header fields first."""
    _, _, _, backups, frames, _, _ = struct.unpack_from("<8s6I", table)
    at = 32
    for _ in range(backups):
        at += 2 + struct.unpack_from("<H", table, at)[0]
    named = {}
    for number in range(frames):
        _, offset, stored = struct.unpack_from("<32sQI", table, at + number * 64)
        named[offset] = (stored, f"frame {number} of the table")
    at = 0
    while at < len(archive):
        magic, size = struct.unpack_from("<II", archive, at)
        if magic == 0x184D2A50 or magic == 0x184D2A5F:
            what = "blocks" if magic == 0x184D2A50 else "the table"
            yield archive[at : at + 4], f"skippable frame for {what}"
            yield archive[at + 4 : at + 8], f"its length: {size}"
            at += 8
            yield archive[at : at + size], named[at][1] if at in named else "the table, compressed"
        else:
            size, what = named[at] if at in named else (_length_of_frame(archive[at:]), "tar: headers and padding")
            yield archive[at : at + size], what
        at += size


def _length_of_frame(content: bytes) -> int:
    reader = zstandard.ZstdDecompressor().decompressobj()
    reader.decompress(content)
    return len(content) - len(reader.unused_data)


def _fields_of_table(table: bytes) -> Iterator[tuple[bytes, str]]:
    at = 0

    def take(layout: str, what: str) -> tuple[bytes, str]:
        nonlocal at
        size = struct.calcsize("<" + layout)
        values = struct.unpack_from("<" + layout, table, at)
        part = table[at : at + size]
        at += size
        if "{" in what:
            return part, what.format(*values)
        return part, f"{what}: {values[0]}" if isinstance(values[0], int) else what

    def text(what: str) -> Iterator[tuple[bytes, str]]:
        (length,) = struct.unpack_from("<H", table, at)
        yield take("H", f"length of the {what}")
        if length:
            yield take(f"{length}s", f"the {what}: {table[at : at + length].decode()}")

    _, _, _, backups, frames, entries, _ = struct.unpack_from("<8s6I", table)
    yield take("8s", "magic: RBTABLE1")
    for what in ("flags", "block size", "backups", "frames", "entries", "reserved"):
        yield take("I", what)
    for number in range(1, backups + 1):
        yield from text(f"id of archive {number}")
    for number in range(frames):
        yield take("32s", f"frame {number}: BLAKE3 of its block")
        yield take("Q", "offset in data.tar.zst")
        yield take("I", "stored bytes")
        yield take("I", "raw bytes")
        part, what = take("I", "archive of the base")
        yield part, "archive of the base: none, it is plain" if part == b"\xff" * 4 else what
        yield take("I", "frame of the base")
        yield take("B", "depth")
        yield take("7s", "zero")
    for number in range(entries):
        yield from text(f"path of entry {number}")
        yield take("B", "kind")
        yield take("I", "mode: 0{0:o} (octal)")
        yield take("q", "mtime, nanoseconds")
        yield take("Q", "size")
        yield take("Q", "inode")
        yield take("q", "ctime, nanoseconds")
        yield take("B", "trusted")
        yield from text("link target")
        (runs,) = struct.unpack_from("<I", table, at)
        yield take("I", "runs")
        for _ in range(runs):
            for what in ("first block", "blocks", "archive", "first frame"):
                yield take("I", what)


def _hex(parts: Iterator[tuple[bytes, str]]) -> str:
    """``OFFSET  HEX  | NOTE``, sixteen bytes a line."""
    lines = []
    offset = 0
    for part, note in parts:
        for start in range(0, len(part), 16):
            piece = part[start : start + 16]
            said = f"  | {note}" if start == 0 else ""
            lines.append(f"{offset:06x}  {piece.hex(' '):<47}{said}".rstrip())
            offset += len(piece)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
