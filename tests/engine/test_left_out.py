"""What a backup of a folder does not hold: patterns, bounds, and what a restore in place keeps."""

from __future__ import annotations

import json
import time

import pytest

from backups.engine.left_out import Absence, Outside, Patterns, bounded, wrong_pattern
from backups.engine.types import LeftOut


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("*.tmp", ["a.tmp", "deep/er/a.tmp", ".tmp", "new\nline.tmp", "\udcff.tmp"], ["a.tmp.txt", "tmp"]),
        ("cache", ["cache", "deep/cache"], ["cached", "my cache"]),
        ("cache/", ["cache/"], ["cache"]),
        ("/cache", ["cache"], ["deep/cache"]),
        ("deep/*.txt", ["deep/a.txt"], ["a.txt", "deep/er/a.txt", "very/deep/a.txt"]),
        ("deep/**/x", ["deep/x", "deep/a/x", "deep/a/b/x"], ["x", "deep/a/xx"]),
        ("deep/**", ["deep/x", "deep/a/b"], ["deep", "other"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["xx"]),
        ("a?c[0-9]", ["abc7"], ["a/c7", "abc"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("größe*", ["größe 1"], ["grösse"]),
    ],
)
def test_patterns(pattern: str, matched: list[str], others: list[str]) -> None:
    patterns = Patterns([pattern])
    for path in matched:
        assert patterns(path.rstrip("/"), is_folder=path.endswith("/")), path
    for path in others:
        assert not patterns(path, is_folder=False), path


def test_a_pattern_takes_no_more_than_moments() -> None:
    began = time.monotonic()
    patterns = Patterns(["*a" * 100 + "b", "**/a/" * 100 + "b"])
    assert not patterns("/".join(["a" * 200] * 20), is_folder=False)
    assert not patterns("/".join(["a"] * 2000), is_folder=False)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("pattern", ["", "/", "!x", "a//b", "../x", "./x", "x" * 2000, "\udcff", "a\0b"])
def test_patterns_that_are_refused(pattern: str) -> None:
    assert wrong_pattern(pattern)


def test_what_is_outside_is_kept_with_everything_below_it() -> None:
    found = bounded(
        [("closed", Absence.UNREADABLE, ""), ("deep/odd \udcff", Absence.CHANGED, ""), ("link", Absence.SPECIAL, "")]
    )
    outside = Outside([LeftOut.model_validate_json(json.dumps(item)) for item in found], ["*.tmp", "cache/"])
    for path in ("closed", "closed/a/b", "deep/odd \udcff", "new/a.tmp", "new/cache/a"):
        assert outside(path, is_folder=False), path
    for path in ("close", "deep", "deep/odd \\xff", "new/cache", "link"):
        assert not outside(path, is_folder=False), path


def test_an_unknown_reason_of_a_later_version_is_a_loss() -> None:
    assert LeftOut.model_validate({"path": "x", "reason": "moonlight"}).reason.is_loss


def test_many_entries_are_counted_by_folder() -> None:
    many = [(f"a/{number % 7}/{number}", Absence.OUTWARD_LINK, "") for number in range(30_000)]
    lost = [("a/3/lost", Absence.UNREADABLE, "Permission denied"), ("b", Absence.SPECIAL, "")]
    found = [LeftOut(**item) for item in bounded(many + lost, 10)]
    assert {item.path: item.count for item in found} == {**{f"a/{n}": len(many[n::7]) + (n == 3) for n in range(7)}, "b": 0}
    assert [(item.path, item.detail) for item in found if item.reason.is_loss] == [("a/3", "Permission denied")]
    everything = [LeftOut(**item) for item in bounded([(chr(65 + n), Absence.SPECIAL, "") for n in range(20)], 10)]
    assert [(item.path, item.count) for item in everything] == [("", 20)]
    lost = [LeftOut(**item) for item in bounded([(f"a/{n}", Absence.UNREADABLE, "") for n in range(20)], 10)]
    for counted in (everything, lost):
        assert not Outside(counted, [])("a/any", is_folder=False), "what is only counted says nothing about a name"
