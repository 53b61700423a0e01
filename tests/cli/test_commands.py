"""The command `refbackup`: what each subcommand answers, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.cli import build_parser, main
from backups.engine.errors import EngineError, tree
from backups.engine.types import Hold
from tests.restore.stores import (
    History,
    change_rows,
    clean_environment,
    make_database,
    python,
    refbackup,
    rows_of,
    tags_of,
    until,
)

Run = Callable[..., tuple[int, Any]]
ID = re.compile(r"\d{8}T\d{6}Z-(full|incremental|snapshot)-[0-9a-f]{6}")


@pytest.fixture
def run(capsys: Any) -> Run:
    """The command in this process: exit code and JSON."""

    def ran(*arguments: object) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json", "--progress=none"])
        out = capsys.readouterr().out
        assert out.count("\n") == 1, "one JSON object on standard output"
        return code, json.loads(out)

    return ran


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.sqlite3"
    make_database(path, 40)
    return path


@pytest.fixture
def repo(tmp_path: Path, run: Run) -> Path:
    """An empty repository."""
    assert run("init", "--repo", tmp_path / "repo")[0] == 0
    return tmp_path / "repo"


def shape(value: Any) -> Any:
    """The keys of an answer with the types of their values; None fits any."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value)


def has(answer: dict[str, Any], **wanted: Any) -> None:
    """Each key is there, with a value of one of its types."""
    for key, types in wanted.items():
        assert key in answer, key
        allowed = types if isinstance(types, tuple) else (types,)
        assert isinstance(answer[key], allowed), (key, answer[key])


# What each command answers


@pytest.mark.slow
def test_every_command_from_init_to_an_empty_trash(tmp_path: Path, database: Path, run: Run) -> None:
    """The first hour with the tool."""
    repo = ["--repo", tmp_path / "repo"]
    assert run("init", *repo) == (0, {"repository": str(tmp_path / "repo")})
    code, full = run("create", *repo, "--sqlite", database, "--note", "the first", "--verify", "restore")
    assert code == 0
    has(
        full, id=str, set=str, kind=str, parent=(str, type(None)), time=str, bytes_source=int, bytes_stored=int, seconds=float,
        pause_ms=dict, sources=list, verification=str, log=list,
    )  # fmt: skip
    assert ID.fullmatch(full["id"]) and full["kind"] == "full" and full["parent"] is None and full["verification"] == "restore"
    assert shape(full["pause_ms"]) == {"sqlite": float, "chroma": float}
    change_rows(database, "second", [1])
    code, second = run("create", *repo, "--sqlite", database, "--kind", "incremental")
    assert (code, second["kind"], second["parent"], second["verification"]) == (0, "incremental", full["id"], "hashes")
    code, third = run("create", *repo, "--sqlite", database, "--kind", "snapshot", "--no-verify")
    assert (code, third["kind"], third["parent"], third["verification"]) == (0, "snapshot", None, "none")

    code, listed = run("list", *repo)
    assert [item["id"] for item in listed["backups"]] == [third["id"], second["id"], full["id"]]
    for item in listed["backups"]:
        assert set(item) == {
            "id", "set", "kind", "parent", "time", "bytes_source", "bytes_stored", "encrypted", "verified_at", "verification",
            "unchecked", "incomplete", "hold", "note",
        }  # fmt: skip
        assert datetime.fromisoformat(item["time"]).utcoffset() is not None
    assert listed["backups"][2]["note"] == "the first"

    code, shown = run("show", full["id"][:16], *repo)
    assert code == 0 and shown["manifest"]["id"] == full["id"] and shown["proofs"][0]["ok"] is True
    code, files = run("files", "latest", *repo)
    assert code == 0 and [item["path"] for item in files["files"]] == ["sqlite/app.sqlite3"] and files["id"] == second["id"]
    code, restored = run("restore", "latest:full", "--to", tmp_path / "out", *repo)
    has(restored, id=str, to=str, seconds=float, bytes=int, checks=dict)
    assert tags_of(tmp_path / "out/sqlite/app.sqlite3") == {"first"}

    assert run("hold", second["id"], "--note", "audit", *repo) == (0, {"id": second["id"], "hold": "audit"})
    code, error = run("delete", second["id"], *repo)
    assert code == 1 and error["error"]["code"] == "in_use" and "audit" in error["error"]["message"]
    assert run("release", second["id"], *repo) == (0, {"id": second["id"], "hold": None})
    code, error = run("delete", full["id"], *repo)
    assert code == 1 and error["error"]["needed_by"] == [second["id"]]
    assert run("delete", second["id"], *repo) == (0, {"id": second["id"], "deleted": True})
    code, error = run("delete", full["id"], *repo)
    assert code == 1 and error["error"]["code"] == "in_use" and f"Without {full['id']}, the set" in error["error"]["message"]
    assert run("delete", full["id"], "--yes", *repo)[0] == 0

    code, doctor = run("doctor", *repo, "--sqlite", database)
    assert any("2 deleted backups" in item["message"] for item in doctor["findings"])
    code, pruned = run("prune", "--keep-last", "1", "--empty-trash", *repo)
    assert code == 0 and [item["id"] for item in pruned["kept"]] == [third["id"]] and pruned["removed"] == []
    assert len(pruned["emptied"]) == 2 and not [*(tmp_path / "repo/trash").glob("2*")]


