"""The library's declaration for the consistency app: papers and pages, where Chroma is, and how it is written."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
from django.conf import settings
from django.db import transaction

from consistency.declaration import Declaration, Mirror, VectorRecord
from refserver.library import unsettled
from refserver.library.vectors import PAGES, PAPERS, CollectionName, Edit, Record, store


class GateWriter:
    """Writes through the library's gate inside a transaction, as `catalogue` does.

    It writes no note (`unsettled`): a repair has its own journal, and undoing one restores vectors that differ from the rows.
    """

    def changing(self) -> AbstractContextManager[Any]:
        """Hold SQLite's write lock, as every change of the library does."""
        return transaction.atomic(durable=True)

    def apply(self, collection: str, *, delete: Sequence[str], write: Sequence[VectorRecord]) -> None:
        """Delete, then add or replace, holding the gate once."""
        name = cast(CollectionName, collection)
        records = [
            Record(
                id=record.id,
                vector=np.frombuffer(record.vector, dtype="<f4").astype(np.float32),
                document=record.document,
                metadata=record.metadata,
            )
            for record in write
        ]
        store().apply(Edit(delete={name: list(delete)}, write={name: records}))

    def recreate(self, collection: str) -> None:
        """Replace a collection by an empty one with the same settings, holding the gate."""
        store().recreate(cast(CollectionName, collection))


def _under_way(mirror: str) -> Collection[str]:
    """Ids whose change was interrupted; the next change of the library corrects them."""
    return unsettled.together(note.ids for note in unsettled.pending())[cast(CollectionName, mirror)]


_SHARED_METADATA = {"paper_id": "paper_id", "title": "paper__title", "file_name": "paper__file_name"}
_SHARED: dict[str, Any] = {"dimension": "dimension", "embedding_model": "model", "parent": "paper", "parent_key": "paper_id"}

DECLARATION = Declaration(
    mirrors=(
        Mirror(
            name=PAPERS,
            model="library.Embedding",
            collection=PAPERS,
            id="paper-{paper_id}",
            metadata=_SHARED_METADATA,
            document=("paper__title", "paper__summary"),
            **_SHARED,
        ),
        Mirror(
            name=PAGES,
            model="library.PageEmbedding",
            collection=PAGES,
            id="page-{pk}",
            metadata={**_SHARED_METADATA, "page": "page"},
            document=("text",),
            **_SHARED,
        ),
    ),
    chroma=lambda: Path(settings.CHROMA_PATH),
    writer=GateWriter,
    under_way=_under_way,
)
