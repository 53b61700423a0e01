"""Examines single ids: what each store holds of them, and what is wrong with them.

`classify` is pure. Its rules, in their order:

1. Several rows with the id: ``duplicate_id``, nothing else.
2. A row whose parent does not exist: ``orphaned_sqlite``; if Chroma has it too, also ``orphaned_chromadb``; nothing else.
3. No row: ``orphaned_chromadb`` if Chroma names a parent that does not exist, else ``missing_in_sqlite``; a vector without a
   record is ``stray_vector``.
4. A row and no record: ``missing_in_chromadb``.
5. The row's vector is unusable: ``wrong_dimension`` or ``invalid_vector``; it is not compared.
6. Chroma has the record without a vector: ``missing_vector``; with one that is unusable: ``invalid_vector``.
7. The vectors, or the models, differ: ``embedding_mismatch``.
8. Metadata or document differ: ``metadata_mismatch``, also beside 5 to 7.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from backups.engine.chroma_files.index import Floats
from backups.engine.chroma_files.records import Record, find_records
from backups.engine.chroma_files.tables import Collection, pending_ids
from backups.engine.chroma_files.vectors import Vectors

from .compare import differs, tolerance_of
from .findings import Cause, Finding, FindingKind, Repair, Severity, finding
from .mapping import Mapping, Scalar
from .rows import Row, Rows

_SHOWN = 8
"""Values of a vector that a finding shows."""

_STRIPES = 64
"""Stripes in the picture of a vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the stores hold of one id. *stray*: a vector in the index without a record. *pending*: a change is under way."""

    id: str
    row: Row | None
    record: Record | None
    stray: bytes | None = None
    parent_exists: bool = True
    pending: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever the content of a store does."""
        content = (
            self.row and replace(self.row, rowid=0),
            self.record and (self.record.sequence, self.record.vector, self.record.document, sorted(self.record.metadata)),
            self.record and [repr(self.record.metadata[key]) for key in sorted(self.record.metadata)],
            self.stray,
            self.parent_exists,
            self.pending,
        )
        return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def gather(rows: Rows, vectors: Vectors, ids: Sequence[str], under_way: Iterable[str] = ()) -> list[Facts]:
    """What the stores hold of *ids*, each id once; *under_way* are ids that the application will complete."""
    ids = list(dict.fromkeys(ids))
    held = rows.find(ids)
    places = vectors.places_of(ids)
    records: dict[str, Record] = {}
    pending = set(under_way)
    if vectors.collection is not None:
        records = find_records(vectors.database, vectors.collection, ids)
        pending |= set(pending_ids(vectors.database, vectors.collection))
    read = {identifier: vectors.one(place) for identifier, place in places.items()}
    records = {identifier: replace(record, vector=read.get(identifier)) for identifier, record in records.items()}
    key = rows.mapping.parent.metadata if rows.mapping.parent else ""
    named = {identifier: record.metadata[key] for identifier, record in records.items() if key in record.metadata}
    parents = rows.parents([value for value in set(named.values()) if isinstance(value, str | int)]) if key else set()
    return [
        Facts(
            id=identifier,
            row=held.get(identifier),
            record=records.get(identifier),
            stray=read.get(identifier) if identifier not in records else None,
            parent_exists=identifier not in named or named[identifier] in parents,
            pending=identifier in pending,
        )
        for identifier in ids
    ]


def classify(mapping: Mapping, collection: Collection | None, facts: Facts, instant: datetime | None) -> list[Finding]:
    """What is wrong with one id. *instant* is the time of the stores' contents, None if unknown."""
    found = list(_wrong(mapping, collection, facts))
    in_flight = facts.pending or _is_recent(mapping, facts.row, instant)
    done = []
    for item in found:
        values: dict[str, Any] = {
            "fingerprint": facts.fingerprint,
            "parent": facts.row.parent if facts.row else _named_parent(mapping, facts.record),
            "sqlite": _of_row(facts.row),
            "chroma": _of_record(facts),
        }
        if in_flight:
            values |= {"cause": Cause.IN_FLIGHT, "severity": Severity.INFO}
        done.append(replace(item, **values))
    return done


