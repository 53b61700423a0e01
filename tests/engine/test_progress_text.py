"""Durations and ages in text: one unit, one decimal below ten."""

from __future__ import annotations

import pytest

from backups.engine.progress import ago, duration

DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0.4 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1 s"),
        (8.14, "8.1 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (14 * 60, "14 min"),
        (3600, "1 h"),
        (9000, "2.5 h"),
        (47 * 3600, "47 h"),
        (3 * DAY, "3 days"),
        (1460 * DAY, "4 years"),
        (36_500 * DAY, "more than 100 years"),
        (-90, "-1.5 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "just now"), (8.6, "9 s ago"), (-3 * 3600, "in 3 h"), (2 * DAY, "2 days ago")]
)
def test_ages(seconds, text):
    assert ago(seconds) == text