@pytest.mark.slow
def test_verify_and_drill_print_the_same_json(mine: History, run: Run) -> None:
    repo = ["--repo", mine.repository.folder]
    for command in (["verify", "--all"], ["verify", mine.ids[0], mine.ids[2]], ["drill", mine.ids[0]], ["verify"]):
        code, answer = run(*command, *repo)
        assert code == 0 and answer["ok"] is True
        for result in answer["results"]:
            has(result, id=str, ok=bool, depth=str, seconds=float, problems=list)
    (mine.place(1) / "data.tar.zst").write_bytes(b"")
    (mine.place(2) / "manifest.json").unlink()
    code, answer = run("verify", "--all", *repo)
    assert code == 5 and answer["ok"] is False and len(answer["results"]) == 4
    for problem in (problem for result in answer["results"] for problem in result["problems"]):
        assert set(problem) == {"code", "source", "file", "offset", "message", "also_in", "lies_in"}
    assert run("verify", "--all", mine.ids[0], *repo)[0] == 2


def test_prune_dry_run_lists_what_would_be_removed(mine: History, run: Run) -> None:
    repo = ["--repo", mine.repository.folder]
    code, planned = run("prune", "--keep-last", "2", "--verified-floor", "0", "--dry-run", *repo)
    assert code == 0 and planned["dry_run"] is True and planned["removed"] == []
    assert any("needed by" in reason for item in planned["kept"] for reason in item["reasons"])
    assert mine.repository.ids("default") == list(reversed(mine.ids))
    for number in (3, 2):
        mine.repository.delete("default", mine.ids[number], datetime.now(UTC))
    code, planned = run("prune", "--keep-within", "1h", "--dry-run", *repo)
    assert [item["id"] for item in planned["kept"]] == [mine.ids[1], mine.ids[0]]
    assert run("prune", *repo)[0] == 2, "an empty policy"
    for wrong in ("--keep-last=-1", "--keep-within=soon", "--keep-within=0d", "--keep-daily=x"):
        assert run("prune", wrong, *repo)[0] == 2
    assert mine.repository.ids("default") == [mine.ids[1], mine.ids[0]]


