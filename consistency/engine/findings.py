"""The kinds of findings, their severities and repairs, and the state that they add up to.

======================= ========= ================================================= ============================ ======
kind                    severity  what is wrong                                     repair                       safe
======================= ========= ================================================= ============================ ======
``missing_in_chromadb`` error     a row whose vector is not in Chroma               ``write`` SQLite's           yes
``missing_in_sqlite``   error     a vector without a row                            ``delete_vector``            asks
``embedding_mismatch``  error     two vectors differ: dimension, model or values    ``write`` SQLite's           yes
``orphaned_chromadb``   error     a vector whose parent does not exist              ``delete_vector``            asks
``orphaned_sqlite``     warning   a row whose parent does not exist                 ``delete_row``               yes
``count_mismatch``      warning   rows and vectors of a parent, or totals, differ   ``follows`` from the others
``metadata_mismatch``   warning   Chroma's copy of the row's values differs         ``write`` SQLite's           yes
``missing_vector``      error     a record of Chroma without a vector               ``write`` SQLite's           yes
``stray_vector``        error     a vector in Chroma's index without a record       ``none``
``invalid_vector``      error     NaN, infinite or zero values, in Chroma alone     ``write`` SQLite's           yes
``invalid_vector``      critical  the same in SQLite                                ``none``: recompute it
``wrong_dimension``     critical  a vector in SQLite with another number of values  ``none``: recompute it
``duplicate_id``        critical  several rows that claim one id in Chroma          ``none``
``broken_foreign_key``  error     a row of SQLite whose foreign key has no target   ``none``
``broken_index``        error     a collection whose index contradicts itself       ``rebuild_index``            asks
======================= ========= ================================================= ============================ ======

A finding that is in flight (its row was changed so shortly before that its vector may still follow) has severity ``info``.
The state is that of the worst finding: ``consistent`` with none above info, ``degraded`` with warnings, ``inconsistent`` with
errors, ``critical``. Safe repairs run automatically only if nothing is critical.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from .mapping import Scalar


class FindingKind(StrEnum):
    """What is wrong."""

    MISSING_IN_CHROMADB = "missing_in_chromadb"
    MISSING_IN_SQLITE = "missing_in_sqlite"
    EMBEDDING_MISMATCH = "embedding_mismatch"
    ORPHANED_CHROMADB = "orphaned_chromadb"
    ORPHANED_SQLITE = "orphaned_sqlite"
    COUNT_MISMATCH = "count_mismatch"
    METADATA_MISMATCH = "metadata_mismatch"
    MISSING_VECTOR = "missing_vector"
    STRAY_VECTOR = "stray_vector"
    INVALID_VECTOR = "invalid_vector"
    WRONG_DIMENSION = "wrong_dimension"
    DUPLICATE_ID = "duplicate_id"
    BROKEN_FOREIGN_KEY = "broken_foreign_key"
    BROKEN_INDEX = "broken_index"


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class State(StrEnum):
    """What the findings of a check add up to."""

    CONSISTENT = "consistent"
    DEGRADED = "degraded"
    INCONSISTENT = "inconsistent"
    CRITICAL = "critical"


class Cause(StrEnum):
    """Why, if it is known."""

    UNKNOWN = ""
    IN_FLIGHT = "in_flight"
    OLDER = "older"
    OTHER_MODEL = "other_model"


class Repair(StrEnum):
    """What repairs it. No rule names ``restore_row``: a person chooses it where a row is lost."""

    WRITE = "write"
    DELETE_VECTOR = "delete_vector"
    DELETE_ROW = "delete_row"
    RESTORE_ROW = "restore_row"
    REBUILD_INDEX = "rebuild_index"
    FOLLOWS = "follows"
    NONE = "none"


SAFE = frozenset({Repair.WRITE, Repair.DELETE_ROW})
"""Repairs that lose nothing: SQLite is the authority."""

_RULES: dict[FindingKind, tuple[Severity, Repair]] = {
    FindingKind.MISSING_IN_CHROMADB: (Severity.ERROR, Repair.WRITE),
    FindingKind.MISSING_IN_SQLITE: (Severity.ERROR, Repair.DELETE_VECTOR),
    FindingKind.EMBEDDING_MISMATCH: (Severity.ERROR, Repair.WRITE),
    FindingKind.ORPHANED_CHROMADB: (Severity.ERROR, Repair.DELETE_VECTOR),
    FindingKind.ORPHANED_SQLITE: (Severity.WARNING, Repair.DELETE_ROW),
    FindingKind.COUNT_MISMATCH: (Severity.WARNING, Repair.FOLLOWS),
    FindingKind.METADATA_MISMATCH: (Severity.WARNING, Repair.WRITE),
    FindingKind.MISSING_VECTOR: (Severity.ERROR, Repair.WRITE),
    FindingKind.STRAY_VECTOR: (Severity.ERROR, Repair.NONE),
    FindingKind.INVALID_VECTOR: (Severity.ERROR, Repair.WRITE),
    FindingKind.WRONG_DIMENSION: (Severity.CRITICAL, Repair.NONE),
    FindingKind.DUPLICATE_ID: (Severity.CRITICAL, Repair.NONE),
    FindingKind.BROKEN_FOREIGN_KEY: (Severity.ERROR, Repair.NONE),
    FindingKind.BROKEN_INDEX: (Severity.ERROR, Repair.REBUILD_INDEX),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem of one record.

    *record* is the id in Chroma; for a broken key ``table:rowid``; for counts ``parent:key``, or empty for totals; for a broken
    index the name of the collection. *sqlite*
    and *chroma* show each side, None if it has nothing; *differences* names what differs. *fingerprint* changes whenever either
    side does.
    """

    kind: FindingKind
    mapping: str
    record: str
    message: str
    severity: Severity
    repair: Repair
    parent: Scalar = None
    sqlite: dict[str, Any] | None = None
    chroma: dict[str, Any] | None = None
    differences: tuple[str, ...] = ()
    cause: Cause = Cause.UNKNOWN
    fingerprint: str = ""

    @property
    def safe(self) -> bool:
        """Whether its repair needs no confirmation."""
        return self.repair in SAFE

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "differences": list(self.differences), "safe": self.safe}


def finding(kind: FindingKind, **values: Any) -> Finding:
    """A finding with the severity and repair that the rules give its kind, unless *values* say otherwise."""
    severity, repair = _RULES[kind]
    if values.get("cause") is Cause.IN_FLIGHT:
        severity = Severity.INFO
    return Finding(**{"kind": kind, "severity": severity, "repair": repair, **values})


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of findings, by kind and by severity, each exact; in flight are those of severity info."""

    kinds: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)

    def add(self, item: Finding) -> None:
        """Count one more."""
        if item.severity is not Severity.INFO:
            self.kinds[item.kind] += 1
        self.severities[item.severity] += 1

    @property
    def findings(self) -> int:
        """All but those in flight."""
        return self.kinds.total()

    @property
    def state(self) -> State:
        """What they add up to."""
        for severity, state in (
            (Severity.CRITICAL, State.CRITICAL),
            (Severity.ERROR, State.INCONSISTENT),
            (Severity.WARNING, State.DEGRADED),
        ):
            if self.severities[severity]:
                return state
        return State.CONSISTENT
