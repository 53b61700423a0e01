"""Repairs in RefServer's stores: planned, carried out, undone; killed at every point, then resumed or undone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from backups.engine.chroma_files.records import find_records
from backups.engine.chroma_files.tables import find_collection
from backups.engine.chroma_files.vectors import Vectors
from consistency import checking
from consistency.checking import changed_since, new_findings, run_check
from consistency.engine.context import Context
from consistency.engine.errors import Cancelled, RepairRefused
from consistency.engine.findings import FindingKind
from consistency.engine.rows import connect
from consistency.live import live_stores
from consistency.models import Check, Finding, Repair, Step
from consistency.probe import probe
from consistency.repairs import journal, lost_rows, steps
from consistency.repairs.plan import plan_repair, unfinished
from consistency.repairs.repair import repair, resume
from consistency.repairs.steps import repair_lock
from consistency.repairs.undo import undo
from consistency.resolution import description
from consistency.web.repairs import _outcome
from consistency.web.summary import present_verdict
from refserver.library import vectors
from refserver.library.models import Embedding, Metadata, PageEmbedding, Paper
from refserver.library.vectors import PAGES, PAPERS, Edit, Record, store
from tests.consistency import declarations
from tests.consistency.settings import QUICK
from tests.library.places import Places, assert_equal_stores


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.CONSISTENCY = QUICK


def spoil(places: Places) -> None:
    """Plant a finding of every repairable kind in the sample library."""
    papers = [f"paper-{n}" for n in (1, 2)]
    pages = list(PageEmbedding.objects.order_by("pk").values_list("pk", flat=True)[:8])
    here = store().records(PAGES, [f"page-{n}" for n in pages])
    turned = here[f"page-{pages[1]}"]
    renamed = here[f"page-{pages[2]}"]
    foreign = here[f"page-{pages[3]}"]
    store().apply(
        Edit(
            delete={PAPERS: papers, PAGES: [f"page-{pages[0]}"]},
            write={
                PAGES: [
                    Record(turned.id, np.flip(turned.vector).copy(), turned.document, turned.metadata),
                    Record(renamed.id, renamed.vector, "another text", {**renamed.metadata, "title": "Wrong", "extra": 1.5}),
                    Record("page-90001", foreign.vector, foreign.document, foreign.metadata),
                ]
            },
        )
    )
    gone = Paper.objects.order_by("pk")[20]
    with closing(sqlite3.connect(places.settings["REFSERVER_DATABASE"])) as database, database:
        database.execute("DELETE FROM library_metadata WHERE paper_id = ?", (gone.pk,))
        database.execute("DELETE FROM library_paper WHERE id = ?", (gone.pk,))  # embeddings stay, and their vectors


def everything() -> dict[str, Any]:
    """The rows and records of both stores."""
    vectors.store().close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM library_embedding ORDER BY id")
        rows = list(cursor.fetchall())
        cursor.execute("SELECT * FROM library_pageembedding ORDER BY id")
        rows += cursor.fetchall()
    said: dict[str, Any] = {"rows": rows}
    directory = vectors.store().directory
    with closing(connect(directory / "chroma.sqlite3", at_rest=False)) as database:
        for mapping in description().mappings:
            held = Vectors(directory, database, partial(find_collection, database, mapping.collection), at_rest=False)
            with closing(held):
                assert held.collection is not None
                ids = [row[0] for row in database.execute("SELECT embedding_id FROM embeddings ORDER BY 1")]
                records = find_records(database, held.collection, ids)
                places = held.places_of(ids)
                said[mapping.name] = {
                    key: (held.one(places[key]), record.document, record.metadata) for key, record in records.items()
                }
    return said


def checked() -> Check:
    vectors.store().close()
    return run_check()


def open_kinds(check: Check) -> set[str]:
    return {item.kind for item in check.findings.all()}


@pytest.mark.slow
def test_safe_repairs_are_applied_and_undone(sample_library: Places) -> None:
    spoil(sample_library)
    before = everything()
    check = checked()
    plan = plan_repair(check)
    assert (plan.actions, plan.asks, plan.critical) == ({"delete_row": 2, "write": 5}, 3, 0)
    assert everything() == before  # a plan changes nothing
    made = repair(plan, actor="ann")
    assert (made.state, made.counts()) == ("done", {"applied": 7})
    assert check.findings.filter(state="repaired").count() == 7
    again = checked()
    assert open_kinds(again) == {"missing_in_sqlite", "orphaned_chromadb", "count_mismatch"}
    assert new_findings(again).filter(kind="missing_in_sqlite").count() == 0
    undone = undo(made, actor="bob")
    assert (undone.state, undone.undone_by, undone.counts()) == ("undone", "bob", {"undone": 7})
    assert everything() == before
    assert {item.state for item in check.findings.exclude(repair="follows")} == {"open"}
    with pytest.raises(RepairRefused, match="already undone"):
        undo(made)


def test_all_repairs_make_the_stores_equal(sample_library: Places) -> None:
    spoil(sample_library)
    before = everything()
    made = repair(plan_repair(checked(), only_safe=False))
    assert made.counts() == {"applied": 10}
    assert checked().verdict == "consistent"
    assert_equal_stores()
    undo(made)
    assert everything() == before


def found(check: Check, **state: str) -> set[tuple[str, str, str]]:
    return set(check.findings.filter(**state).values_list("kind", "mapping", "record"))


def assert_open_findings_are_current() -> Check:
    """Of what each check found, open is what a fresh one finds."""
    fresh = checked()
    for check in Check.objects.all():
        assert found(check, state="open") == found(check) & found(fresh), check.pk
    return fresh


def spoil_beyond_repair(places: Places) -> None:
    """Plant the kinds that no repair resolves, but the duplicate ids, which the library's schema excludes."""
    first, second = PageEmbedding.objects.order_by("-pk")[:2]
    PageEmbedding.objects.filter(pk=first.pk).update(vector=bytes(16))
    PageEmbedding.objects.filter(pk=second.pk).update(vector=bytes(4 * 384))
    last = f"page-{PageEmbedding.objects.order_by('-pk')[4].pk}"
    vectors.store().close()
    with closing(sqlite3.connect(vectors.store().directory / "chroma.sqlite3")) as chroma, chroma:
        held = f"(SELECT id FROM embeddings WHERE embedding_id = '{last}')"
        chroma.execute(f"DELETE FROM embedding_metadata WHERE id IN {held}")
        chroma.execute(f"DELETE FROM embeddings WHERE embedding_id = '{last}'")
    lose(
        places.settings["REFSERVER_DATABASE"],
        f"DELETE FROM library_pageembedding WHERE id = {last.removeprefix('page-')}",
        "INSERT INTO library_metadata VALUES (9001, 'key', 'value', 4711)",
    )


