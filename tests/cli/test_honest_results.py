"""No command reports success for what it did not check, or passed over."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from backups.engine.cli.run import main


class Cli:
    """Commands on one repository, in this process."""

    def __init__(self, repository: Path, capsys: Any) -> None:
        self._repository, self._capsys = repository, capsys
        self.said = ""
        """What the last command wrote to standard error."""

    def text(self, *arguments: object) -> tuple[int, str]:
        code = main([*map(str, arguments), "--repo", str(self._repository), "--progress=none"])
        out, self.said = self._capsys.readouterr()
        return code, out

    def json(self, *arguments: object) -> tuple[int, Any]:
        code, out = self.text(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def cli(tmp_path: Path, capsys: Any) -> Cli:
    made = Cli(tmp_path / "repo", capsys)
    assert made.text("init")[0] == 0
    return made


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table note (text)")
    connection.executemany("insert into note values (?)", [("x" * 100,)] * 400)
    connection.commit()
    connection.close()
    return path


def overwrite_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)


def test_an_intact_copy_of_a_damaged_source_is_never_ok(cli: Cli, database: Path) -> None:
    overwrite_page(database)
    first = cli.json("create", "--sqlite", database, "--verify=restore")[1]["id"]
    code, second = cli.json("create", "--sqlite", database, "--verify=hashes")
    assert code == 6 and second["verification"] == "damaged"

    code, text = cli.text("verify", "--all")
    assert code == 5 and f"{first}: DAMAGED" in text and f"{second['id']}: DAMAGED" in text and ": ok" not in text
    assert "the source was damaged when it was backed up" in text
    code, answer = cli.json("verify", first)
    assert code == 5 and answer["ok"] is False
    assert [problem["code"] for problem in answer["results"][0]["problems"]] == ["sqlite_integrity"]
    shown = cli.json("show", first)[1]
    assert {proof["depth"] for proof in shown["proofs"]} == {"hashes", "restore"}
    assert not any(proof["ok"] for proof in shown["proofs"])
    assert ": ok" not in cli.text("show", first)[1]


def test_every_command_names_the_damaged_backup_that_latest_skips(cli: Cli, database: Path, tmp_path: Path) -> None:
    old = cli.json("create", "--sqlite", database, "--verify=none")[1]["id"]
    new = cli.json("create", "--sqlite", database, "--verify=none")[1]["id"]
    assert cli.json("hold", "latest")[1] == {"id": new, "hold": ""} and cli.said == ""
    (tmp_path / f"repo/backups/default/{new}/data.tar.zst").unlink()

    restores = [
        ("restore", "latest", "--to", tmp_path / "out"),
        ("restore", "latest", "--to", tmp_path / "two", "--dry-run"),
        ("restore", "latest", "--to", tmp_path / "three", "--salvage"),
        ("restore", "latest", "--in-place", "--dry-run", "--sqlite", database),
        ("restore", "latest", "--in-place", "--yes", "--sqlite", database),
    ]
    for command in [*restores, ("show", "latest"), ("files", "@2100-01-01T00:00Z"), ("hold", "latest:full"), ("drill",)]:
        code, answer = cli.json(*command)
        assert code == 0 and old in json.dumps(answer), command
        assert f"Warning: {new} is newer than {old}, but damaged, and is skipped" in cli.said, command
        assert [one["id"] for one in answer["skipped"]] == [new] and "missing" in answer["skipped"][0]["problem"]["message"]
    code, answer = cli.json("verify")
    assert code == 5 and answer["ok"] is False
    assert [(one["id"], one["ok"]) for one in answer["results"]] == [(old, True), (new, False)]
    assert cli.json("verify", old)[0] == 0 and cli.said == ""
    (tmp_path / f"repo/backups/default/{new}/manifest.json").write_text("{")
    assert cli.json("verify")[0] == 5 and new in cli.said


def test_a_dry_run_of_a_damaged_backup_says_so(cli: Cli, database: Path, tmp_path: Path) -> None:
    made = cli.json("create", "--sqlite", database, "--verify=none")[1]["id"]
    archive = tmp_path / f"repo/backups/default/{made}/data.tar.zst"
    content = bytearray(archive.read_bytes())
    content[700] ^= 255
    archive.write_bytes(content)
    assert cli.json("verify", made)[0] == 5
    for where in (["--in-place", "--sqlite", database], ["--to", tmp_path / "out"]):
        code, answer = cli.json("restore", made, *where, "--dry-run")
        assert code == 5 and answer["problems"] and f"Warning: {made} is damaged" in cli.said
        assert "DAMAGED" in cli.text("restore", made, *where, "--dry-run")[1]


def test_every_backup_warns_of_an_emptied_folder_until_the_hold_is_released(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("content")
    create = ("create", "--files", f"docs={folder}", "--verify=none")
    held = cli.json(*create)[1]["id"]
    assert cli.said == ""
    (folder / "a.txt").unlink()
    for _ in range(2):
        code, made = cli.json(*create)
        assert code == 0 and f"Warning: {made['id']} holds far less than {held}" in cli.said
    assert cli.text("release", held)[0] == 0
    assert cli.json(*create)[0] == 0 and cli.said == ""


def test_a_misspelt_option_is_named(cli: Cli) -> None:
    code, answer = cli.json("show", "--st=other")
    assert code == 2 and answer["error"]["message"] == "there is no option --st (did you mean --set?)."
