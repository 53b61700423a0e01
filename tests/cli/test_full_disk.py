"""A repository on a disk without a free byte: what frees space works there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.restore.stores import ROOT, clean_environment

MOUNTED = 'mount -t tmpfs -o size=8m tmpfs "$1" || exit 77; shift; exec "$@"'

SCRIPT = """
import contextlib, io, json, os, shutil, sqlite3, sys
from pathlib import Path
from backups.engine.cli import main

disk = Path(sys.argv[1])
repo, database = disk / "repo", disk.parent / "app.sqlite3"
with contextlib.closing(sqlite3.connect(database)) as made:
    made.execute("CREATE TABLE note (body TEXT)")
    made.execute("INSERT INTO note VALUES (?)", [os.urandom(200_000).hex()])
    made.commit()

def run(*words, repo=repo):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*map(str, words), "--json", "--progress=none", f"--repo={repo}"])
    return code, json.loads(out.getvalue())

live = disk / "live.sqlite3"
with contextlib.closing(sqlite3.connect(live)) as made:
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("CREATE TABLE note (body TEXT)")
assert run("init", repo=disk.parent / "elsewhere")[0] == 0

assert run("init")[0] == 0
ids = [run("create", f"--sqlite={database}", "--no-verify")[1]["id"] for _ in range(4)]
assert run("hold", ids[0])[0] == 0

def on_full_disk(*words, **where):
    with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    assert shutil.disk_usage(disk).free == 0
    return run(*words, **where)

seen = {}
seen["verify"] = on_full_disk("verify", "--all")
seen["live"] = on_full_disk("create", f"--sqlite={live}", "--no-verify", repo=disk.parent / "elsewhere")
seen["create"] = on_full_disk("create", f"--sqlite={database}", "--no-verify")
seen["doctor"] = on_full_disk("doctor", f"--sqlite={database}")
seen["release"] = on_full_disk("release", ids[0])
seen["delete"] = on_full_disk("delete", ids[0])
seen["prune"] = on_full_disk("prune", "--keep-last=1", "--verified-floor=0")
seen["emptied"] = on_full_disk("prune", "--empty-trash")
seen["then"] = shutil.disk_usage(disk).free
seen["again"] = run("create", f"--sqlite={database}", "--no-verify")
seen["left"] = sorted(p.name for p in (repo / "backups/default").iterdir())
seen["ids"] = ids
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_what_frees_space_works_with_no_byte_free(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNTED, "sh", disk, sys.executable, "-c", SCRIPT, disk],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if not done.stdout and done.returncode != 1:
        pytest.skip(f"this machine does not allow mounts in a namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    ids = seen["ids"]
    code, answer = seen["verify"]
    assert code == 8 and answer["ok"] and [result["id"] for result in answer["results"]] == ids[::-1]
    assert all("No space left" in result["unrecorded"] and result["bytes"] for result in answer["results"])
    code, answer = seen["live"]
    assert (code, answer["error"]["code"]) == (8, "no_space"), "the data's disk"
    assert f"The disk of {disk / 'live.sqlite3'} is full" in answer["error"]["message"]
    assert "nothing else is known to be wrong with the data" in answer["error"]["hint"]
    code, answer = seen["create"]
    assert (code, answer["error"]["code"]) == (8, "no_space")
    assert "prune --empty-trash" in answer["error"]["hint"]
    code, diagnosis = seen["doctor"]
    full = next(one for one in diagnosis["findings"] if one["subject"] == f"disk of {disk / 'repo'}")
    assert (code, full["level"]) == (1, "problem") and "0 B free" in full["message"]
    assert seen["release"][0] == 0
    assert seen["delete"] == [0, {"id": ids[0], "deleted": True}]
    code, pruned = seen["prune"]
    assert code == 0 and {item["id"] for item in pruned["removed"]} == set(ids[1:3])
    code, emptied = seen["emptied"]
    assert code == 0 and {name.rpartition(".")[2] for name in emptied["emptied"]} == set(ids[:3])
    assert seen["then"] > 0
    assert seen["again"][0] == 0
    assert seen["left"] == [ids[3], seen["again"][1]["id"]]