def test_pruned_backups_stay_in_the_trash_until_it_expires(
    mine: History, run: Run, monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    repo = ["--repo", mine.repository.folder]
    code, newer = run("create", f"--sqlite=other={database}", "--no-verify", *repo)
    assert code == 0 and run("release", mine.ids[-1], *repo)[0] == 0, "held, as the newer one has other stores"
    code, done = run("prune", "--keep-last", "1", *repo)
    assert {item["id"] for item in done["removed"]} == set(mine.ids) and done["emptied"] == []
    assert len([*(mine.repository.folder / "trash").iterdir()]) == 4
    assert [item["id"] for item in run("list", *repo)[1]["backups"]] == [newer["id"]]
    assert run("prune", "--keep-last", "1", *repo)[1]["emptied"] == []
    monkeypatch.setenv("BACKUP_TRASH_HOURS", "0")
    assert len(run("prune", "--keep-last", "1", *repo)[1]["emptied"]) == 4


def test_a_prune_that_is_killed_leaves_only_usable_backups(mine: History, tmp_path: Path, run: Run, database: Path) -> None:
    repo = ["--repo", mine.repository.folder]
    assert run("create", f"--sqlite=other={database}", "--no-verify", *repo)[0] == 0
    assert run("release", mine.ids[-1], *repo)[0] == 0
    for step in ("publish@2", "published@1"):
        done = refbackup("prune", "--keep-last=1", "--verified-floor=0", *repo, cwd=tmp_path, REFBACKUP_FAULT=f"{step}:kill")
        assert done.code == -signal.SIGKILL
        code, answer = run("verify", "--all", *repo)
        assert code == 0 and answer["ok"], "dependents go before what they depend on"
    assert len(mine.repository.ids("default")) == 3


@pytest.mark.slow
def test_sets_are_independent(repo: Path, database: Path, run: Run) -> None:
    made = {}
    for name in ("default", "other"):
        made[name] = run("create", "--sqlite", database, "--set", name, "--no-verify", "--repo", repo)[1]["id"]
        _, again = run("create", "--sqlite", database, "--set", name, "--kind=incremental", "--no-verify", "--repo", repo)
        assert again["parent"] == made[name] and again["set"] == name
    for name in made:
        assert {item["set"] for item in run("list", "--set", name, "--repo", repo)[1]["backups"]} == {name}
        assert run("show", "latest:full", "--set", name, "--repo", repo)[1]["id"] == made[name]
    assert {item["set"] for item in run("list", "--repo", repo)[1]["backups"]} == {"default"}
    assert len(run("list", "--all-sets", "--repo", repo)[1]["backups"]) == 4
    assert run("show", made["other"], "--repo", repo)[0] == 0, "an id is found wherever it is"
    assert run("show", made["other"], "--set", "default", "--repo", repo)[0] == 4
    run("prune", "--keep-last=1", "--set=other", "--repo", repo)
    assert len(run("list", "--repo", repo)[1]["backups"]) == 2
    assert run("list", "--set=nobody", "--repo", repo)[0] == 4
    for wrong in ("../default", "", "a/b", ".hidden", "x" * 65):
        for command in (["list"], ["show", "latest"], ["create", "--sqlite", database], ["prune", "--keep-last=1"]):
            if wrong:
                assert run(*command, "--set", wrong, "--repo", repo)[0] == 2


def test_backups_are_found_by_prefix_kind_and_time(mine: History, run: Run) -> None:
    repo = ["--repo", mine.repository.folder]
    times = [mine.backup(number).manifest.time for number in range(4)]

    def found(wanted: str) -> str | int:
        code, answer = run("show", wanted, *repo)
        return answer["id"] if code == 0 else code

    assert found("latest") == found("latest:incremental") == mine.ids[3]
    assert found("latest:full") == mine.ids[0]
    assert found("latest:snapshot") == 4
    assert found("latest:weekly") == 2
    assert found(mine.ids[1]) == mine.ids[1]
    assert found(mine.ids[1][:-3]) == mine.ids[1]
    assert found(mine.ids[1][:8]) == 4, "a prefix of several"
    assert found("2019") == 4 and found("") == 2 and found("x") == 4
    for number, time in enumerate(times):
        assert found(f"@{time.isoformat()}") == mine.ids[number]
        assert found("@" + time.isoformat().replace("+00:00", "Z")) == mine.ids[number]
    between = times[1] + (times[2] - times[1]) / 2
    assert found(f"@{between.isoformat()}") == mine.ids[1]
    assert found("@2019-01-01T00:00Z") == 4
    assert found("@2099-01-01T00:00+02:00") == mine.ids[3]
    assert found("@2099-01-01T00:00") == 2, "a time without a zone"
    assert found("@yesterday") == 2
    _, error = run("show", mine.ids[1][:8], *repo)
    assert all(name in error["error"]["message"] for name in mine.ids)


def test_doctor_reports_problems_with_advice(mine: History, database: Path, tmp_path: Path, run: Run) -> None:
    code, answer = run("doctor", "--sqlite", database, "--repo", mine.repository.folder)
    assert code == 0 and answer["ok"] is True
    for item in answer["findings"]:
        assert set(item) == {"level", "subject", "message", "advice"} and item["level"] in ("ok", "note", "warning", "problem")
        assert item["advice"] or item["level"] == "ok"
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"no database" * 100)
    (mine.place(3) / "manifest.json").write_bytes(b"")
    (mine.repository.folder / "staging/left").mkdir(parents=True, exist_ok=True)
    for arguments in (
        ["--sqlite", broken],
        ["--sqlite", tmp_path / "absent.sqlite3"],
        ["--chroma", tmp_path],
        ["--repo", mine.repository.folder],
        ["--repo", tmp_path / "nowhere"],
    ):
        code, answer = run("doctor", *arguments)
        assert code == 1 and answer["ok"] is False
        assert all(item["advice"] for item in answer["findings"] if item["level"] == "problem")
    _, answer = run("doctor", "--repo", mine.repository.folder)
    assert any(mine.ids[3] in item["message"] for item in answer["findings"])
    assert any("interrupted backup" in item["message"] for item in answer["findings"])