def _wrong(mapping: Mapping, collection: Collection | None, facts: Facts) -> Iterable[Finding]:
    row, record = facts.row, facts.record
    about = {"mapping": mapping.name, "record": facts.id}
    parent = mapping.parent.name if mapping.parent else "parent"
    if row is not None and row.twins > 1:
        yield finding(FindingKind.DUPLICATE_ID, message=f"{row.twins} rows claim this id; Chroma can hold one.", **about)
    elif row is not None and row.orphan:
        missing = f"{parent} {row.parent}, which does not exist"
        yield finding(FindingKind.ORPHANED_SQLITE, message=f"The row names {missing}.", **about)
        if record is not None:
            yield finding(
                FindingKind.ORPHANED_CHROMADB,
                message=f"The vector belongs to {missing}.",
                **about,
            )
    elif row is None:
        if record is None:
            if facts.stray is not None:
                yield finding(FindingKind.STRAY_VECTOR, message="Chroma's index holds a vector that no record names.", **about)
        elif not facts.parent_exists:
            gone = _named_parent(mapping, record)
            yield finding(
                FindingKind.ORPHANED_CHROMADB, message=f"The vector belongs to {parent} {gone}, which does not exist.", **about
            )
        else:
            yield finding(FindingKind.MISSING_IN_SQLITE, message="The vector has no row in SQLite.", **about)
    elif record is None:
        yield from _unusable(mapping, collection, row, None, about)
        repair = Repair.NONE if _fault(collection, row) else Repair.WRITE
        yield finding(FindingKind.MISSING_IN_CHROMADB, message="The row's vector is not in Chroma.", repair=repair, **about)
    else:
        yield from _compared(mapping, collection, row, record, about)


def _compared(
    mapping: Mapping, collection: Collection | None, row: Row, record: Record, about: dict[str, Any]
) -> Iterable[Finding]:
    fault = _fault(collection, row)
    repair = Repair.NONE if fault else Repair.WRITE
    if fault:
        yield from _unusable(mapping, collection, row, record, about)
    elif record.vector is None:
        yield finding(FindingKind.MISSING_VECTOR, message="Chroma has the record without a vector.", **about)
    elif len(record.vector) == len(row.vector) and (what := _bad_values(record.vector)):
        yield finding(
            FindingKind.INVALID_VECTOR, message=f"The vector in Chroma has {what}; the one in SQLite is valid.", **about
        )
    else:
        yield from _mismatch(mapping, collection, row, record, about)
    names = tuple(_differences(mapping, row, record))
    if names:
        text = f"Chroma and the row differ in {', '.join(names)}."
        yield finding(FindingKind.METADATA_MISMATCH, message=text, differences=names, repair=repair, **about)


def _mismatch(
    mapping: Mapping, collection: Collection | None, row: Row, record: Record, about: dict[str, Any]
) -> Iterable[Finding]:
    names, said, cause = [], [], Cause.UNKNOWN
    assert record.vector is not None
    if len(record.vector) != len(row.vector):
        names.append("dimension")
        said.append(f"{len(record.vector) // 4} values instead of {len(row.vector) // 4}")
    elif differs(row.vector, record.vector, tolerance_of(mapping, collection)):
        names.append("values")
        with np.errstate(over="ignore", invalid="ignore"):
            apart = float(np.linalg.norm(unpacked(row.vector).astype(np.float64) - unpacked(record.vector)))
        said.append(f"they are {apart:.3g} apart")
    if mapping.model and record.metadata.get(mapping.model.key) != row.model:
        names.append("model")
        said.append(f"{record.metadata.get(mapping.model.key)} instead of {row.model}")
        cause = Cause.OTHER_MODEL
    elif (
        names
        and record.written
        and row.changed
        and (written := _instant(record.written))
        and (changed := _instant(row.changed))
    ):
        cause = Cause.OLDER if written < changed else cause
    if names:
        text = f"The vector in Chroma is not the row's: {'; '.join(said)}."
        yield finding(FindingKind.EMBEDDING_MISMATCH, message=text, differences=tuple(names), cause=cause, **about)


def _unusable(
    mapping: Mapping, collection: Collection | None, row: Row, record: Record | None, about: dict[str, Any]
) -> Iterable[Finding]:
    fault = _fault(collection, row)
    if fault:
        kind, what = fault
        also = " The one in Chroma is the same." if record and record.vector == row.vector else ""
        yield finding(
            kind, message=f"The vector in SQLite has {what}.{also}", severity=Severity.CRITICAL, repair=Repair.NONE, **about
        )


def _fault(collection: Collection | None, row: Row) -> tuple[FindingKind, str] | None:
    length, rest = divmod(len(row.vector), 4)
    if rest or not length:
        return FindingKind.WRONG_DIMENSION, f"{len(row.vector)} bytes, which is not a whole number of values"
    if row.dimension is not None and row.dimension != length:
        return FindingKind.WRONG_DIMENSION, f"{length} values, and its row says {row.dimension}"
    if collection and collection.dimension and collection.dimension != length:
        return FindingKind.WRONG_DIMENSION, f"{length} values, and the collection's have {collection.dimension}"
    what = _bad_values(row.vector)
    return (FindingKind.INVALID_VECTOR, what) if what else None


