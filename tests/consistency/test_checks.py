"""System checks of a declaration, by their ids."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks

from consistency.declaration import DEFAULTS, declared
from consistency.engine.errors import Mistake
from consistency.engine.mapping import Description
from consistency.resolution import describe, description
from consistency.system_checks import check_declaration

HERE = "tests.consistency.declarations."


def ids(settings: Any, **given: Any) -> list[str]:
    settings.CONSISTENCY = given
    return [str(message.id).removeprefix("consistency.") for message in check_declaration(None)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NO_MODEL", ["E002"]),
        ("NO_FIELD", ["E004"]),
        ("NO_VECTOR", ["E005"]),
        ("NO_KEY", ["E004"]),
        ("NOT_REPEATABLE", ["E005"]),
        ("NO_PARENT", ["E005"]),
        ("SAME_ID", ["E008"]),
        ("TWO_TEXTS", ["E008"]),
        ("ELSEWHERE", ["E005", "W001"]),
        ("NOT_UNIQUE", ["W002"]),
        ("UNIQUE_TOGETHER", []),
        ("TWICE", ["E006", "E006", "E007", "E007"]),
        ("NO_WRITER", ["W001"]),
        ("NOTHING", ["E001"]),
        ("MISSING", ["E001"]),
    ],
)
def test_each_error_has_its_id(settings: Any, name: str, expected: list[str]) -> None:
    assert ids(settings, DECLARATION=HERE + name) == expected


def test_the_setting_is_checked(settings: Any) -> None:
    assert ids(settings, DECLARATOIN="x") == ["E001"]
    assert ids(settings, SETTLE_SECONDS=-1, LISTED=0) == ["E001", "E001"]
    assert ids(settings) == ["E001"]
    settings.CONSISTENCY = "x"
    assert [message.id for message in check_declaration(None)] == ["consistency.E001"]
    del settings.CONSISTENCY
    assert check_declaration(None) == []  # installed, and not used yet
    with pytest.raises(Mistake, match="No mapping is declared"):
        declared()


def test_every_error_has_a_hint(settings: Any) -> None:
    settings.CONSISTENCY = {"DECLARATION": HERE + "NO_FIELD"}
    (message,) = check_declaration(None)
    assert message.msg == "The mirror 'pages': Paper has no field 'headline' with a column."
    assert message.hint is not None and "file_name" in message.hint
    with pytest.raises(Mistake, match="headline"):
        description()


def test_the_library_declaration_is_valid() -> None:
    assert not [message for message in run_checks(tags=["consistency"]) if message.level >= 30]
    found, problems = describe(declared())
    assert not problems
    assert Description.from_json(found.as_json()) == found
    papers, pages = found.mappings
    assert (papers.table, pages.table) == ("library_embedding", "library_pageembedding")
    assert papers.parent is not None and pages.parent is not None
    assert (papers.parent.counted, pages.parent.counted) == (False, True)
    assert [join.table for join in pages.joins] == ["library_paper"]
    assert set(DEFAULTS) == {"DECLARATION", "SETTLE_SECONDS", "LISTED", "BEFORE_REPAIR", "BACKUPS", "FRAME"}
