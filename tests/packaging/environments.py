"""Environments that the wheel is installed into, and what runs from them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.pages import ROOT, blocks

UV = [sys.executable, "-m", "uv"]
SETTINGS = ("BACKUP_", "REFSERVER_", "CHROMA_", "REFBACKUP_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def build(folder: Path) -> Path:
    """The wheel of this tree, built in *folder* without fetching anything."""
    tree = folder / "tree"
    for name in ("backups", "consistency", "refserver"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=tree, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path, python: str = sys.executable) -> Path:
    """The interpreter of a new environment without any package."""
    subprocess.run([*UV, "venv", "--quiet", "--no-python-downloads", "--python", python, str(folder)], check=True)
    return folder / "bin/python"


def install(python: Path, *what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UV, "pip", "install", "--quiet", "--python", str(python), *what], capture_output=True, text=True, check=False
    )


def freeze(python: Path) -> dict[str, str]:
    """The version of each package."""
    listed = subprocess.run([*UV, "pip", "freeze", "--python", str(python)], capture_output=True, text=True, check=True)
    return dict(line.split("==") for line in listed.stdout.splitlines() if "==" in line)


def link_closure(python: Path, names: set[str]) -> set[str]:
    """Link packages of this environment, and what they need, into another of the same Python. Returns all their names."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    linked: set[str] = set()
    left = set(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in linked:
            continue
        linked.add(name)
        found = distribution(name)
        for top in {Path(file).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
        wanted = map(Requirement, found.requires or ())
        left |= {one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
    return linked


def clean(python: Path, **more: str) -> dict[str, str]:
    """The process's environment without settings, and with the programs of *python*'s environment first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
    return {**kept, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", **more}


def run_readme(python: Path, planted: Path, folder: Path) -> str:
    """Run the README's first three commands from the environment of *python*, beside an application. Returns their output."""
    shutil.copytree(planted, folder / "app")
    listed = list(blocks(ROOT / "README.md"))
    setup = next(block for block in listed if block.marker == "setup")
    commands = next(block for block in listed if block.marker == "run")
    assert re.findall(r"^refbackup (\w+)", commands.text, re.MULTILINE) == ["init", "create", "list"]
    script = f'set -euo pipefail\n{setup.text}\n{commands.text}\ncheck_refbackup --repo "$REPOSITORY"'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=clean(python), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"  # 1: the disk of the tests may be nearly full
    assert "BACKUPS OK" in done.stdout or "BACKUPS WARNING" in done.stdout, f"{done.stdout}\n{done.stderr}"
    return done.stdout
