"""What a repair puts into its journal: records and rows as JSON, what a record is to hold, and when two are the same."""

from __future__ import annotations

import base64
from typing import Any

from consistency.declaration import VectorRecord
from consistency.engine.chroma import Record
from consistency.engine.compare import differs
from consistency.engine.mapping import Mapping
from consistency.engine.rows import Row

Stored = dict[str, Any]
"""``{"record": {"vector", "document", "metadata"} or None, "row": {column: value} or None}``."""


def stored(record: Record | VectorRecord | None, row: dict[str, Any] | None = None) -> Stored:
    """What one id holds, as the journal keeps it."""
    kept = None
    if record is not None:
        kept = {
            "vector": _kept(record.vector) if record.vector is not None else None,
            "document": record.document,
            "metadata": dict(record.metadata),
        }
    return {"record": kept, "row": {key: _kept(value) for key, value in row.items()} if row is not None else None}


def record_of(identifier: str, held: Stored) -> VectorRecord | None:
    """The record of a journal's entry; None where there was none, or one without a vector, which nobody can write again."""
    kept = held["record"]
    if kept is None or kept["vector"] is None:
        return None
    return VectorRecord(id=identifier, vector=_bytes(kept["vector"]), document=kept["document"], metadata=kept["metadata"])


def row_of(held: Stored) -> dict[str, Any] | None:
    """The row of a journal's entry, by column."""
    row = held["row"]
    return {key: _bytes(value) if isinstance(value, dict) else value for key, value in row.items()} if row is not None else None


def wanted(mapping: Mapping, row: Row, record: Record | None) -> VectorRecord:
    """What Chroma is to hold of *row*. What the mapping does not speak of is left as it is."""
    spoken = {field.key: row.values[field.key] for field in mapping.metadata}
    if mapping.model is not None:
        spoken[mapping.model.key] = row.model
    metadata = {**(record.metadata if record is not None else {}), **spoken}
    document = row.document if mapping.document else record.document if record is not None else None
    return VectorRecord(
        id=row.id,
        vector=row.vector,
        document=document,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def same(held: Stored, other: Stored, tolerance: float) -> bool:
    """Whether two entries say the same. Vectors may be *tolerance* apart, where Chroma does not keep them bit for bit."""
    if held["row"] != other["row"] or (held["record"] is None) != (other["record"] is None):
        return False
    if held["record"] is None:
        return True
    ours, theirs = dict(held["record"]), dict(other["record"])
    vectors = ours.pop("vector"), theirs.pop("vector")
    if ours != theirs or (vectors[0] is None) != (vectors[1] is None):
        return False
    if vectors[0] is None or vectors[0] == vectors[1]:
        return True
    packed = [_bytes(vector) for vector in vectors]
    return len(packed[0]) == len(packed[1]) and not differs(packed[0], packed[1], tolerance)


def loses_keys(before: Stored, after: VectorRecord) -> bool:
    """Whether a record holds something that *after* does not: Chroma merges metadata, so it has to be deleted first."""
    kept = before["record"]
    if kept is None:
        return False
    return bool(set(kept["metadata"]) - set(after.metadata)) or (kept["document"] is not None and after.document is None)


def _kept(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _bytes(value: dict[str, str]) -> bytes:
    return base64.b64decode(value["base64"])
