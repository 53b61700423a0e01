"""The probe on a restored backup, in an interpreter without Django; and the imports of the engine."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

import consistency.engine
from consistency.engine.errors import Mistake
from consistency.probe import probe
from consistency.resolution import description
from refserver.library import vectors
from tests.consistency.stores import DESCRIPTION, Home, plant
from tests.library.places import ROOT, Places

ENGINE = sorted(module.name for module in pkgutil.walk_packages(consistency.engine.__path__, "consistency.engine."))


@pytest.mark.parametrize("module", [*ENGINE, "consistency.probe"])
def test_the_engine_loads_without_django_and_without_chroma(module: str) -> None:
    code = f"import sys; sys.modules['django'] = None; import {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.split())
    assert not {"chromadb", "refserver", "django_q", "rich", "pydantic"} & {name.partition(".")[0] for name in loaded}
    shared = {"errors", "names", "runtime", "chroma_files"}  # all of the engine that the check is built on
    assert {name.split(".")[2] for name in loaded if name.startswith("backups.engine.")} <= shared
    assert {name for name in loaded if name.startswith("backups.") and not name.startswith("backups.engine")} == set()


def asked(request: dict[str, Any], folder: Path) -> tuple[int, dict[str, Any]]:
    """Run the probe in a process in which Django cannot be imported."""
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    code = "import sys; sys.modules['django'] = None\nfrom consistency.probe import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_backup_is_as_consistent_as_its_source(sample_library: Places, tmp_path: Path) -> None:
    restored = tmp_path / "restored"
    repository = str(tmp_path / "repository")

    def refbackup(*arguments: str) -> dict[str, Any]:
        done = sample_library.python("-m", "backups.engine", *arguments, "--repo", repository, "--json", "--progress", "none")
        assert done.returncode == 0, done.stderr + done.stdout
        return dict(json.loads(done.stdout))

    with connection.cursor() as cursor:
        cursor.execute("UPDATE library_paper SET title = 'Another' WHERE id = 3")
    vectors.store().apply(vectors.Edit(delete={vectors.PAPERS: ["paper-5"]}))
    vectors.store().close()
    refbackup("init")
    sources = ["--sqlite", str(sample_library.settings["REFSERVER_DATABASE"]), "--chroma", str(sample_library.chroma)]
    made = refbackup("create", "--no-verify", *sources)
    refbackup("restore", made["id"], "--to", str(restored))
    request = {
        "description": description().as_json(),
        "sqlite": {"refserver": str(restored / "sqlite" / "refserver.sqlite3")},
        "chroma": {"chroma": str(restored / "chroma" / "chroma")},
        "instant": made["time"],
    }
    before = sorted(path.name for path in (restored / "sqlite").iterdir())
    code, answer = asked(request, tmp_path)
    assert (code, answer["state"], answer["left_out"]) == (5, "inconsistent", [])
    assert answer["kinds"] == {"missing_in_chromadb": 1, "metadata_mismatch": 2, "count_mismatch": 1}
    assert {item["record"] for item in answer["listed"]} == {"paper-3", "page-3", "paper-5", ""}
    assert sorted(path.name for path in (restored / "sqlite").iterdir()) == before  # nothing appeared beside the copy
    code, answer = asked(request | {"chroma": {}}, tmp_path)
    assert (code, answer["left_out"]) == (0, ["papers", "pages"])


@pytest.mark.slow
def test_the_probe_answer(home: Home, tmp_path: Path) -> None:
    plant(home, "missing_in_chromadb", "orphaned_chromadb")
    home.close()
    request = {
        "description": DESCRIPTION.as_json(),
        "sqlite": {"app": str(home.database)},
        "chroma": {"chroma": str(home.chroma)},
        "limit": 1,
    }
    code, answer = asked(request, tmp_path)
    assert (code, answer["findings"], len(answer["listed"])) == (5, 5, 3)
    code, answer = asked(request | {"sqlite": {"app": str(tmp_path / "none")}}, tmp_path)
    assert (code, answer["error"]["code"]) == (1, "unreadable")
    code, answer = asked({"description": {}}, tmp_path)
    assert (code, answer["error"]["code"]) == (2, "usage")


def test_the_instant_decides_what_was_in_flight(home: Home) -> None:
    """A backup of an application that writes vectors after its commit."""
    plant(home, "missing_in_chromadb")
    home.sql("UPDATE page SET changed = '2026-11-21 02:59:58' WHERE id = 3")
    home.close()
    stores: dict[str, Any] = {"sqlite": {"app": home.database}, "chroma": {"chroma": home.chroma}}
    at = datetime(2026, 11, 21, 3, tzinfo=UTC)
    answer = probe(DESCRIPTION.as_json(), **stores, instant=at.isoformat())
    assert (answer["state"], answer["in_flight"], answer["findings"]) == ("consistent", 1, 0)
    answer = probe(DESCRIPTION.as_json(), **stores, instant=at.replace(hour=4).isoformat())
    assert (answer["state"], answer["in_flight"]) == ("inconsistent", 0)
    with pytest.raises(Mistake, match="version"):
        probe({}, **stores)