@pytest.mark.parametrize("command", ["list", "show", "files", "verify", "drill", "prune", "doctor", "restore"])
@pytest.mark.slow
def test_every_command_prints_text(history: History, capsys: Any, command: str, tmp_path: Path) -> None:
    arguments = {
        "show": ["latest"],
        "files": ["latest"],
        "prune": ["--keep-last=1", "--dry-run"],
        "restore": ["latest", "--to=out", "--dry-run"],
        "drill": [history.ids[3]],
    }.get(command, [])
    if command in ("drill", "verify"):
        from tests.restore.stores import copy_of

        history = copy_of(history, tmp_path / "copy")
    assert main([command, *arguments, f"--repo={history.repository.folder}"]) == 0
    out = capsys.readouterr().out
    assert out.strip() and "{" not in out.splitlines()[0] and "None" not in out and "Traceback" not in out


# Exit codes


def test_wrong_usage_exits_with_2(run: Run, repo: Path, tmp_path: Path, database: Path) -> None:
    for arguments in (
        ["restore", "latest", "--repo", repo],
        ["restore", "latest", "--to", "x", "--in-place", "--repo", repo],
        ["create", "--repo", repo],
        ["create", "--sqlite", database, "--sqlite", f"app={database}", "--repo", repo],
        ["create", "--sqlite", f"a b={database}", "--repo", repo],
        ["create", "--sqlite", "", "--repo", repo],
        ["create", "--sqlite", database, "--note", "x" * 5000, "--repo", repo],
        ["create", "--sqlite", database, "--note", "\udcff", "--repo", repo],
        ["create", "--kind=snapshot", "--files", tmp_path, "--repo", repo],
        ["list"],
        ["init", "--repo", repo],
        ["init", "--repo", tmp_path],
        ["frobnicate"],
        ["show", "--repo", repo],
        ["verify", "--depth=deep", "--repo", repo],
    ):
        code, answer = run(*arguments)
        assert code == 2 and answer["error"]["code"] in ("usage", "target_occupied"), arguments
        assert set(answer["error"]) >= {"code", "message", "hint"} and answer["error"]["hint"]


def test_a_long_note_on_a_hold_exits_with_2(mine: History, run: Run) -> None:
    assert run("hold", "latest", "--note", "x" * 5000, "--repo", mine.repository.folder)[0] == 2
    assert mine.backup(3).hold is None


def test_a_missing_or_newer_repository_exits_with_3(mine: History, run: Run, tmp_path: Path) -> None:
    for place in (tmp_path / "absent", tmp_path, Path("/dev/null")):
        code, answer = run("list", "--repo", place)
        assert (code, answer["error"]["code"]) == (3, "no_repository")
    path = mine.repository.folder / "repository.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"format": 2}))
    for command in (["list"], ["verify"], ["prune", "--keep-last=1"], ["restore", "latest", "--to=x"]):
        code, answer = run(*command, "--repo", mine.repository.folder)
        assert (code, answer["error"]["code"]) == (3, "repository_too_new")


@pytest.mark.parametrize("left", [None, b"{", b"[]"])
def test_a_lost_identity_file_is_written_again(mine: History, run: Run, left: bytes | None) -> None:
    path, repo = mine.repository.folder / "repository.json", ["--repo", mine.repository.folder]
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    code, answer = run("list", *repo)
    assert (code, answer["error"]["code"]) == (3, "no_repository")
    assert f"refbackup init --repo {mine.repository.folder}" in answer["error"]["hint"]
    code, answer = run("init", *repo)
    written = json.loads(path.read_bytes())["id"]
    assert answer["recovered"] == {"id": written, "id_from": "new", "sets": 1, "backups": 4}
    assert [item["id"] for item in run("list", *repo)[1]["backups"]] == [*mine.ids[::-1]]
    damaged = path.with_name("repository.json.damaged")
    assert damaged.read_bytes() == left if left is not None else not damaged.exists()
    assert run("init", *repo)[0] == 2


def test_an_interrupted_init_is_repeated_and_a_folder_of_others_is_not_taken(tmp_path: Path, run: Run) -> None:
    repo = tmp_path / "repo"
    (repo / "backups").mkdir(parents=True)
    (repo / ".repository.json.0a1b.tmp").write_bytes(b"")
    assert run("init", "--repo", repo)[0] == 0
    other = tmp_path / "other"
    (other / "backups" / "2025").mkdir(parents=True)
    code, answer = run("init", "--repo", other)
    assert code == 2 and "is not empty" in answer["error"]["message"]


