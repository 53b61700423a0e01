"""What SQLite's checks of a database found."""

from collections import Counter
from dataclasses import dataclass, field

from .time_limit import TimeLimit


@dataclass(slots=True)
class Verdict:
    """What the checks found until ``limit`` passed; nothing that is added later counts.

    ``unknown``: how many of the findings, from the first, are about what cannot be checked here. ``skipped``: what was not
    looked at because that takes more time, or a copy.
    """

    damage: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unknown: int = 0
    broken_keys: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    accepted: Counter[str] = field(default_factory=Counter)
    limit: TimeLimit | None = field(default=None, compare=False)

    @property
    def late(self) -> bool:
        """Whether the limit has passed."""
        return self.limit is not None and self.limit.passed

    @property
    def partial(self) -> bool:
        """Whether some checks could not run here."""
        return self.unknown > 0

    def damaged(self, message: str) -> None:
        """Add damage."""
        if not self.late and message not in self.damage:
            self.damage.append(message)

    def found(self, message: str) -> None:
        """Add a finding."""
        if not self.late:
            self.findings.append(message)

    def unchecked(self, what: str, why: object) -> None:
        """Add a finding about something that cannot be checked here."""
        if not self.late:
            self.findings.insert(self.unknown, f"{what} cannot be checked here: {why}")
            self.unknown += 1
