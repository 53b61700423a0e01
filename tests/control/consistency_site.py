"""A site whose rows and vectors do not agree: something of every kind that can be repaired, planted by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import numpy as np

from refserver.library.models import PageEmbedding, Paper
from refserver.library.vectors import PAGES, PAPERS, Edit, Record, store
from tests.control.conftest import settings_of
from tests.library.places import Places

PLANTED = {
    "missing_in_chromadb": 2,
    "missing_in_sqlite": 1,
    "embedding_mismatch": 1,
    "orphaned_chromadb": 2,
    "orphaned_sqlite": 2,
    "count_mismatch": 1,
    "metadata_mismatch": 1,
}
"""Kind -> how many of it `plant` makes."""

SAFE, ASKS = 6, 3


def joined(places: Places) -> dict[str, Any]:
    """The setting BACKUPS with what the project adds for consistency."""
    return settings_of(places) | {"EXTENSIONS": ["backups_consistency"]}


def plant(places: Places) -> list[int]:
    """Spoil the stores of the sample library; returns the numbers of the pages that were."""
    pages = list(PageEmbedding.objects.order_by("pk").values_list("pk", flat=True)[:8])
    here = store().records(PAGES, [f"page-{n}" for n in pages])
    turned, renamed, foreign = (here[f"page-{n}"] for n in pages[1:4])
    store().apply(
        Edit(
            delete={PAPERS: ["paper-1"], PAGES: [f"page-{pages[0]}"]},
            write={
                PAGES: [
                    Record(turned.id, np.flip(turned.vector).copy(), turned.document, turned.metadata),
                    Record(renamed.id, renamed.vector, renamed.document, {**renamed.metadata, "title": "<b>Wrong</b> title"}),
                    Record("page-90001", foreign.vector, foreign.document, {**foreign.metadata, "paper_id": 1}),
                ]
            },
        )
    )
    gone = Paper.objects.filter(pages__isnull=False).order_by("-pk")[0]
    with closing(sqlite3.connect(places.settings["REFSERVER_DATABASE"])) as database, database:
        database.execute("DELETE FROM library_metadata WHERE paper_id = ?", (gone.pk,))
        database.execute("DELETE FROM library_paper WHERE id = ?", (gone.pk,))
    return pages


def vectors_of() -> dict[str, tuple[bytes, str | None, dict[str, Any]]]:
    """Every record of both collections."""
    ids: dict[Any, list[str]] = {
        PAPERS: [f"paper-{number}" for number in range(1, 60)],
        PAGES: ["page-90001", *(f"page-{number}" for number in range(1, 300))],
    }
    return {
        record.id: (record.vector.tobytes(), record.document, dict(record.metadata))
        for name, wanted in ids.items()
        for record in store().records(name, wanted).values()
    }