def test_a_backup_of_a_later_format_is_refused_and_the_others_are_not(mine: History, run: Run) -> None:
    import hashlib

    path = mine.place(3) / "manifest.json"
    content = path.read_bytes().replace(b'"format": 1', b'"format": 3')
    path.write_bytes(content)
    sums = path.with_name("SHA256SUMS")
    sums.write_text(sums.read_text().splitlines()[0] + f"\n{hashlib.sha256(content).hexdigest()}  manifest.json\n")
    repo = ["--repo", mine.repository.folder]
    for command in (["show", mine.ids[3]], ["restore", mine.ids[3], "--to=x"], ["verify", mine.ids[3]]):
        code, answer = run(*command, *repo)
        assert (code, answer["error"]["code"]) == (3, "repository_too_new"), command
    assert run("list", *repo)[0] == 0
    assert run("show", "latest", *repo)[1]["id"] == mine.ids[2]
    for command in (["prune", "--keep-last=1"], ["delete", mine.ids[2]]):
        assert run(*command, *repo)[0] == 3, "it may need what is taken away"
    assert len(mine.repository.ids("default")) == 4


def test_a_missing_or_busy_source_exits_with_6(repo: Path, database: Path, tmp_path: Path, run: Run) -> None:
    code, answer = run("create", "--sqlite", tmp_path / "no.sqlite3", "--chroma", tmp_path / "no", "--repo", repo)
    assert (code, answer["error"]["code"]) == (6, "source_broken")
    assert "no.sqlite3" in answer["error"]["message"] and str(tmp_path / "no:") in answer["error"]["message"]
    lock = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); d.execute('BEGIN IMMEDIATE')\n"
    lock += "print('locked', flush=True); sys.stdin.read()"
    with python(lock, database) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "locked\n"
        code, answer = run("create", "--sqlite", database, "--within=0.1", "--repo", repo)
        assert (code, answer["error"]["code"]) == (6, "source_busy")
        assert str(writer.pid) in answer["error"]["message"]
    assert run("list", "--repo", repo)[1] == {"backups": []}
    code, answer = run("create", "--chroma", tmp_path, "--repo", repo)
    assert code in (2, 6)


def test_a_locked_repository_exits_with_7(mine: History, database: Path, run: Run) -> None:
    repo = ["--repo", mine.repository.folder]
    with mine.repository.writing("create (full)", datetime.now(UTC)):
        for command in (["create", "--sqlite", database], ["prune", "--keep-last=1"], ["delete", mine.ids[3]]):
            code, answer = run(*command, *repo)
            assert (code, answer["error"]["code"]) == (7, "repository_locked")
            assert f"process {os.getpid()}" in answer["error"]["message"] and "create (full)" in answer["error"]["message"]
        for command in (["list"], ["verify"], ["restore", "latest", "--to=out", "--only=sqlite"]):
            assert run(*command, *repo)[0] == 0, "readers go on"


@pytest.mark.parametrize("step", ["archive-write", "archive-sync", "write", "publish"])
@pytest.mark.slow
def test_a_full_disk_exits_with_8_and_does_not_change_the_repository(
    mine: History, tmp_path: Path, database: Path, step: str
) -> None:
    repo = f"--repo={mine.repository.folder}"
    done = refbackup("create", f"--sqlite={database}", repo, "--json", cwd=tmp_path, REFBACKUP_FAULT=f"{step}:full")
    assert (done.code, done.json["error"]["code"]) == (8, "no_space")
    assert mine.repository.ids("default") == list(reversed(mine.ids))
    assert not [*(mine.repository.folder / "staging").iterdir()]


