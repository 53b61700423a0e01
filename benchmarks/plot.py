"""Draws line charts with logarithmic axes as SVG."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

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
    """An SVG of *charts* side by side; a dashed line in each grows in proportion to the position."""
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
