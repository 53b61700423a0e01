"""Valid and invalid declarations for tests."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from django.conf import settings
from django.db import transaction

from consistency.declaration import Declaration, Mirror, VectorRecord
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


class OverHttp:
    """Writes to a Chroma server."""

    def changing(self) -> AbstractContextManager[Any]:
        return transaction.atomic(durable=True)

    def apply(self, collection: str, *, delete: Sequence[str], write: Sequence[VectorRecord]) -> None:
        client = chromadb.HttpClient(host="127.0.0.1", port=int(settings.CHROMA_ADDRESS.rpartition(":")[2]))
        there = client.get_collection(collection, embedding_function=None)
        if delete:
            there.delete(ids=list(delete))
        if write:
            there.upsert(
                ids=[record.id for record in write],
                embeddings=[np.frombuffer(record.vector, "<f4") for record in write],
                documents=[record.document or "" for record in write],
                metadatas=[dict(record.metadata) for record in write],
            )


SERVER = replace(DECLARATION, chroma=lambda: str(settings.CHROMA_ADDRESS), writer=OverHttp)

WITHOUT_RECREATE = replace(DECLARATION, writer=OverHttp)

COPIES: list[Path | None] = []
"""Databases of backups, newest first, for `copies`; None is a damaged one."""


def copies(database: Path) -> Generator[tuple[str, Path | None], None, None]:
    yield from ((f"backup-{number}", path) for number, path in enumerate(COPIES))