def test_a_cancelled_backup_exits_with_9(mine: History, tmp_path: Path, database: Path) -> None:
    """The backup waits for a lock and gets SIGTERM."""
    lock = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); d.execute('BEGIN IMMEDIATE')\n"
    lock += "print('locked', flush=True); sys.stdin.read()"
    with python(lock, database) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "locked\n"
        child = subprocess.Popen(
            [sys.executable, "-m", "backups.engine", "create", f"--sqlite={database}", f"--repo={mine.repository.folder}",
             "--json"],
            cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        until(lambda: [*(mine.repository.folder / "staging").glob("*")], "the backup was begun")
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 9 and json.loads(out)["error"]["code"] == "cancelled"
    assert mine.repository.ids("default") == list(reversed(mine.ids))
    assert not [*(mine.repository.folder / "staging").iterdir()]


def test_the_docstring_shows_the_tree_of_errors() -> None:
    import backups.engine.errors as errors

    assert errors.__doc__ is not None
    drawn = re.findall(r"^ *[│├└─ ]*([A-Z]\w+) +(\w+) +(\d+)(?: |$)", errors.__doc__, re.MULTILINE)
    assert drawn == [(kind.__name__, kind.code, str(kind.exit_code)) for kind in tree()]
    codes = [kind.code for kind in tree()]
    assert len(set(codes)) == len(codes)
    for kind in tree():
        assert kind.default_hint and kind("x").hint == kind.default_hint
        assert errors.from_json(kind("message", hint="hint", id="7").as_json()).as_json() == {
            "code": kind.code, "message": "message", "hint": "hint", "id": "7",
        }  # fmt: skip
        assert type(errors.from_json(kind("x").as_json())) is kind
    assert {kind.exit_code for kind in tree()} == set(range(1, 11))
    assert type(errors.from_json({"code": "of tomorrow", "message": "m", "hint": "h"})) is EngineError


def test_every_argument_has_a_help_text() -> None:
    parser = build_parser()
    (commands,) = (action for action in parser._actions if action.dest == "command")
    assert set(commands.choices) == {
        "init", "create", "list", "show", "files", "verify", "restore", "drill", "hold", "release", "delete", "prune", "doctor",
        "adopt", "key", "copy",
    }  # fmt: skip
    for sub in commands.choices.values():
        for action in sub._actions:
            assert action.help or action.dest == "json", (sub.prog, action.dest)


# Progress, settings, confirmation


@pytest.mark.slow
def test_progress_as_json_lines(repo: Path, database: Path, tmp_path: Path) -> None:
    done = refbackup("create", f"--sqlite={database}", f"--repo={repo}", "--progress=json", "--json", cwd=tmp_path)
    assert done.code == 0
    events = [json.loads(line) for line in done.err.splitlines()]
    assert {event["event"] for event in events} == {"progress", "log"}
    phases = [event for event in events if event["event"] == "progress"]
    keys = {"event", "operation", "phase", "done", "total", "rate", "elapsed", "left", "finished"}
    for event in phases:
        ends_cut = event["phase"] == "cut" and event["finished"]
        assert set(event) == (keys | {"pause_ms"} if ends_cut else keys)
        if ends_cut:
            assert event["pause_ms"] == json.loads(done.out)["pause_ms"]
    assert {event["operation"] for event in phases} == {"create", "verify"}
    assert any(event["finished"] for event in phases)
    quiet = refbackup("create", f"--sqlite={database}", f"--repo={repo}", "--progress=none", cwd=tmp_path)
    assert quiet.code == 0 and quiet.err == "" and ID.match(quiet.out)


@pytest.mark.slow
def test_the_environment_overrides_the_nearest_env_file(tmp_path: Path, database: Path) -> None:
    (tmp_path / ".env").write_text("BACKUP_REPOSITORY=repo\nBACKUP_SQLITE=app.sqlite3\nBACKUP_VERIFY_FULL=none\n")
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    assert refbackup("init", cwd=below).code == 0
    assert (tmp_path / "repo/repository.json").is_file(), "relative paths start at the file's folder"
    done = refbackup("create", "--json", cwd=below)
    assert done.code == 0 and done.json["verification"] == "none"
    assert done.json["sources"][0]["path"] == str(database)
    done = refbackup("create", "--json", cwd=below, BACKUP_VERIFY_FULL="hashes")
    assert done.json["verification"] == "hashes"
    done = refbackup("create", "--json", "--verify=restore", cwd=below, BACKUP_VERIFY_FULL="hashes")
    assert done.json["verification"] == "restore"
    assert refbackup("list", cwd=below, BACKUP_REPOSITORY=str(tmp_path / "other")).code == 3


def test_all_wrong_settings_are_reported_at_once(tmp_path: Path) -> None:
    wrong = {
        "BACKUP_VERIFY_FULL": "fully",
        "BACKUP_VERIFY_INCREMENTAL": "hash",
        "BACKUP_TRASH_HOURS": "a day",
        "REFSERVER_DATABASE": "a b=/x",
        "BACKUP_CHROMA": "=/y" + os.pathsep + "c d=/z",
        "BACKUP_START_COMMAND": "systemctl start 'app",
        "BACKUP_FILES": "/one",
        "REFSERVER_FILES": "/other",
    }
    misspelt = ("BACKUP_STOP_COMAND", "BACKUP_NONSENSE", "REFSERVER_DATABSE", "CHROMA_PAHT")
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}=x\n" for name in misspelt) + 'CHROMA_SERVER_HOST=x\nBACKUP_EXAMINE_COMMAND="a \'b"\n')
    done = refbackup("list", "--json", cwd=tmp_path, **wrong)
    assert done.code == 2
    _, *lines = done.json["error"]["message"].splitlines()
    assert len(lines) == len(wrong) + len(misspelt)  # one more in the file, and two names of one setting are one fault
    for name in (*wrong, "BACKUP_EXAMINE_COMMAND", *misspelt):
        assert any(name in line for line in lines), name
    for name in ("BACKUP_EXAMINE_COMMAND", *misspelt):
        assert f"(in {file})" in next(line for line in lines if name in line)
    assert sum("Did you mean" in line for line in lines) == 3


