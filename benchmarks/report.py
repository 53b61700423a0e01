"""Renders results as a Markdown table with goals, and as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

MET, MISSED, OPEN = "met", "missed", "–"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table. ``detail`` holds the measurements, for the JSON file.

    ``met`` is None if the goal cannot be judged: no figure, no peer to compare with, or too little data.
    """

    name: str
    work: str
    ours: str
    others: str = ""
    goal: str = ""
    met: bool | None = None
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or a dash."""
        return OPEN if self.met is None else MET if self.met else MISSED

    def as_json(self) -> dict[str, object]:
        """Return the row with its verdict and measurements."""
        fields = asdict(self)
        del fields["met"]
        return {**fields, "verdict": None if self.met is None else self.verdict}


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| work | refbackup | limit and peers | goal | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (row.work, row.ours, row.others, row.goal, row.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def seconds(value: float | None) -> str:
    """Return ``1.23 s`` or ``45 ms``, a dash for None."""
    if value is None:
        return OPEN
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def milliseconds(value: float) -> str:
    """Return ``0.3 ms`` or ``12 ms``."""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def size(value: float | None) -> str:
    """Return ``1.2 GB`` or ``340 kB`` (powers of 1,000), a dash for None."""
    if value is None:
        return OPEN
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