@pytest.mark.slow
def test_open_findings_are_what_a_check_finds_after_every_repair_and_undo(sample_library: Places, kept: Path) -> None:
    spoil(sample_library)
    spoil_beyond_repair(sample_library)
    first = assert_open_findings_are_current()
    kinds = {str(kind) for kind in FindingKind} - {"duplicate_id", "broken_index", "missing_vector"}
    assert open_kinds(first) == kinds, "broken indexes: see test_rebuild"

    for choice in ({}, {"only_safe": False}, {"restore_rows": True}):
        made = repair(plan_repair(first, **choice))
        again = assert_open_findings_are_current()
        assert found(first, state="open") < found(first)
        if "only_safe" in choice:
            assert not found(again, kind="count_mismatch")
            assert set(first.findings.filter(kind="count_mismatch").values_list("state", flat=True)) == {"gone"}
        undo(made)
        assert found(assert_open_findings_are_current()) == found(first)
        assert found(first, state="open") == found(first)


def test_check_opens_and_closes_nothing_that_it_did_not_see(
    sample_library: Places, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(sample_library)
    first = checked()
    repair(plan_repair(first, only_safe=False))
    before = found(first, state="repaired")

    # A repair that ends while the check runs
    real = checking.engine.check

    def meanwhile(*given: Any) -> Any:
        Repair.objects.update(ended=timezone.now() + timedelta(minutes=1))
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(checking.engine, "check", meanwhile)
        checked()
    assert found(first, kind="count_mismatch", state="open")
    Repair.objects.update(ended=timezone.now())

    # More findings of a kind than a check keeps: an earlier one may be among the others
    settings.CONSISTENCY = {**QUICK, "LISTED": 1}
    other = Check.objects.create(state="done")
    values = {"severity": "error", "repair": "write", "mapping": "pages"}
    Finding.objects.bulk_create(
        [
            Finding(belongs_to=other, kind="missing_in_chromadb", record="page-80001", **values),
            Finding(belongs_to=other, kind="embedding_mismatch", record="page-80001", **values),
            Finding(belongs_to=other, kind="embedding_mismatch", record="elsewhere-1", **{**values, "mapping": "elsewhere"}),
        ]
    )
    store().apply(Edit(delete={PAPERS: ["paper-5", "paper-6"]}))
    checked()
    assert found(other, state="open") == {
        ("missing_in_chromadb", "pages", "page-80001"),
        ("embedding_mismatch", "elsewhere", "elsewhere-1"),
    }
    assert found(other, state="gone") == {("embedding_mismatch", "pages", "page-80001")}
    assert found(first, state="repaired") == before - {("missing_in_chromadb", "papers", "paper-5")}


def test_kinds_and_single_findings_can_be_chosen(sample_library: Places) -> None:
    spoil(sample_library)
    check = checked()
    one = check.findings.get(kind="missing_in_sqlite")
    assert plan_repair(check, only_safe=False, findings=[one.pk]).actions == {"delete_vector": 1}
    assert plan_repair(check, kinds=["metadata_mismatch"]).kinds == {"metadata_mismatch": 1}
    made = repair(plan_repair(check, only_safe=False, findings=[one.pk]))
    assert store().records(PAGES, ["page-90001"]) == {}
    undo(made)
    assert set(store().records(PAGES, ["page-90001"])) == {"page-90001"}


def test_later_changes_are_neither_repaired_nor_undone(sample_library: Places) -> None:
    spoil(sample_library)
    check = checked()
    first = PageEmbedding.objects.order_by("pk")[0]
    page = f"page-{first.pk}"
    record = Record(page, np.frombuffer(first.vector, "<f4"), first.text, {"paper_id": first.paper_id, "page": 1})
    fact = {"title": first.paper.title, "file_name": first.paper.file_name, "model": first.model}
    store().apply(Edit(write={PAGES: [Record(page, record.vector, record.document, {**record.metadata, **fact})]}))
    made = repair(plan_repair(check))
    assert made.steps.get(record=page).state == Step.State.SKIPPED
    assert check.findings.get(record=page).state == Finding.State.GONE
    store().apply(Edit(delete={PAPERS: ["paper-1"]}))
    undo(made)
    assert made.counts()["undone"] == 6  # paper-1 is as it was before the repair: nothing to do
    mismatch = check.findings.get(kind="embedding_mismatch")
    assert mismatch.state == Finding.State.OPEN


def test_undo_keeps_later_changes(sample_library: Places) -> None:
    spoil(sample_library)
    made = repair(plan_repair(checked()))
    step = made.steps.get(finding__kind="embedding_mismatch")
    here = store().records(PAGES, [step.record])[step.record]
    store().apply(Edit(write={PAGES: [Record(here.id, -here.vector, here.document, here.metadata)]}))
    undo(made)
    step.refresh_from_db()
    assert step.state == Step.State.KEPT and "Changed since the repair" in step.note
    np.testing.assert_array_equal(store().records(PAGES, [step.record])[step.record].vector, -here.vector)


def test_invalid_repairs_are_refused(sample_library: Places) -> None:
    clean = checked()
    with pytest.raises(RepairRefused, match="nothing to repair"):
        repair(plan_repair(clean))
    spoil(sample_library)
    Embedding.objects.filter(paper_id=7).update(vector=bytes(4 * 384))
    check = checked()
    assert (check.verdict, check.severities["critical"]) == ("critical", 1)
    plan = plan_repair(check)
    with pytest.raises(RepairRefused, match="critical"):
        repair(plan, attended=False)
    assert not Repair.objects.exists()
    backup = Check.objects.create(source="20261121T030000Z-full-3f9c2a", state="done")
    with pytest.raises(RepairRefused, match="never changed"):
        repair(plan_repair(backup))


def test_a_snapshot_is_made_first(sample_library: Places, settings: Any) -> None:
    settings.CONSISTENCY = QUICK | {"DECLARATION": "tests.consistency.declarations.WITH_SNAPSHOT"}
    spoil(sample_library)
    made = repair(plan_repair(checked()))
    assert made.snapshot.startswith("snapshot before the repair of 7 findings")
    settings.CONSISTENCY = QUICK | {"DECLARATION": "tests.consistency.declarations.WITH_BROKEN_SNAPSHOT"}
    undo(made)
    before = everything()
    with pytest.raises(OSError, match="no room"):
        repair(plan_repair(checked()))
    assert everything() == before and Repair.objects.count() == 1


def test_a_cancelled_repair_is_resumed(sample_library: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_BATCH", 2)
    spoil(sample_library)
    check = checked()
    ctx = Context(should_cancel=lambda: Step.objects.filter(state="applied").exists())
    with pytest.raises(Cancelled):
        repair(plan_repair(check), ctx=ctx)
    made = unfinished().get()
    assert made.state == "running" and made.counts()["planned"] > 0
    with pytest.raises(RepairRefused, match="unfinished"):
        repair(plan_repair(check))
    assert resume(made).state == "done"
    assert made.counts() == {"applied": 7}


KILL = """
import os, signal, sys
from django.conf import settings
from tests.consistency.settings import QUICK
settings.CONSISTENCY = QUICK
from consistency.models import Check, Repair
from consistency.repairs import repair, steps, undo
from consistency.repairs.plan import plan_repair
from refserver.library import consistency
point, work = sys.argv[1], sys.argv[2]
steps._BATCH = 100 if point.startswith("between") else 3

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

real = consistency.GateWriter.apply
if point == "before the stores":
    consistency.GateWriter.apply = die
elif point == "between deleting and writing":
    def half(self, collection, *, delete, write):
        real(self, collection, delete=[*delete, *(record.id for record in write)], write=[])
        die()
    consistency.GateWriter.apply = half
elif point == "before the commit":
    def then(self, collection, *, delete, write):
        real(self, collection, delete=delete, write=write)
        die()
    consistency.GateWriter.apply = then
elif point == "after the commit":
    repair.save_outcome = undo.save_outcome = die
elif point == "in the second batch":
    turns = []
    def second(self, collection, *, delete, write):
        turns.append(1)
        real(self, collection, delete=delete, write=write)
        if len(turns) == 2:
            die()
    consistency.GateWriter.apply = second

if work == "repair":
    repair.repair(plan_repair(Check.objects.get(), only_safe=False))
else:
    undo.undo(Repair.objects.get())
"""
POINTS = ("before the stores", "between deleting and writing", "before the commit", "after the commit", "in the second batch")


@pytest.mark.slow
@pytest.mark.parametrize("then", ["go on", "take back"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_repair_is_resumed_or_undone(sample_library: Places, point: str, then: str) -> None:
    spoil(sample_library)
    before = everything()
    checked()
    vectors.store().close()
    assert sample_library.script(KILL, point, "repair").returncode == -9
    made = Repair.objects.get()
    assert made.state == "running"
    if then == "take back":
        undo(made)
        assert made.state == "undone"
        assert everything() == before
    else:
        resume(made)
        assert (made.state, made.counts()) == ("done", {"applied": 10})
        assert_equal_stores()
        assert checked().verdict == "consistent"
        undo(made)
        assert everything() == before


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_undo_is_resumed(sample_library: Places, point: str) -> None:
    spoil(sample_library)
    before = everything()
    made = repair(plan_repair(checked(), only_safe=False))
    vectors.store().close()
    assert sample_library.script(KILL, point, "undo").returncode == -9
    made.refresh_from_db()
    assert made.state == "undoing"
    resume(made)
    assert everything() == before
    assert made.counts() == {"undone": 10}


def test_two_repairs_at_once_are_refused(sample_library: Places) -> None:
    spoil(sample_library)
    plan = plan_repair(checked())
    with repair_lock(), pytest.raises(RepairRefused, match="Another process"):
        repair(plan)


def test_silent_checks_are_marked_as_failed(sample_library: Places) -> None:
    silent = Check.objects.create()
    Check.objects.filter(pk=silent.pk).update(heard="2020-01-01T00:00:00Z")
    recent = Check.objects.create()
    checked()
    silent.refresh_from_db()
    recent.refresh_from_db()
    assert (silent.state, recent.state) == ("failed", "running")
    assert silent.error is not None and silent.error["code"] == "interrupted"


@pytest.mark.slow
def test_the_probe_finds_what_the_check_finds(sample_library: Places) -> None:
    spoil(sample_library)
    vectors.store().close()
    with live_stores() as stores:
        answer = probe(description().as_json(), sqlite=dict(stores.sqlite), chroma=dict(stores.chroma), instant=None)
    answer = json.loads(json.dumps(answer))
    check = checked()
    assert (check.verdict, check.kinds, check.findings_count) == ("inconsistent", answer["kinds"], answer["findings"])
    assert check.findings.count() == len(answer["listed"])


@pytest.fixture
def kept(sample_library: Places, tmp_path: Path, settings: Any) -> Iterator[Path]:
    """A copy of the database as a backup has it, between an older and a newer one without its papers."""
    database = sample_library.settings["REFSERVER_DATABASE"]
    settings.CONSISTENCY = {**QUICK, "BACKUPS": "tests.consistency.declarations.copies"}
    for name in ("newer", "kept", "older"):
        with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(tmp_path / name)) as copy:
            live.backup(copy)
            if name != "kept":
                copy.execute("DELETE FROM library_embedding")
                copy.execute("DELETE FROM library_pageembedding")
                copy.commit()
    declarations.COPIES[:] = [tmp_path / name for name in ("newer", "kept", "older")]
    yield tmp_path / "kept"
    declarations.COPIES.clear()


def lose(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as live, live:
        for statement in statements:
            live.execute(statement)


def test_lost_rows_are_restored_from_the_newest_backup_that_has_them(sample_library: Places, kept: Path) -> None:
    before = everything()
    titles = list(Paper.objects.order_by("pk").values_list("pk", "title"))
    database = sample_library.settings["REFSERVER_DATABASE"]
    lose(database, "DELETE FROM library_embedding WHERE paper_id = 1")
    lose(database, *(f"DELETE FROM library_{table} WHERE paper_id = 2" for table in ("embedding", "pageembedding", "metadata")))
    lose(database, "DELETE FROM library_paper WHERE id IN (2, 3)", "DELETE FROM library_metadata WHERE paper_id = 3")
    spoiled = everything()
    check = checked()
    assert {"missing_in_sqlite", "orphaned_chromadb", "orphaned_sqlite"} <= open_kinds(check)
    plan = plan_repair(check, restore_rows=True)
    assert set(plan.actions) == {"restore_row"} and plan.lost == len(plan.findings) >= 4
    made = repair(plan)
    notes = set(made.steps.values_list("state", "note"))
    assert {state for state, _ in notes} == {"applied", "skipped"}
    # Skipped: what it refers to, or it itself, came back with another record
    assert all(
        note.startswith("From backup backup-1") if state == "applied" else note == "No longer wrong." for state, note in notes
    )
    assert everything() == before and list(Paper.objects.order_by("pk").values_list("pk", "title")) == titles
    assert changed_since(check)
    assert checked().verdict == "consistent"

    # Undone: the rows are lost again, and nobody knows until the next check
    undo(made)
    assert everything() == spoiled and not Paper.objects.filter(pk__in=(2, 3)).exists()
    assert present_verdict().word == "Not known."
    assert checked().verdict == "inconsistent" and present_verdict().word != "Not known."


MIRRORED = ("embedding", "pageembedding")
FACTS_20 = "DELETE FROM library_metadata WHERE paper_id = 20"


def metadata_rows() -> list[tuple[Any, ...]]:
    return list(Metadata.objects.order_by("pk").values_list())


def test_rows_that_refer_to_a_lost_row_are_restored_with_it(sample_library: Places, kept: Path) -> None:
    database = sample_library.settings["REFSERVER_DATABASE"]
    for place in (database, kept):
        lose(place, "DELETE FROM library_metadata WHERE paper_id = 20 AND key IN ('pages', 'language', 'extra', 'taken')")
        lose(place, "INSERT INTO library_metadata VALUES (9001, 'pages', '7', 20), (9002, 'language', 'en', 20)")
        lose(place, "CREATE TABLE review (id INTEGER PRIMARY KEY, fact INTEGER REFERENCES library_metadata(id), by TEXT)")
        lose(place, "INSERT INTO review VALUES (1, 9001, 'ada'), (2, 9002, 'eve')")
    lose(kept, "INSERT INTO library_metadata VALUES (9003, 'taken', 'x', 20)")
    lose(kept, "CREATE TABLE note (id INTEGER PRIMARY KEY, paper INTEGER REFERENCES library_paper(id))")
    lose(kept, "INSERT INTO note VALUES (1, 20), (2, 20)")
    before, facts = everything(), metadata_rows()
    lose(database, "INSERT INTO library_metadata VALUES (9003, 'other', 'y', 1)")
    lose(database, "DELETE FROM review WHERE fact = 9001")
    lose(
        database, *(f"DELETE FROM library_{table} WHERE paper_id = 20" for table in ("embedding", "pageembedding", "metadata"))
    )
    lose(database, "DELETE FROM library_metadata WHERE paper_id = 4")  # on purpose: its paper is still there
    lose(database, "DELETE FROM library_paper WHERE id = 20")
    spoiled = metadata_rows()
    made = repair(plan_repair(checked(), restore_rows=True))
    assert everything() == before
    assert metadata_rows() == sorted([*(row for row in facts if row[1] != 4), (9003, 1, "other", "y")])
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, fact, by FROM review ORDER BY id")
        assert cursor.fetchall() == [(1, 9001, "ada"), (2, 9002, "eve")]

    # What could not be restored is named: a key that another row has now, and a table that is gone
    [note] = made.steps.filter(note__contains="Still lost").values_list("note", flat=True)
    assert "1 row of library_metadata (another row has the key now)" in note and "2 rows of note (" in note
    assert journal.still_lost(made) == {"library_metadata": 1, "note": 2}
    assert _outcome(made).sentence.endswith("Still lost: 1 row of library_metadata, 2 rows of note.")
    undo(made)
    assert metadata_rows() == spoiled and not Paper.objects.filter(pk=20).exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM review")
        assert cursor.fetchall() == [(2,)]


def test_rows_that_refer_to_a_lost_row_are_bounded(sample_library: Places, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_rows, "MOST_DEPENDENTS", 3)
    database = sample_library.settings["REFSERVER_DATABASE"]
    lose(kept, "DELETE FROM library_metadata WHERE paper_id = 20")
    lose(kept, *(f"INSERT INTO library_metadata VALUES ({n}, 'key {n}', '', 20)" for n in range(9001, 9011)))
    lose(
        database, *(f"DELETE FROM library_{table} WHERE paper_id = 20" for table in ("embedding", "pageembedding", "metadata"))
    )
    lose(database, "DELETE FROM library_paper WHERE id = 20")
    made = repair(plan_repair(checked(), restore_rows=True))
    restored = Metadata.objects.filter(paper=20).count()
    assert 0 < restored <= 3 and journal.still_lost(made)["library_metadata"] == 10 - restored


def test_restored_row_that_is_in_use_is_kept_when_the_repair_is_undone(sample_library: Places, kept: Path) -> None:
    database = sample_library.settings["REFSERVER_DATABASE"]
    lose(database, *(f"DELETE FROM library_{table} WHERE paper_id = 3" for table in ("embedding", "metadata")))
    lose(database, "DELETE FROM library_paper WHERE id = 3")
    page = PageEmbedding.objects.filter(paper_id=3).first()
    made = repair(plan_repair(checked(), restore_rows=True))
    Paper.objects.filter(pk=3).update(venue="changed since")
    undo(made)
    assert Paper.objects.get(pk=3).venue == "changed since" and page is not None
    assert made.steps.filter(state=Step.State.KEPT).exists()


def test_repair_that_did_nothing_says_so(sample_library: Places, kept: Path) -> None:
    declarations.COPIES[:] = [None, None]
    lose(sample_library.settings["REFSERVER_DATABASE"], "DELETE FROM library_embedding WHERE paper_id = 1")
    made = repair(plan_repair(checked(), restore_rows=True))
    assert made.steps.get().note == "No sound backup has the row; 2 damaged backups were not searched."
    outcome = _outcome(made)
    assert (outcome.tone, outcome.word) == ("warn", "Nothing was repaired.") and made.steps.get().note in outcome.sentence
    assert not made.can_be_undone


def test_row_that_no_backup_has_or_that_does_not_fit_is_skipped(sample_library: Places, kept: Path) -> None:
    database = sample_library.settings["REFSERVER_DATABASE"]
    with closing(sqlite3.connect(kept)) as copy, copy:
        copy.execute("DELETE FROM library_embedding WHERE paper_id = 1")
    lose(database, "DELETE FROM library_embedding WHERE paper_id IN (1, 2)")
    lose(database, "UPDATE library_embedding SET id = (SELECT max(id) + 1 FROM library_embedding) WHERE paper_id = 4")
    with closing(sqlite3.connect(kept)) as copy, copy:
        copy.execute("UPDATE library_embedding SET vector = NULL WHERE 0")
        copy.execute("ALTER TABLE library_embedding ADD COLUMN older TEXT DEFAULT 'x'")
    made = repair(plan_repair(checked(), restore_rows=True))
    notes = dict(made.steps.values_list("record", "note"))
    assert notes == {"paper-1": "No backup has the row.", "paper-2": "From backup backup-1."}
    states = dict(made.of_check.findings.filter(kind="missing_in_sqlite").values_list("record", "state"))
    assert states == {"paper-1": "open", "paper-2": "repaired"}, "what was not restored is still lost"
    assert Embedding.objects.filter(paper_id=2).exists() and not Embedding.objects.filter(paper_id=1).exists()
