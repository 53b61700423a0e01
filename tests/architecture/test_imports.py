"""Import rules: two guards, because an import linter alone passed a tree whose package imported Django."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import backups.engine

ROOT = Path(__file__).resolve().parents[2]
ENGINE = sorted(
    module.name
    for module in pkgutil.walk_packages(backups.engine.__path__, "backups.engine.")
    if not module.name.endswith("__main__")
)
SHARED = "pydantic,numpy,rich,email.message"
"""Imported once, before the children are forked: most modules need them, and they take most of the time."""
LEAN = ("backups.engine.capture.holder", "backups.engine.capture.packer", "backups.engine.prober")

# A fresh interpreter without Django forks a child for each module, so that each is the first of the engine to be imported
LOAD = """
import importlib, json, os, sys, traceback

sys.modules["django"] = None
for name in sys.argv[1].split(","):
    importlib.import_module(name)
for module in sys.argv[2:]:
    sys.stdout.flush()
    if os.fork() == 0:
        error = ""
        try:
            importlib.import_module(module)
        except BaseException:
            error = traceback.format_exc()
        loaded = sorted({name.partition(".")[0] for name in sys.modules})
        print(json.dumps({"module": module, "error": error, "loaded": loaded}), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict]:
    """For each module of the engine the top-level packages that importing it loads, and the error if it cannot be imported."""
    return load(SHARED, ENGINE)


def load(before: str, modules: Sequence[str]) -> dict[str, dict]:
    done = subprocess.run([sys.executable, "-c", LOAD, before, *modules], capture_output=True, text=True, cwd=ROOT, check=True)
    return {answer["module"]: answer for answer in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("module", ENGINE)
@pytest.mark.slow
def test_engine_module_loads_without_django_and_chroma(module, loaded):
    assert not loaded[module]["error"], loaded[module]["error"]
    assert not {"django_q", "chromadb", "refserver"} & set(loaded[module]["loaded"])


def test_children_start_quickly():
    for module, answer in load("json", LEAN).items():
        assert not answer["error"] and not {"pydantic", "rich", "numpy", "dotenv"} & set(answer["loaded"]), module


def test_commands_that_need_no_vectors_load_no_numpy():
    code = "import sys, django; django.setup(); import backups.engine.doctor; print('numpy' in sys.modules)"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "refserver.settings", "REFSERVER_ENV_FILE": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert done.stdout == "False\n"


def test_import_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout
