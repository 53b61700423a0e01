"""Notes that forge lines, move the cursor of a terminal, or turn the direction of text: refused, and escaped where planted."""

from __future__ import annotations

import hashlib
import json

import pytest

from backups.catalog import holds, index
from backups.engine.cli.text import shown
from backups.engine.config import check_note
from backups.engine.errors import UsageError
from backups.engine.names import DATA, MANIFEST, SUMS
from backups.jobs import submit
from backups.models import IndexedBackup, Job
from tests.restore.stores import refbackup

FORGED = {
    "newline": "good\n20261121T030000Z-full-3f9c2a  proven",
    "carriage return": "bad\rgood",
    "escape": "\x1b[2K\x1b[1Agood",
    "bell": "\a",
    "C1": "\x9b2K",
    "line separator": "good\u2028good",
    "override": "\u202edoog",
    "isolate": "\u2066good",
    "mark": "\u200fgood",
    "zero byte": "good\0",
}


@pytest.mark.parametrize("note", FORGED.values(), ids=FORGED)
def test_notes_are_refused_before_anything_is_done(empty_site, note: str) -> None:
    with pytest.raises(UsageError, match="one line"):
        check_note(note)
    with pytest.raises(UsageError):
        submit.back_up(empty_site.actor, backup="full", note=note)
    assert not Job.objects.exists()


@pytest.mark.parametrize("note", ["", "before the upgrade", "Sicherung für Zoë „wichtig“ ✓ \U0001f600", "نسخة احتياطية"])
def test_ordinary_notes_are_kept(note: str) -> None:
    assert check_note(note) == shown(note) == note


def test_commands_print_no_control_characters() -> None:
    assert shown("one\ntwo \x1b[31m\u202e") == "one\ntwo \\x1b[31m\\u202e"


@pytest.mark.slow
def test_planted_notes_are_escaped_everywhere(site) -> None:
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    planted = "".join(FORGED.values()).replace("\0", "")
    holds.hold(site.actor, IndexedBackup.objects.get(), "held")
    folder = site.repository.folder / "backups/default" / made
    for name, field in ((MANIFEST, "note"), (MANIFEST, "host"), ("hold.json", "note")):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_bytes()) | {field: planted}))
    data = (folder / SUMS).read_text().split()[0]
    manifest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / SUMS).write_text(f"{data}  {DATA}\n{manifest}  {MANIFEST}\n")

    IndexedBackup.objects.update(seen="")
    index.refresh("main")
    row = IndexedBackup.objects.get()
    client = site.client("root", superuser=True)
    told = [row.note, row.hold_note, row.host, client.get(row.get_absolute_url()).content.decode()]
    told += [line for command in ("list", "show") for line in _printed(site, command, made)]
    assert any("\\u202edoog" in text for text in told)
    for text in told:
        assert not set(text) & set("\r\x1b\a\x9b\u2028\u202e\u2066\u200f"), text
        assert not text.startswith("20261121T030000Z"), "a forged line"


def _printed(site, command: str, backup_id: str) -> list[str]:
    more = [backup_id] if command == "show" else []
    return refbackup(command, *more, "--repo", site.repository.folder, cwd=site.places.root).out.split("\n")
