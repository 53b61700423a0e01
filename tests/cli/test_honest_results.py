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


@pytest.mark.parametrize("verify", ["hashes", "restore"])
def test_an_intact_copy_of_a_damaged_source_is_never_ok(cli: Cli, database: Path, verify: str) -> None:
    overwrite_page(database)
    first = cli.json("create", "--sqlite", database, "--verify=restore")[1]["id"]
    code, second = cli.json("create", "--sqlite", database, f"--verify={verify}")
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