def test_sources_are_found_by_either_name(tmp_path: Path, database: Path) -> None:
    assert refbackup("init", "--repo=repo", cwd=tmp_path).code == 0
    for more in ({"BACKUP_SQLITE": "app.sqlite3"}, {"REFSERVER_DATABASE": "app.sqlite3"}):
        done = refbackup("create", "--repo=repo", "--no-verify", "--json", cwd=tmp_path, **more)
        assert [source["path"] for source in done.json["sources"]] == [str(database)]


@pytest.mark.parametrize(("command", "says"), [("no-such-program stop", "no program no-such-program"), ("sh -c 'x", "split")])
def test_a_command_that_cannot_run_ends_a_restore_before_it_begins(
    run: Run, mine: History, database: Path, command: str, says: str
) -> None:
    code, answer = run(
        "restore", "latest", "--in-place", "--yes", "--repo", mine.repository.folder, "--sqlite", database,
        "--start-command", command,
    )  # fmt: skip
    assert code == 2 and says in answer["error"]["message"]
    assert list(database.parent.glob(".refbackup-*")) == []


def test_an_unknown_setting_is_a_warning_and_stops_no_restore(tmp_path: Path, mine: History) -> None:
    (tmp_path / ".env").write_text("BACKUP_REPOSITRY=x\nREFBACKUP_NONSENSE=x\n")
    done = refbackup("restore", "latest", "--to=restored", "--json", f"--repo={mine.repository.folder}", cwd=tmp_path)
    assert done.code == 0 and done.json["to"]
    assert done.err.splitlines()[:2] == [
        f"Warning: There is no setting BACKUP_REPOSITRY (in {tmp_path / '.env'}). Did you mean BACKUP_REPOSITORY?",
        f"Warning: There is no setting REFBACKUP_NONSENSE (in {tmp_path / '.env'}). Remove it.",
    ]


def test_an_empty_value_means_the_default_in_the_file_and_is_a_problem_in_the_environment(tmp_path: Path) -> None:
    names = ("BACKUP_VERIFY_FULL", "BACKUP_VERIFY_INCREMENTAL", "BACKUP_TRASH_HOURS")
    (tmp_path / ".env").write_text("BACKUP_REPOSITORY=repo\n" + "".join(f"{name}=\n" for name in names))
    assert refbackup("init", cwd=tmp_path).code == 0
    done = refbackup("list", "--json", cwd=tmp_path, **dict.fromkeys(names, ""))
    assert done.code == 2
    for name in names:
        assert name in done.json["error"]["message"]


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "1e9", ""])
def test_invalid_hours(run: Run, mine: History, monkeypatch: pytest.MonkeyPatch, hours: str) -> None:
    monkeypatch.setenv("BACKUP_TRASH_HOURS", hours)
    code, answer = run("prune", "--keep-last=1", "--repo", mine.repository.folder)
    assert code == 2 and "BACKUP_TRASH_HOURS" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["restore", "latest", "--in"], "--in"),
        (["prune", "--all", "--keep-last=1"], "--all"),
        (["prune", "--set", "", "--keep-last=1"], "--set: it is empty"),
        (["list", "--repo", ""], "--repo: it is empty"),
        (["restore", "latest", "--to="], "--to: it is empty"),
        (["verify", ""], "ID: it is empty"),
        (["create", "--wait=-5"], "--wait: -5 is not a number of seconds"),
        (["create", "--within=nan"], "--within: nan is not a number of seconds"),
        (["create", "--kind=ful"], "choose from 'full', 'incremental'"),
        (["verify", "--depth=ful"], "choose from 'hashes', 'restore'"),
        (["restore", "latest", "--in-place", "--salvage", "--yes"], "--salvage cannot be used with --in-place"),
        (["restore", "latest", "--to=x", "--stop-command=true", "--ignore-open"], "--ignore-open and --stop-command cannot be"),
    ],
)
def test_what_would_be_guessed_or_ignored_is_refused(run: Run, mine: History, arguments: list[str], said: str) -> None:
    more = [] if "--repo" in arguments else ["--repo", str(mine.repository.folder)]
    code, answer = run(*arguments, *more)
    assert (code, answer["error"]["code"]) == (2, "usage") and said in answer["error"]["message"], answer


