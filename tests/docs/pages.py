"""The documents of the project and the fenced blocks in them.

A block may have a marker, an HTML comment on the line before it:

==================== ==============================================================================
marker               the test
==================== ==============================================================================
``run``              runs the shell block; all of a document's run in one shell, in one folder
``run, any status``  the same, and a command that fails does not end it
``file: NAME``       writes the block into that file before it goes on
``example: NAME``    takes it as a part of the worked example of the format
==================== ==============================================================================

A comment ``<!-- setup`` ... ``-->`` is shell that is run as well and that readers do not see.
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
    """Every Markdown document: those beside the code, and those in ``docs/``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """How tests call a document."""
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
