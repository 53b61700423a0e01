"""The results: a Markdown table with the goal beside each figure, the same as JSON, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

MET, MISSED, OPEN = "met", "missed", "–"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table.

    ``ours`` and ``others`` are text for people, ``detail`` is what was measured, for the JSON file. ``met``
    is None where there is nothing to judge: no figure of ours, no peer to compare with, or data too small
    for the goal.
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
        """The row as JSON, its measurements included."""
        return {
            "name": self.name,
            "work": self.work,
            "ours": self.ours,
            "others": self.others,
            "goal": self.goal,
            "verdict": self.verdict if self.met is not None else None,
            "detail": dict(self.detail),
        }


def table(rows: Iterable[Row]) -> str:
    """Write the rows as a Markdown table."""
    lines = ["| work | refbackup | limit and peers | goal | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (row.work, row.ours, row.others, row.goal, row.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def seconds(value: float | None) -> str:
    """``1.23 s``, ``45 ms``, or a dash for None."""
    if value is None:
        return OPEN
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def milliseconds(value: float) -> str:
    """``0.3 ms``, ``12 ms``."""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def size(value: float | None) -> str:
    """``1.2 GB``, ``340 kB``, or a dash for None; powers of 1,000."""
    if value is None:
        return OPEN
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")
_WIDTH, _HEIGHT, _MARGIN = 420, 300, 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over the same positions. Both axes are logarithmic; all numbers are above 0."""

    title: str
    unit: str
    positions: Sequence[float]
    lines: Mapping[str, Sequence[float]]


def svg(charts: Sequence[Chart], position_unit: str, caption: str) -> str:
    """Draw *charts* side by side, with a grey line in each for what grows in proportion."""
    width = len(charts) * (_WIDTH + 2 * _MARGIN)
    height = _HEIGHT + 3 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_MARGIN}" y="{height - 12}" fill="#57606a">{escape(caption)}</text>',
    ]
    for number, chart in enumerate(charts):
        x = number * (_WIDTH + 2 * _MARGIN) + _MARGIN
        parts.append(f'<g transform="translate({x} {_MARGIN})">{_chart(chart, position_unit)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _chart(chart: Chart, position_unit: str) -> str:
    values = [value for line in chart.lines.values() for value in line]
    low, high = min(values) / 1.5, max(values) * 1.5
    left, right = min(chart.positions) / 1.3, max(chart.positions) * 1.3

    def across(value: float) -> float:
        return _WIDTH * math.log(value / left) / math.log(right / left)

    def up(value: float) -> float:
        return _HEIGHT * (1 - math.log(value / low) / math.log(high / low))

    def path(points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)

    parts = [
        f'<text x="0" y="-20" font-size="14" font-weight="bold">{escape(chart.title)}</text>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#d0d7de"/>',
    ]
    for tick in _ticks(low, high):
        y = up(tick)
        parts.append(f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eaeef2"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{tick:g} {chart.unit}</text>')
    for position in chart.positions:
        x, label = across(position), f"{position:.3g} {position_unit}"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 18}" text-anchor="middle">{label}</text>')
    first, start = chart.positions[0], min(values)
    proportional = [(first, start), (right, start * right / first)]
    parts.append(
        f'<svg width="{_WIDTH}" height="{_HEIGHT}"><polyline points="{path(proportional)}" fill="none" '
        'stroke="#afb8c1" stroke-dasharray="4 4"/></svg>'
    )
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = list(zip(chart.positions, line, strict=True))
        parts.append(f'<polyline points="{path(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{10 + number * 100}" y="{_HEIGHT + 42}" fill="{colour}">{escape(name)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10**decade for decade in decades for step in (1, 2, 5) if low <= step * 10**decade <= high]