def unpacked(vector: bytes) -> Floats:
    """The float32 values of *vector*, as far as its length allows."""
    return np.frombuffer(vector[: len(vector) // 4 * 4], "<f4")


def _bad_values(vector: bytes) -> str:
    values = unpacked(vector)
    if np.isnan(values).any():
        return "NaN values"
    if np.isinf(values).any():
        return "infinite values"
    return "" if values.any() else "only zeros"


def _differences(mapping: Mapping, row: Row, record: Record) -> Iterable[str]:
    for field in mapping.metadata:
        ours, theirs = row.values[field.key], record.metadata.get(field.key)
        if not _same(ours, theirs, real=field.column.type == "real"):
            yield field.key
    if mapping.document and record.document != row.document:
        yield "document"


def _same(ours: Scalar, theirs: Any, *, real: bool) -> bool:
    if real and isinstance(theirs, int) and not isinstance(theirs, bool):
        theirs = float(theirs)
    return type(ours) is type(theirs) and ours == theirs


def _named_parent(mapping: Mapping, record: Record | None) -> Scalar:
    if record is None or mapping.parent is None:
        return None
    value = record.metadata.get(mapping.parent.metadata)
    return value if isinstance(value, str | int | float | bool) else None


def _is_recent(mapping: Mapping, row: Row | None, instant: datetime | None) -> bool:
    """Whether the row was changed so shortly before *instant* that its vector may not be written yet."""
    if instant is None or row is None or not (changed := _instant(row.changed)):
        return False
    return (instant - changed).total_seconds() < mapping.grace


def _instant(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _of_row(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    shown: dict[str, Any] = {"row": row.rowid, **row.values, "vector": _shown(row.vector)}
    optional = {"model": row.model, "document": row.document, "changed": row.changed}
    return shown | {key: value for key, value in optional.items() if value is not None}


def _of_record(facts: Facts) -> dict[str, Any] | None:
    """A record as a finding shows it; where both sides have a vector, with how they differ."""
    shown = _shown_record(facts)
    if shown is not None and shown["vector"] is not None and facts.row is not None:
        theirs = facts.record.vector if facts.record is not None else facts.stray
        if theirs is not None and theirs != facts.row.vector and len(theirs) == len(facts.row.vector) and len(theirs) % 4 == 0:
            shown["vector"]["apart"] = _apart(facts.row.vector, theirs)
    return shown


def _apart(ours: bytes, theirs: bytes) -> dict[str, Any]:
    """How two vectors of one dimension differ: distance, cosine, in how many values, and the first of these with both sides."""
    left, right = unpacked(ours), unpacked(theirs)
    places = np.flatnonzero(left.view(np.uint32) != right.view(np.uint32))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        wide = left.astype(np.float64), right.astype(np.float64)
        distance = float(np.linalg.norm(wide[0] - wide[1]))
        cosine = float(wide[0] @ wide[1] / (np.linalg.norm(wide[0]) * np.linalg.norm(wide[1])))
    first = [[int(at), _plain(float(left[at])), _plain(float(right[at]))] for at in places[:_SHOWN]]
    return {"distance": _plain(distance), "cosine": _plain(cosine), "differing": len(places), "first": first}


def _shown_record(facts: Facts) -> dict[str, Any] | None:
    record = facts.record
    if record is None:
        return {"vector": _shown(facts.stray)} if facts.stray is not None else None
    shown: dict[str, Any] = {
        **{key: _plain(value) for key, value in record.metadata.items()},
        "vector": _shown(record.vector) if record.vector is not None else None,
    }
    optional = {"document": record.document, "written": record.written}
    return shown | {key: value for key, value in optional.items() if value is not None}


def _plain(value: Any) -> Any:
    """*value*, or its text for a number that JSON cannot represent."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _shown(vector: bytes) -> dict[str, Any]:
    values = unpacked(vector)
    with np.errstate(over="ignore", invalid="ignore"):
        length = float(np.linalg.norm(values.astype(np.float64)))
    return {
        "dimension": len(vector) // 4,
        "length": _plain(length),
        "hash": hashlib.blake2b(vector, digest_size=8).hexdigest(),
        "first": [_plain(float(value)) for value in values[:_SHOWN]],
        "picture": _picture(values),
    }


def _picture(values: Any) -> list[float]:
    """A vector as at most `_STRIPES` numbers of three digits, each the greatest of its stripe; NaN and infinity count as 0."""
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if not len(finite):
        return []
    stripes = np.array_split(finite, min(_STRIPES, len(finite)))
    return [float(f"{stripe[np.argmax(np.abs(stripe))]:.3g}") for stripe in stripes]
