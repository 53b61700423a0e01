"""The contents of a repair's journal: records and rows as JSON, the record to write, and when two entries are the same."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from backups.engine.chroma_files.records import Record
from consistency.declaration import VectorRecord
from consistency.engine.compare import differs
from consistency.engine.mapping import Mapping as StoreMapping
from consistency.engine.rows import Row
from consistency.models import Repair, Step
from consistency.repairs.lost_rows import Reason, TableRow

Stored = dict[str, Any]
"""``{"record": {"vector", "document", "metadata"} or None, "row": {column: value} or None}``."""


def stored(record: Record | VectorRecord | None, row: dict[str, Any] | None = None) -> Stored:
    """A record and a row, as the journal keeps them."""
    kept = None
    if record is not None:
        kept = {
            "vector": _encoded(record.vector) if record.vector is not None else None,
            "document": record.document,
            "metadata": dict(record.metadata),
        }
    return {"record": kept, "row": {key: _encoded(value) for key, value in row.items()} if row is not None else None}


def stored_rows(rows: Sequence[TableRow], left: Mapping[Reason, int]) -> Stored:
    """What an entry holds after rows were inserted: these rows, in order; as ``lost``, how many others stay lost, and why."""
    kept = [
        {
            "table": row.table,
            "key": list(row.key),
            "references": row.references,
            "row": {key: _encoded(value) for key, value in row.values.items()},
        }
        for row in rows
    ]
    lost = [{"table": table, "rows": number, "why": why} for (table, why), number in sorted(left.items())]
    return {"record": None, "row": None, "rows": kept, **({"lost": lost} if lost else {})}


def rows_of(held: Stored) -> list[TableRow]:
    """The inserted rows of a journal entry."""
    return [
        TableRow(
            table=one["table"],
            key=tuple(one["key"]),
            values=row_of({"record": None, "row": one["row"]}) or {},
            references=one["references"],
        )
        for one in held.get("rows", ())
    ]


def still_lost(made: Repair) -> Counter[str]:
    """By table, how many rows that refer to restored ones could not be restored."""
    lost: Counter[str] = Counter()
    for entries in (
        made.steps.filter(after__has_key="lost").exclude(state=Step.State.UNDONE).values_list("after__lost", flat=True)
    ):
        for entry in entries:
            lost[entry["table"]] += entry["rows"]
    return lost


def record_of(identifier: str, held: Stored) -> VectorRecord | None:
    """The record of a journal entry; None if there was none, or one without a vector, which cannot be written again."""
    kept = held["record"]
    if kept is None or kept["vector"] is None:
        return None
    return VectorRecord(id=identifier, vector=_decoded(kept["vector"]), document=kept["document"], metadata=kept["metadata"])


def row_of(held: Stored) -> dict[str, Any] | None:
    """The row of a journal entry, by column."""
    row = held["row"]
    return (
        {key: _decoded(value) if isinstance(value, dict) else value for key, value in row.items()} if row is not None else None
    )


def target_record(mapping: StoreMapping, row: Row, record: Record | None) -> VectorRecord:
    """The record that Chroma should hold for *row*. Metadata that the mapping does not name is kept."""
    mapped = {field.key: row.values[field.key] for field in mapping.metadata}
    if mapping.model is not None:
        mapped[mapping.model.key] = row.model
    metadata = {**(record.metadata if record is not None else {}), **mapped}
    document = row.document if mapping.document else record.document if record is not None else None
    return VectorRecord(
        id=row.id,
        vector=row.vector,
        document=document,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def same(held: Stored, other: Stored, tolerance: float) -> bool:
    """Whether two entries are the same. Vectors may be *tolerance* apart, for collections that do not keep them bit for bit."""
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
    packed = [_decoded(vector) for vector in vectors]
    return len(packed[0]) == len(packed[1]) and not differs(packed[0], packed[1], tolerance)


def loses_keys(before: Stored, after: VectorRecord) -> bool:
    """Whether *before* has keys or a document that *after* lacks: Chroma merges metadata, so it must be deleted first."""
    kept = before["record"]
    if kept is None:
        return False
    return bool(set(kept["metadata"]) - set(after.metadata)) or (kept["document"] is not None and after.document is None)


def _encoded(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _decoded(value: dict[str, str]) -> bytes:
    return base64.b64decode(value["base64"])
