"""Each kind, and each pair of kinds, planted in real stores: the check finds exactly these."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from consistency.engine.findings import Cause, FindingKind, Severity, State
from consistency.engine.mapping import Description
from tests.consistency.stores import DESCRIPTION, MAPPING, PLANTERS, Home, plant


def test_consistent_stores_have_no_findings(home: Home) -> None:
    outcome, found = home.check()
    assert not found
    assert (outcome.state, outcome.records) == (State.CONSISTENT, 160)
    assert home.found(live=True) == set()


@pytest.mark.parametrize("name", PLANTERS)
@pytest.mark.parametrize("live", [False, True], ids=["at rest", "live"])
def test_each_kind_alone(home: Home, name: str, live: bool) -> None:
    expected = plant(home, name)
    assert home.found(live=live) == expected


@pytest.mark.parametrize("pair", list(combinations(PLANTERS, 2)), ids="-".join)
def test_each_pair_of_kinds(home: Home, pair: tuple[str, str]) -> None:
    expected = plant(home, *pair)
    assert home.found() == expected


def test_all_kinds_together(home: Home) -> None:
    expected = plant(home, *PLANTERS)
    assert home.found() == expected == home.found(live=True)
    alone = {FindingKind.BROKEN_INDEX}  # it hides what else is wrong with its collection: see test_rebuild
    assert {kind for kind, _ in expected} == {str(kind) for kind in FindingKind} - alone


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("metadata_mismatch", State.DEGRADED),
        ("orphaned_sqlite", State.DEGRADED),
        ("embedding_mismatch", State.INCONSISTENT),
        ("nan_in_chroma", State.INCONSISTENT),
        ("zeros_in_both", State.CRITICAL),
        ("wrong_dimension", State.CRITICAL),
    ],
)
def test_the_state_follows_from_severities(home: Home, name: str, state: State) -> None:
    plant(home, name)
    outcome, _ = home.check()
    assert outcome.state == state


def test_a_finding_shows_both_sides(home: Home) -> None:
    plant(home, "another_model", "metadata_mismatch", "one_bit", "missing_in_sqlite")
    found = {item.record: item for item in home.check()[1] if item.record.startswith("page-")}
    model = found["page-11"]
    assert (model.cause, model.differences, model.safe) == (Cause.OTHER_MODEL, ("model",), True)
    assert model.message == "The vector in Chroma is not the row's: m1 instead of m2."
    title = found["page-21"]
    assert title.differences == ("title",)
    assert title.sqlite is not None and title.chroma is not None
    assert (title.sqlite["title"], title.chroma["title"]) == ("Paper 11", "Another")
    assert title.sqlite["vector"] == title.chroma["vector"]
    bit = found["page-9"]
    assert bit.sqlite is not None and bit.chroma is not None
    assert bit.sqlite["vector"]["hash"] != bit.chroma["vector"]["hash"]
    gone = found["page-6"]
    assert (gone.sqlite, gone.parent, gone.safe) == (None, 3, False)


def test_differences_within_the_tolerance_are_ignored(home: Home) -> None:
    plant(home, "one_bit", "embedding_mismatch")
    near = Description(mappings=(replace(MAPPING, tolerance=1e-3),))
    _, found = home.check(description=near)
    assert [item.record for item in found] == ["page-7"]


def test_a_recently_changed_row_is_in_flight(home: Home) -> None:
    plant(home, "missing_in_chromadb")
    home.sql("UPDATE page SET changed = '2999-01-01 00:00:00' WHERE id = 3")
    outcome, (found,) = home.check(live=True)
    assert (found.severity, found.cause, found.kind) == (Severity.INFO, Cause.IN_FLIGHT, FindingKind.MISSING_IN_CHROMADB)
    assert (outcome.state, outcome.tally.findings) == (State.CONSISTENT, 0)


def test_rows_without_a_vector_are_not_mapped(home: Home) -> None:
    home.sql("UPDATE page SET vector = NULL WHERE id = 3")
    home.pages.delete(ids=["page-3"])
    assert home.found() == set()


def test_rows_that_fail_a_condition_are_not_mirrored(home: Home) -> None:
    hidden = [n for n in range(1, 81) if not n % 2]
    home.pages.delete(ids=[f"page-{n}" for n in hidden])
    shown = replace(MAPPING, where=((next(f.column for f in MAPPING.metadata if f.key == "shown"), 1),))
    assert home.check(description=Description(mappings=(shown,)))[1] == []
    assert len(home.check(description=DESCRIPTION)[1]) == 40 + 40 + 1  # pages, papers, and the total


def test_a_missing_collection_makes_every_row_missing(home: Home) -> None:
    other = Description(mappings=(replace(MAPPING, collection="elsewhere"),))
    outcome, _ = home.check(description=other)
    assert outcome.tally.kinds == {"missing_in_chromadb": 80, "count_mismatch": 41}


def test_impossible_ids_are_found(home: Home) -> None:
    ids = ["page-007", "page-", "", "page-99999999999999999999999999", "pagé-1", "page-1 ", "page--0"]
    ids = [name for name in ids if name]
    home.pages.add(ids=ids, embeddings=[[1.0] * 8] * len(ids), metadatas=[{"paper_id": 4711}] * len(ids))
    expected = {("orphaned_chromadb", name) for name in ids} | {("count_mismatch", "")}
    assert home.found() == expected
