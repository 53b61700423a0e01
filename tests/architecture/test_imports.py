"""Who may import whom: two guards, for an import linter alone passed a tree whose package imported Django."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import backups.engine

ROOT = Path(__file__).resolve().parents[2]
ENGINE = sorted(module.name for module in pkgutil.walk_packages(backups.engine.__path__, "backups.engine."))
LEAN = ("backups.engine.capture.holder", "backups.engine.capture.packer")


def loaded_by(module: str) -> set[str]:
    """The top-level packages in memory after a fresh interpreter, in which Django cannot be imported, loaded *module*."""
    code = (
        "import sys, json, importlib\n"
        "sys.modules['django'] = None\n"
        f"importlib.import_module({module!r})\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", [name for name in ENGINE if not name.endswith("__main__")])
def test_every_module_of_the_engine_loads_without_django_and_without_chroma(module):
    assert not {"django_q", "chromadb", "refserver"} & loaded_by(module)


@pytest.mark.parametrize("module", LEAN)
def test_the_children_of_a_capture_start_quickly(module):
    assert not {"pydantic", "rich", "numpy", "dotenv"} & loaded_by(module)


def test_the_contracts_of_the_import_linter_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout


def test_modules_are_named_for_their_subject():
    for package in ("backups", "consistency", "refserver"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in {"utils", "helpers", "manager", "misc", "common"}, path
