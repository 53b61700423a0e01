"""The documents of the project and the fenced blocks in them.

A block may have a marker, an HTML comment on the line before it:

==================== ==============================================================================
marker               the test
==================== ==============================================================================
``run``              runs the shell block; all blocks of a document run in one shell and one folder
``run, twice``       the same, one time after the other
``run, any status``  the same, but a command that fails does not stop it
``file: NAME``       writes the block into that file, then continues
``example: NAME``    is a part of the worked example of the format
==================== ==============================================================================

A comment ``<!-- setup`` ... ``-->`` is shell that runs too but is hidden from readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
_PARTS = re.compile(
    r"^ *<!-- setup\n(?P<setup>.*?)^ *-->$|(?:^ *<!-- (?P<marker>[^\n]*?) -->\n)?^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


def documents() -> list[Path]:
    """All Markdown documents of the root and of ``docs/``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """The path of a document from the root."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block, or a hidden setup; *line* is where its text begins."""

    language: str
    marker: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a document in order."""
    content = page.read_text(encoding="utf-8")
    for found in _PARTS.finditer(content):
        group = "setup" if found["setup"] is not None else "text"
        line = content.count("\n", 0, found.start(group)) + 1
        if group == "setup":
            yield Block("sh", "setup", dedent(found["setup"]), line)
        else:
            yield Block(found["language"], found["marker"] or "", dedent(found["text"]), line)
