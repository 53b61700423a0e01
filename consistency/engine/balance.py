"""How many more rows than vectors a mapping has, in total and for each parent, according to its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .findings import Finding, FindingKind, Severity, finding
from .mapping import Mapping


class Balance:
    """Adds up the findings of one mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._of_parent: Counter[Any] = Counter()
        self._total = 0

    def add(self, item: Finding) -> None:
        """Count a finding; one in flight does not count."""
        if item.severity is Severity.INFO:
            return
        if item.kind in (FindingKind.ORPHANED_SQLITE, FindingKind.ORPHANED_CHROMADB):
            if item.sqlite is None or item.chroma is None:  # only one side has it
                self._total += 1 if item.kind is FindingKind.ORPHANED_SQLITE else -1
            return
        more = {FindingKind.MISSING_IN_CHROMADB: 1, FindingKind.MISSING_IN_SQLITE: -1}.get(item.kind, 0)
        self._total += more
        parent = self._mapping.parent
        if more and parent is not None and parent.counted and item.parent is not None:
            self._of_parent[item.parent] += more

    def findings(self) -> Iterator[Finding]:
        """A finding for each parent whose numbers differ, and one for the totals."""
        parent = self._mapping.parent
        for key, more in sorted(self._of_parent.items(), key=lambda pair: str(pair[0])):
            if more and parent is not None:
                yield self._finding(f"{parent.name}:{key}", key, f"{_surplus(more)} of {parent.name} {key}.", more)
        if self._total:
            yield self._finding("", None, f"{_surplus(self._total)} in all.", self._total)

    def _finding(self, record: str, parent: Any, message: str, more: int) -> Finding:
        return finding(
            FindingKind.COUNT_MISMATCH,
            mapping=self._mapping.name,
            record=record,
            parent=parent,
            message=message,
            fingerprint=str(more),
            sqlite={"more": more} if more > 0 else None,
            chroma={"more": -more} if more < 0 else None,
        )


def _surplus(more: int) -> str:
    return f"There are {abs(more)} more {'rows than vectors' if more > 0 else 'vectors than rows'}"
