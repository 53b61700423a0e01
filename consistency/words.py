"""How pages say what is wrong, how bad it is, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping

from consistency.engine.findings import Cause, FindingKind, Repair, Severity, State

KINDS: Mapping[str, tuple[str, str]] = {
    FindingKind.MISSING_IN_CHROMADB: ("Missing in Chroma", "A row whose vector is not in Chroma: a search does not find it."),
    FindingKind.MISSING_IN_SQLITE: ("Missing in SQLite", "A vector whose row is gone: a search finds what is not there."),
    FindingKind.EMBEDDING_MISMATCH: (
        "Vectors differ",
        "The two vectors differ in dimension, model or values.",
    ),
    FindingKind.ORPHANED_CHROMADB: ("Orphaned vector", "A vector whose parent is gone."),
    FindingKind.ORPHANED_SQLITE: ("Orphaned row", "A row whose parent is gone."),
    FindingKind.COUNT_MISMATCH: ("Counts differ", "A parent, or a whole mapping, has another number of rows than of vectors."),
    FindingKind.METADATA_MISMATCH: (
        "Metadata differs",
        "Chroma's metadata or document differs from the row.",
    ),
    FindingKind.MISSING_VECTOR: ("Record without vector", "Chroma has the record and no vector of it."),
    FindingKind.STRAY_VECTOR: ("Vector without record", "Chroma's index holds a vector that no record names."),
    FindingKind.INVALID_VECTOR: ("Invalid vector", "Values that are no numbers, infinite, or all zero."),
    FindingKind.WRONG_DIMENSION: ("Wrong dimension", "A vector in SQLite has another number of values than it should have."),
    FindingKind.DUPLICATE_ID: ("Duplicate id", "Several rows claim one id; Chroma can hold one of them."),
    FindingKind.BROKEN_FOREIGN_KEY: ("Broken foreign key", "A row names another one that is not there."),
}
"""Kind of finding -> what it is called, and what that means."""

REPAIRS: Mapping[str, str] = {
    Repair.WRITE: "write SQLite's values into Chroma",
    Repair.DELETE_VECTOR: "delete the vector",
    Repair.DELETE_ROW: "delete the row",
    Repair.FOLLOWS: "follows from the others",
    Repair.NONE: "by hand",
}
CAUSES: Mapping[str, str] = {
    Cause.IN_FLIGHT: "It is in flight: its row was changed so shortly before that the vector may still follow.",
    Cause.OLDER: "The vector is older than the row's last change.",
    Cause.OTHER_MODEL: "The two sides name different models.",
}
BY_HAND: Mapping[str, str] = {
    FindingKind.STRAY_VECTOR: "Write the record anew, or rebuild the collection.",
    FindingKind.INVALID_VECTOR: "Compute the row's vector anew; Chroma follows.",
    FindingKind.WRONG_DIMENSION: "Compute the row's vector anew, with the model that the collection is made for.",
    FindingKind.DUPLICATE_ID: "Give all rows but one another id, or delete them.",
    FindingKind.BROKEN_FOREIGN_KEY: "Point it to a row that is there, or delete it.",
    FindingKind.MISSING_IN_CHROMADB: "Compute the row's vector anew first: the one that it has cannot be used.",
    FindingKind.METADATA_MISMATCH: "Compute the row's vector anew first: the one that it has cannot be used.",
}
"""What a person does where no repair can."""

TONES: Mapping[str, str] = {
    Severity.INFO: "busy",
    Severity.WARNING: "warn",
    Severity.ERROR: "bad",
    Severity.CRITICAL: "bad",
    State.CONSISTENT: "good",
    State.DEGRADED: "warn",
    State.INCONSISTENT: "bad",
}
"""Severity of a finding, or state of a check -> class of its colour. ``critical`` is both."""
