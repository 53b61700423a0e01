"""Checks links, names, JSON, help texts and paths in the documents."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import unicodedata
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine import errors
from backups.engine.cli import build_parser, main
from backups.engine.config import ENGINE_SETTINGS
from backups.engine.repository.folder import initialise
from tests.docs.pages import ROOT, blocks, documents, name

LINK = re.compile(r"(?<!\\)\[[^\]\n]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"\b(?:BACKUP|REFSERVER|CHROMA)_[A-Z_]*[A-Z]\b")
MACHINE = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt)/|\blocalhost:\d|\bvm\b")
CLI = ROOT / "docs" / "reference" / "cli.md"
SETTINGS = ROOT / "docs" / "reference" / "settings.md"
COMMANDS = sorted(re.findall(r"^## (\w+)$", CLI.read_text(encoding="utf-8"), re.MULTILINE))


def prose(page: Path) -> str:
    """A document without its fenced blocks and comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a document get where it is shown."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        kept = [letter for letter in text if letter in " -_" or unicodedata.category(letter)[0] in "LN"]
        found.add("".join(kept).replace(" ", "-"))
    return found


def parser_of(command: str) -> Any:
    return next(iter(build_parser()._subparsers._group_actions)).choices[command]  # type: ignore[union-attr]


@pytest.mark.parametrize("page", documents(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading; there are {sorted(anchors(target))}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in LINK.findall(prose(page))
            if not link.startswith(("http", "#", "mailto:"))
        ]
    assert not set(documents()) - seen


@pytest.mark.parametrize("page", documents(), ids=name)
def test_json_and_python_parse(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            ast.parse(block.text)


def test_names_of_settings_exist() -> None:
    known = ENGINE_SETTINGS | set(SETTING.findall((ROOT / ".env.example").read_text(encoding="utf-8")))
    for page in documents():
        unknown = set(SETTING.findall(page.read_text(encoding="utf-8"))) - known
        assert not unknown, f"{name(page)} names settings that nothing reads: {sorted(unknown)}"


def test_every_setting_of_the_engine_is_documented() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", SETTINGS.read_text(encoding="utf-8"), re.MULTILINE)) == ENGINE_SETTINGS


def test_no_document_names_a_place_of_one_machine() -> None:
    tracked = [*documents(), *(path for path in (ROOT / "docs").rglob("*") if path.suffix in (".svg", ".py"))]
    for page in tracked:
        found = MACHINE.search(page.read_text(encoding="utf-8"))
        assert not found, f"{name(page)} says {found[0]!r}"


@pytest.mark.slow
def test_generated_parts_are_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python docs/generate.py`: {done.stdout}{done.stderr}"


def test_every_command_is_documented() -> None:
    commands = next(iter(build_parser()._subparsers._group_actions)).choices  # type: ignore[union-attr]
    assert sorted(commands) == COMMANDS
    text = CLI.read_text(encoding="utf-8")
    for command in commands:
        assert f"<!-- generated: help {command} -->" in text


def test_every_error_code_is_documented() -> None:
    text = CLI.read_text(encoding="utf-8")
    for kind in errors.tree():
        assert f"| {kind.exit_code} | `{kind.code}` |" in text


def test_problem_codes_are_documented() -> None:
    engine = ROOT / "backups" / "engine"
    written = re.compile(r"""(?:findings\.add\(\s*|code=|"code": )"([a-z_]+)\"""")
    used = {code for path in engine.rglob("*.py") for code in written.findall(path.read_text(encoding="utf-8"))}
    documented = set(re.findall(r"^\| ((?:`[a-z_]+`,? ?)+) \|", (ROOT / "docs/reference/format.md").read_text(), re.MULTILINE))
    assert used <= {code for cell in documented for code in re.findall(r"`([a-z_]+)`", cell)}, used


# The JSON of each command has the fields that the reference shows


def shown(command: str) -> dict[str, Any]:
    """The first JSON block in the section of *command*."""
    text = CLI.read_text(encoding="utf-8")
    section = text[text.index(f"\n## {command}\n") :]
    found = re.search(r"^```json\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found
    return json.loads(found[1])


def same_fields(shown: Any, answered: Any, where: str) -> None:
    """Compare the names of fields, down to what is an empty object or list in the document."""
    if isinstance(shown, dict) and shown:
        assert isinstance(answered, dict), where
        assert set(shown) <= set(answered), f"{where}: the answer has no {set(shown) - set(answered)}"
        for field in shown:
            same_fields(shown[field], answered[field], f"{where}.{field}")
    elif isinstance(shown, list) and shown and isinstance(shown[0], dict) and answered:
        same_fields(shown[0], answered[0], f"{where}[0]")


@pytest.fixture(scope="module")
def answers(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each command answers with ``--json``."""
    folder = tmp_path_factory.mktemp("answers")
    database = folder / "app.sqlite3"
    database.write_bytes((planted / "app.sqlite3").read_bytes())
    sources = ["--sqlite", str(database), "--files", str(planted / "uploads")]
    calls = {
        "init": [],
        "create": sources,
        "list": [],
        "show": ["latest"],
        "files": ["latest"],
        "verify": [],
        "hold": ["latest", "--note", "before the migration"],
        "release": ["latest"],
        "restore": ["latest", "--to", str(folder / "out")],
        "prune": ["--keep-last", "1", "--dry-run"],
        "doctor": sources,
        "drill": [],
        "adopt": ["--yes"],
        "key": ["list"],
        "copy": ["--to", str(folder / "other")],
        "delete": ["latest", "--yes"],
    }
    assert sorted(calls) == COMMANDS
    initialise(folder / "other", datetime.now(UTC))
    found = {}
    for command, arguments in calls.items():
        answer = io.StringIO()
        with redirect_stdout(answer), pytest.MonkeyPatch.context() as patch:
            patch.setenv("BACKUP_SIGNING_KEY", str(folder / "signing_key"))
            patch.setenv("BACKUP_ENCRYPTION_KEY", str(folder / "encryption_key"))
            main([command, "--repo", str(folder / "repository"), "--json", "--progress", "none", *arguments])
        found[command] = json.loads(answer.getvalue())
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_the_json_in_the_reference_is_that_of_the_command(command: str, answers: dict[str, dict[str, Any]]) -> None:
    example = shown(command)
    if command == "drill":
        del example["results"][0]["checks"]["chroma/chroma"]  # the sample has no Chroma
    same_fields(example, answers[command], command)
    extra = set(answers[command]) - set(example)
    assert not extra or command == "show", f"the reference does not show {extra}"


def test_an_error_with_json_is_what_the_reference_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--repo", str(tmp_path / "none"), "--json"]) == 3
    assert {"code", "message", "hint"} <= set(json.loads(capsys.readouterr().out)["error"])
