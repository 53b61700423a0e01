"""Declarations to test with, right and wrong ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from consistency.declaration import Declaration, Mirror
from refserver.library.consistency import DECLARATION


def _no_room(reason: str) -> str:
    raise OSError("no room")


WITH_SNAPSHOT = replace(DECLARATION, snapshot=lambda reason: f"snapshot {reason}")
WITH_BROKEN_SNAPSHOT = replace(DECLARATION, snapshot=_no_room)


def _wrong(**changes: object) -> Declaration:
    pages = next(mirror for mirror in DECLARATION.mirrors if mirror.name == "pages")
    return replace(DECLARATION, mirrors=(replace(pages, **changes),))  # type: ignore[arg-type]


NO_MODEL = _wrong(model="library.Nothing")
NO_FIELD = _wrong(metadata={"title": "paper__headline"})
NO_VECTOR = _wrong(vector="text")
NO_KEY = _wrong(metadata={"x": "page__title"})
NOT_REPEATABLE = _wrong(metadata={"added": "paper__added"})
NO_PARENT = _wrong(parent="text")
SAME_ID = _wrong(id="page")
TWO_TEXTS = _wrong(id="{text}-{model}")
NOT_UNIQUE = _wrong(id="page-{paper_id}")
UNIQUE_TOGETHER = _wrong(id="{paper_id}/{page}")
TWICE = replace(DECLARATION, mirrors=DECLARATION.mirrors * 2)
NO_WRITER = replace(DECLARATION, writer=None)
ELSEWHERE = Declaration(
    mirrors=(Mirror(name="jobs", model="consistency.Check", collection="x", id="{pk}", vector="error"),),
    chroma=lambda: Path("chroma"),
)
NOTHING = "not a declaration"
