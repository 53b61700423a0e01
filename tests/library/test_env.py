"""Settings are read strictly, all problems are reported together, and `.env.example` lists every setting."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings as project
from django.core.checks import Warning

from backups.engine.errors import UsageError
from backups.engine.runtime.environment import Environment, UnknownSetting
from refserver.checks import unknown_settings
from refserver.library.models import Paper
from tests.library.places import ROOT


def env(root: Path = Path("/project"), **values: str) -> Environment:
    return Environment(values, root)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("yes", True), ("ON", True), ("1", True), ("no", False), ("False", False), ("", None)],
)
def test_flag(value, expected):
    reader = env(A=value)
    assert reader.flag("A", default=True) is (True if expected is None else expected)
    reader.check()


def test_path_is_taken_from_the_root_unless_absolute():
    reader = env(A="data/x", B="/else/where")
    assert reader.path("A", "z") == Path("/project/data/x")
    assert reader.path("B", "z") == Path("/else/where")
    assert reader.path("C", "z") == Path("/project/z")


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    reader = env(tmp_path, A="file/x", B="file/x/y")
    reader.folder("A", "z")
    reader.file("B", "z")
    assert [problem.partition(":")[0] for problem in reader.problems] == ["A", "B"]
    assert reader.folder("C", "made").is_dir()


def test_names_may_be_empty():
    reader = env(A="a, b c,", B="")
    assert reader.names("A", "z") == ["a", "b", "c"]
    assert reader.names("B", "z") == []
    assert reader.names("C", "z") == ["z"]


def test_all_problems_are_reported_together_with_name_and_fix():
    reader = env(PORT="eighty", SIZE="0", DEBUG="perhaps", KIND="odd", KEY="x", KEY_FILE="y", TOKEN_FILE="/not/there")
    assert reader.integer("PORT", 8000) == 8000
    assert reader.integer("SIZE", 5, least=1, most=9) == 5
    assert reader.flag("DEBUG", default=False) is False
    assert reader.text("KIND", "a", choices={"a", "b"}) == "a"
    reader.secret("KEY")
    reader.secret("TOKEN")
    with pytest.raises(UsageError) as caught:
        reader.check()
    lines = str(caught.value).splitlines()[1:]
    assert "  - PORT: 'eighty' is not a whole number; write one, such as 8000." in lines
    assert "  - SIZE: 0 is out of range; use at least 1 and at most 9." in lines
    assert "  - DEBUG: 'perhaps' is neither yes nor no; write yes or no." in lines
    assert "  - KIND: 'odd' is not known; use one of a, b." in lines
    assert "  - KEY: both it and KEY_FILE are set; unset one of the two." in lines
    assert any(line.startswith("  - TOKEN_FILE: /not/there cannot be read") for line in lines)


def test_a_secret_is_read_from_a_file(tmp_path):
    (tmp_path / "key").write_text("  from the file\n")
    assert env(tmp_path, KEY_FILE="key").secret("KEY") == "from the file"


def test_a_lasting_secret_is_made_once_and_for_its_owner_only(tmp_path):
    kept = tmp_path / "var" / "secret_key"
    first = env(tmp_path).lasting_secret("KEY", kept)
    assert len(first) >= 50
    assert env(tmp_path).lasting_secret("KEY", kept) == first
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert os.listdir(kept.parent) == ["secret_key"]


def test_a_short_secret_is_refused(tmp_path):
    reader = env(tmp_path, KEY="short")
    reader.lasting_secret("KEY", tmp_path / "unused")
    with pytest.raises(UsageError, match="KEY: it has only 5 characters"):
        reader.check()


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    monkeypatch.delenv("REFSERVER_ENV_FILE", raising=False)
    monkeypatch.setenv("A", "process")
    reader = Environment.load_project(tmp_path)
    assert (reader.text("A", ""), reader.text("B", "")) == ("process", "file")


def test_unknown_settings_are_reported_with_their_file_and_a_suggestion(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text("BACKUP_REPOSITRY=x\nBACKUP_NONSENSE=x\nOTHER=x\nBACKUP_TRASH_HOURS=never\n")
    monkeypatch.setenv("REFSERVER_POTR", "1")
    monkeypatch.setenv("BACKUP_OF_ANOTHER_PROGRAM", "1")
    reader = Environment.load(file, tmp_path)
    reader.hours("BACKUP_TRASH_HOURS", 24, most=100)
    assert reader.unknown({"BACKUP_REPOSITORY", "REFSERVER_PORT"}) == (
        UnknownSetting(f"There is no setting BACKUP_NONSENSE (in {file}).", "Remove it."),
        UnknownSetting(f"There is no setting BACKUP_REPOSITRY (in {file}).", "Did you mean BACKUP_REPOSITORY?"),
        UnknownSetting("There is no setting REFSERVER_POTR (in the environment).", "Did you mean REFSERVER_PORT?"),
    )
    assert reader.problems == [
        f"BACKUP_TRASH_HOURS: 'never' is not a number of hours from 0 to 100 (in {file}); write one, such as 24.",
    ]


def test_unknown_settings_are_a_system_check_warning(settings):
    settings.UNKNOWN_SETTINGS = (UnknownSetting("There is no setting REFSERVER_POTR.", "Did you mean REFSERVER_PORT?"),)
    assert unknown_settings(None) == [
        Warning("There is no setting REFSERVER_POTR.", hint="Did you mean REFSERVER_PORT?", id="refserver.W001")
    ]


@pytest.mark.slow
def test_an_unknown_setting_stops_no_command(library):
    stray = library.environment | {"REFSERVER_POTR": "1"}
    result = subprocess.run(
        [sys.executable, "manage.py", "check"], env=stray, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "(refserver.W001) There is no setting REFSERVER_POTR (in the environment)." in result.stderr
    assert "HINT: Did you mean REFSERVER_PORT?" in result.stderr


def test_wrong_settings_stop_a_command_with_all_their_names(library):
    code = "import refserver.settings"
    wrong = library.environment | {
        "REFSERVER_PORT": "x",
        "REFSERVER_TIME_ZONE": "Nowhere",
        "REFSERVER_ENV_FILE": "/no/env",
    }
    result = subprocess.run([sys.executable, "-c", code], env=wrong, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    for name in ("REFSERVER_PORT", "REFSERVER_TIME_ZONE", "REFSERVER_ENV_FILE"):
        assert f"  - {name}: " in result.stderr


def test_the_example_lists_every_setting_and_no_other():
    example = (ROOT / ".env.example").read_text()
    told = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    own_names = {"BACKUP_SQLITE", "BACKUP_CHROMA", "BACKUP_FILES"}  # RefServer's stores have names of their own
    assert told == project.ENVIRONMENT_NAMES - own_names
    assert all(line.startswith("#") or not line for line in example.splitlines()), "every line is a comment"


def test_the_example_shows_the_defaults(tmp_path):
    """With its lines uncommented, nothing changes."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = ("REFSERVER_DATABASE", "CHROMA_PATH", "REFSERVER_FILES", "REFSERVER_BIND", "REFSERVER_PORT")
    told = dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z_]+=", line))
    source = (ROOT / "refserver" / "settings.py").read_text()
    for name in names:
        assert re.search(rf'"{name}", "?{re.escape(told[name])}"?[,)]', source), name


def test_sessions_live_in_the_control_database_and_papers_do_not(library):
    from django.contrib.sessions.models import Session
    from django.db import router

    assert router.db_for_read(Session) == router.db_for_write(Session) == "control"
    assert router.db_for_read(Paper) == router.db_for_write(Paper) == "default"
    tables = {}
    for alias in ("default", "control"):
        from django.db import connections

        tables[alias] = set(connections[alias].introspection.table_names())
    assert "library_paper" in tables["default"] - tables["control"]
    assert "django_session" in tables["control"] - tables["default"]
