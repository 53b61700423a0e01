"""Modules have names from the field, public names have docstrings, and ARCHITECTURE.md shows the packages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("backups", "backups_consistency", "consistency", "refserver")
MODULES = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "migrations" not in path.parts and path.stat().st_size
]
LINES = 400
WHY_LONG = re.compile(r"\b(one|a single|this) module\b|\bkept (together|in one)\b|\blines\b", re.IGNORECASE)
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def undocumented(tree: ast.Module) -> list[str]:
    """Public classes and functions without a docstring.

    A class that only adds fields to a base, like the errors that their module lists, needs none, nor does the finder of a
    condition: its declaration says what it finds.
    """
    missing = []
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_") or ast.get_docstring(node):
            continue
        if any(ast.unparse(decorator).startswith("condition(") for decorator in node.decorator_list):
            continue
        if isinstance(node, ast.ClassDef) and node.bases and not any(isinstance(part, ast.FunctionDef) for part in node.body):
            continue
        missing.append(node.name)
    return missing


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_and_its_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not undocumented(tree)


def test_long_modules_say_why():
    long = {
        name(path): ast.get_docstring(ast.parse(content)) or ""
        for path in MODULES
        if (content := path.read_text(encoding="utf-8")).count("\n") > LINES
    }
    unexplained = sorted(path for path, docstring in long.items() if not WHY_LONG.search(docstring))
    assert not unexplained, f"over {LINES} lines: split them, or say in the docstring why they are one module"


def test_modules_are_named_for_their_subject():
    for path in MODULES:
        assert path.stem not in {"utils", "helpers", "manager", "misc", "common"}, path


def layout() -> str:
    """The tree of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = re.search(r"^## Layout\n\n```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_architecture_names_every_package():
    """Packages down to the second level, except the ones that Django prescribes."""
    tree = layout()
    for package in PACKAGES:
        for folder in sorted({path.parent.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}):
            prescribed = {"migrations", "commands", "templatetags", "management", "sample"} & set(folder.parts)
            if not prescribed and folder.parent != Path("backups/api"):
                assert f"{folder.name}/" in tree, folder


def test_architecture_names_only_modules_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|sh))`", text):
        assert (
            any(module.name == path for package in (*PACKAGES, "scripts") for module in (ROOT / package).rglob("*.*"))
            if "/" not in path
            else any((ROOT / base / path).exists() for base in ("", "backups", "backups/engine"))
        ), path
    for line in layout().splitlines():
        for path in re.findall(r"\b[a-z_]+\.py\b", line):
            assert (ROOT / "backups" / path).exists() or (ROOT / "backups" / "engine" / path).exists(), path