def in_place(mine: History, database: Path) -> list[str]:
    return ["restore", mine.ids[0], "--in-place", "--only=sqlite", f"--sqlite={database}", f"--repo={mine.repository.folder}"]


def test_without_a_terminal_a_restore_in_place_needs_yes(mine: History, database: Path, tmp_path: Path) -> None:
    before = rows_of(database)
    done = refbackup(*in_place(mine, database), "--json", cwd=tmp_path, stdin=mine.ids[0] + "\n")
    assert (done.code, done.json["error"]["code"]) == (1, "restore_refused") and "--yes" in done.json["error"]["hint"]
    done = refbackup(*in_place(mine, database), "--dry-run", "--json", cwd=tmp_path)
    assert done.code == 0 and done.json["targets"][0]["target"] == str(database)
    assert rows_of(database) == before
    done = refbackup(*in_place(mine, database), "--yes", "--json", cwd=tmp_path)
    assert done.code == 0 and len(rows_of(database)) == 3000
    has(done.json, id=str, to=str, seconds=float, bytes=int, checks=dict)
    assert ID.fullmatch(done.json["checks"]["safety_backup"])


@pytest.mark.parametrize("typed", ["the id", "yes", "y", "", "a prefix"])
@pytest.mark.slow
def test_on_a_terminal_the_id_confirms_a_restore_in_place(mine: History, database: Path, tmp_path: Path, typed: str) -> None:
    before = rows_of(database)
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "backups.engine", *in_place(mine, database)],
        cwd=tmp_path, env=clean_environment(), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(slave)
    try:
        answer = {"the id": mine.ids[0], "a prefix": mine.ids[0][:-1]}.get(typed, typed)
        os.write(master, answer.encode() + b"\n")
        _, said = child.communicate(timeout=60)
    finally:
        os.close(master)
    assert "Type the id" in said and mine.ids[0] in said
    if typed == "the id":
        assert child.returncode == 0 and len(rows_of(database)) == 3000
    else:
        assert child.returncode == 1 and rows_of(database) == before


def test_holds_are_stored_in_the_repository(mine: History, run: Run) -> None:
    mine.repository.set_hold(mine.backup(0), Hold(time=datetime(2026, 1, 1, tzinfo=UTC)))
    _, answer = run("list", "--repo", mine.repository.folder)
    assert [item["hold"] for item in answer["backups"]] == [None, None, None, ""]
    _, planned = run("prune", "--keep-last=1", "--dry-run", "--verified-floor=0", "--repo", mine.repository.folder)
    assert mine.ids[0] in {item["id"] for item in planned["kept"]}


# Nothing to check


def test_nothing_to_check_exits_with_4(repo: Path, database: Path, run: Run) -> None:
    to = ["--repo", repo]
    for command in (
        ["verify"], ["verify", "--all"], ["verify", "--all-sets"], ["drill"], ["prune", "--keep-last=1"],
        ["prune", "--keep-last=1", "--all-sets"], ["prune", "--keep-last=1", "--dry-run"],
    ):  # fmt: skip
        code, answer = run(*command, *to)
        assert (code, answer["error"]["code"]) == (4, "no_backup"), command
    assert run("list", *to) == (0, {"backups": []})
    assert run("prune", "--empty-trash", *to)[0] == 0, "that the trash is empty was checked"
    assert run("create", "--sqlite", database, "--no-verify", *to)[0] == 0
    for command in (["verify", "--all"], ["verify"], ["drill"], ["prune", "--keep-last=1"], ["list"], ["show", "latest"]):
        code, answer = run(*command, "--set=typo", *to)
        assert (code, answer["error"]["code"]) == (4, "no_backup"), command
        assert "typo" in answer["error"]["message"] and "default" in answer["error"]["hint"]
        assert run(*command, *to)[0] == 0, command
    assert len(run("verify", "--all-sets", *to)[1]["results"]) == 1
    assert run("verify", "--all", "--all-sets", "--set=default", *to)[0] == 2


@pytest.mark.parametrize("planted", [os.mkfifo, lambda place: place.symlink_to(place.parent), Path.mkdir])
def test_a_lock_that_cannot_be_taken_is_refused_before_there_is_a_backup(
    run: Run, database: Path, repo: Path, planted: Callable[[Path], None]
) -> None:
    """The verification takes it, after the backup is published."""
    place = repo / "readers"
    place.unlink(missing_ok=True)
    planted(place)
    code, answer = run("create", "--sqlite", database, "--repo", repo)
    assert code == 1 and str(place) in answer["error"]["message"], answer
    assert not list(repo.glob("backups/*/*")) and not list(repo.glob("staging/*"))
