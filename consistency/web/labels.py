"""How pages name kinds of finding, repairs, causes and severities."""

from collections.abc import Mapping

from consistency.engine.findings import Cause, FindingKind, Repair, Severity, State

KINDS: Mapping[str, tuple[str, str]] = {
    FindingKind.MISSING_IN_CHROMADB: ("Missing in Chroma", "A row without its vector in Chroma: a search does not find it."),
    FindingKind.MISSING_IN_SQLITE: ("Missing in SQLite", "A vector whose row is gone: a search finds something deleted."),
    FindingKind.EMBEDDING_MISMATCH: ("Vectors differ", "The two vectors differ in dimension, model or values."),
    FindingKind.ORPHANED_CHROMADB: ("Orphaned vector", "A vector whose parent is gone."),
    FindingKind.ORPHANED_SQLITE: ("Orphaned row", "A row whose parent is gone."),
    FindingKind.COUNT_MISMATCH: ("Counts differ", "A parent, or a whole mapping, has different numbers of rows and vectors."),
    FindingKind.METADATA_MISMATCH: ("Metadata differs", "Chroma's metadata or document differs from the row."),
    FindingKind.MISSING_VECTOR: ("Record without vector", "Chroma has the record but not its vector."),
    FindingKind.STRAY_VECTOR: ("Vector without record", "Chroma's index holds a vector that no record uses."),
    FindingKind.INVALID_VECTOR: ("Invalid vector", "A vector with values that are not finite numbers, or all zero."),
    FindingKind.WRONG_DIMENSION: ("Wrong dimension", "A vector in SQLite does not have the expected number of values."),
    FindingKind.DUPLICATE_ID: ("Duplicate id", "Several rows have the same id; Chroma can hold only one of them."),
    FindingKind.BROKEN_FOREIGN_KEY: ("Broken foreign key", "A row refers to another row that does not exist."),
    FindingKind.BROKEN_INDEX: ("Broken index", "Chroma's index contradicts itself: a search may fail, or find less."),
}
"""Kind of finding: its name, and what it means."""

REPAIRS: Mapping[str, str] = {
    Repair.WRITE: "write SQLite's values into Chroma",
    Repair.DELETE_VECTOR: "delete the vector",
    Repair.DELETE_ROW: "delete the row",
    Repair.RESTORE_ROW: "restore the row from a backup",
    Repair.REBUILD_INDEX: "rebuild the index",
    Repair.FOLLOWS: "solved by the other repairs",
    Repair.NONE: "manual",
}
CAUSES: Mapping[str, str] = {
    Cause.IN_FLIGHT: "It is in flight: its row changed so recently that the vector may still follow.",
    Cause.OLDER: "The vector is older than the row's last change.",
    Cause.OTHER_MODEL: "The two sides name different models.",
}
_RECOMPUTE_FIRST = "Recompute the row's vector first: the present one is not usable."
MANUAL_STEPS: Mapping[str, str] = {
    FindingKind.STRAY_VECTOR: "Write the record again, or rebuild the collection.",
    FindingKind.INVALID_VECTOR: "Recompute the row's vector; Chroma follows.",
    FindingKind.WRONG_DIMENSION: "Recompute the row's vector with the collection's model.",
    FindingKind.DUPLICATE_ID: "Give all rows but one another id, or delete them.",
    FindingKind.BROKEN_FOREIGN_KEY: "Point it to an existing row, or delete it.",
    FindingKind.MISSING_IN_CHROMADB: _RECOMPUTE_FIRST,
    FindingKind.METADATA_MISMATCH: _RECOMPUTE_FIRST,
}
"""Kind of finding: what to do when it cannot be repaired automatically."""

TONES: Mapping[str, str] = {
    Severity.INFO: "busy",
    Severity.WARNING: "warn",
    Severity.ERROR: "bad",
    Severity.CRITICAL: "bad",
    State.CONSISTENT: "good",
    State.DEGRADED: "warn",
    State.INCONSISTENT: "bad",
}
"""Severity of a finding, or state of a check: the class of its colour. ``critical`` is both."""
