"""A broken index: a finding of its own, rebuilt from the rows; killed at every point, then resumed or found by a check."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command

from backups.engine.chroma_files.hnsw import read_header
from consistency.engine.errors import RepairRefused
from consistency.models import Repair
from consistency.repairs.plan import plan_repair, unfinished
from consistency.repairs.repair import repair, resume
from consistency.repairs.undo import undo
from refserver.library import vectors
from refserver.library.models import PageEmbedding
from refserver.library.vectors import PAGES, Edit, Record, store
from tests.consistency.indexes import SETTINGS, client_of, index_on_disk, segment_of
from tests.consistency.settings import QUICK
from tests.consistency.test_repair import checked
from tests.library.places import Places, assert_equal_stores


@pytest.fixture(autouse=True)
def quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CONSISTENCY = QUICK
    monkeypatch.setattr("backups.engine.chroma_files.vectors._TRIES", 3)  # nobody writes these files meanwhile


@pytest.fixture
def indexed(sample_library: Places) -> Iterator[Places]:
    """The sample library, with an index of the pages on the disk that has settings of its own."""
    ids = [f"page-{key}" for key in PageEmbedding.objects.values_list("pk", flat=True)]
    index_on_disk(store(), ids)
    yield sample_library
    vectors.store().close()


def break_link(where: str) -> None:
    """Flip a high bit of a link: of the first element, or of the first above level 0."""
    file = segment_of(store()) / where
    content = bytearray(file.read_bytes())
    if where == "data_level0.bin":
        content[7] ^= 0x80
    else:
        header = read_header(file.parent)
        assert header is not None
        words = struct.unpack(f"<{len(content) // 4}I", content)
        first = next(at for at, word in enumerate(words) if word)
        assert words[first] % (4 * (header.max_m + 1)) == 0 and words[first + 1] > 0
        content[4 * (first + 2) + 3] ^= 0x80
    file.write_bytes(content)


def assert_rebuilt() -> None:
    check = checked()
    assert check.verdict == "consistent", list(check.findings.values_list("message", flat=True))
    assert_equal_stores()
    # Chroma builds an index with several threads. With three neighbours, no link leads to one vector in some hundred.
    stored = [np.frombuffer(page.vector, "<f4") for page in PageEmbedding.objects.all()]
    found = [vector for vector in stored if store().nearest(PAGES, vector, 1)[0].similarity > 0.9999]
    assert len(found) > 0.9 * len(stored)
    assert_settings_kept()


def assert_settings_kept() -> None:
    client = client_of(store())
    collection = client.get_collection(PAGES, embedding_function=None)
    assert SETTINGS.items() <= collection.configuration_json["hnsw"].items() and collection.metadata == {"made by": "hand"}
    assert {one.name for one in client.list_collections()} == {"pages", "papers"}
    client.close()


@pytest.mark.parametrize("where", ["data_level0.bin", "link_lists.bin"])
@pytest.mark.slow
def test_broken_index_is_found_and_rebuilt(indexed: Places, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    some = store().records(PAGES, ["page-1"])["page-1"]
    store().apply(Edit(write={PAGES: [Record("page-90001", some.vector, some.document, some.metadata)]}))
    store().apply(Edit(delete={"papers": ["paper-1"]}))
    break_link(where)
    check = checked()
    item = check.findings.get(kind="broken_index")
    assert (check.verdict, item.severity, item.repair, item.safe, item.record) == (
        "inconsistent",
        "error",
        "rebuild_index",
        False,
        PAGES,
    )
    assert "has links that cannot be" in item.message and where in item.message
    pages = PageEmbedding.objects.count()
    assert (item.sqlite, item.chroma) == ({"rows": pages}, {"records": pages + 1, "records without a row": 1})
    assert check.findings.filter(kind="missing_in_chromadb", record="paper-1").exists()  # the other collection is still checked

    assert "rebuild_index" not in plan_repair(check).actions
    call_command("consistency_check", "--repair", "all", "--of", check.pk, "--dry-run", "--exit-zero", "--progress", "none")
    assert "Rebuilding an index cannot be undone, and loses 1 record without a row." in capsys.readouterr().out
    plan = plan_repair(check, only_safe=False)
    assert (plan.rebuilds, plan.without_row, plan.actions) == (1, 1, {"rebuild_index": 1, "write": 1})
    made = repair(plan_repair(check, only_safe=False, findings=[item.pk]))
    assert made.counts() == {"applied": 1} and made.steps.get().note == f"The new index holds {pages:,} vectors."
    with pytest.raises(RepairRefused, match="cannot be undone"):
        undo(made)
    made.refresh_from_db()
    assert made.state == "done" and not made.can_be_undone
    repair(plan_repair(checked()))
    assert_rebuilt()


def test_whatever_doctor_calls_broken_is_a_finding(indexed: Places) -> None:
    segment = segment_of(store())
    header = read_header(segment)
    assert header is not None
    data = (segment / "data_level0.bin").read_bytes()
    faults = {
        "is marked as deleted": data[:2] + b"\1" + data[3:],
        "has no links": b"\0\0" + data[2:],
        "has room for another number": data + b"\0",
    }
    for message, content in faults.items():
        (segment / "data_level0.bin").write_bytes(content)
        assert message in checked().findings.get(kind="broken_index").message
    shutil.rmtree(segment)
    assert "older than its index, which holds 0" in checked().findings.get(kind="broken_index").message


def test_index_that_is_whole_again_is_not_rebuilt(indexed: Places) -> None:
    whole = (segment_of(store()) / "data_level0.bin").read_bytes()
    break_link("data_level0.bin")
    plan = plan_repair(checked(), only_safe=False)
    (segment_of(store()) / "data_level0.bin").write_bytes(whole)
    made = repair(plan)
    assert made.counts() == {"skipped": 1} and made.steps.get().note == "No longer wrong."
    assert_rebuilt()


def test_rows_without_a_usable_vector_are_left(indexed: Places) -> None:
    """The first vector gives an empty collection its dimension: it must not be one that has a wrong one."""
    first = PageEmbedding.objects.get(pk=min(PageEmbedding.objects.values_list("pk", flat=True), key=lambda key: f"page-{key}"))
    first.vector, first.dimension = np.ones(3, "<f4").tobytes(), 3
    first.save()
    break_link("data_level0.bin")
    made = repair(plan_repair(checked(), only_safe=False, kinds=["broken_index"]))
    assert "1 row has none that can be used" in made.steps.get().note
    assert store().count(PAGES) == PageEmbedding.objects.count() - 1
    assert checked().kinds == {"wrong_dimension": 1, "missing_in_chromadb": 1, "count_mismatch": 2}


def test_writer_that_cannot_recreate_is_refused_before_anything_changes(indexed: Places, settings: Any) -> None:
    break_link("data_level0.bin")
    plan = plan_repair(checked(), only_safe=False)
    settings.CONSISTENCY = QUICK | {"DECLARATION": "tests.consistency.declarations.WITHOUT_RECREATE"}
    with pytest.raises(RepairRefused, match="cannot rebuild an index"):
        repair(plan)
    assert not Repair.objects.exists()


KILL = """
import os, signal, sys
from django.conf import settings
from tests.consistency.settings import QUICK
settings.CONSISTENCY = QUICK
import chromadb.api.client
import chromadb.api.models.Collection as models
from backups.engine.chroma_files import vectors as files
from consistency.engine import suspects
from consistency.models import Check
from consistency.repairs import rebuild, repair
from consistency.repairs.plan import plan_repair
from refserver.library import consistency
point = sys.argv[1]
suspects._BATCH = 20
files._TRIES = 3

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if point == "before":
    consistency.GateWriter.recreate = die
elif point == "without a collection":
    models.Collection.modify = die
elif point == "with both collections":
    chromadb.api.client.Client.delete_collection = die
elif point == "with an empty collection":
    real = consistency.GateWriter.recreate
    consistency.GateWriter.recreate = lambda *given: (real(*given), die())
elif point == "among the rows":
    turns, apply = [], consistency.GateWriter.apply
    def some(*given, **named):
        apply(*given, **named)
        turns.append(1)
        len(turns) == 2 and die()
    consistency.GateWriter.apply = some
elif point == "at the end":
    rebuild.save_outcome = die
repair.repair(plan_repair(Check.objects.get(), only_safe=False))
"""


POINTS = ("before", "without a collection", "with both collections", "with an empty collection", "among the rows", "at the end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "then"),
    [*((point, "resumed") for point in POINTS), *((point, "given up") for point in ("without a collection", "among the rows"))],
)
def test_killed_rebuild(indexed: Places, point: str, then: str) -> None:
    break_link("data_level0.bin")
    checked()
    vectors.store().close()
    assert indexed.script(KILL, point).returncode == -9
    made = unfinished().get()
    assert made.state == "running"
    found = checked()
    assert found.verdict == ("consistent" if point == "at the end" else "inconsistent")  # nobody takes the half for the whole
    if then == "resumed":
        assert resume(made).state == "done" and made.counts() == {"applied": 1}
        assert_rebuilt()
    else:
        assert undo(made).state == "undone" and made.counts() == {"kept": 1}
        repair(plan_repair(found))
        assert checked().verdict == "consistent"
        assert_equal_stores()
        assert_settings_kept()


RECREATE = """
import os, signal, sys
import chromadb.api.client
import chromadb.api.models.Collection as models
from refserver.library.vectors import PAGES, store

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "with both collections":
    chromadb.api.client.Client.delete_collection = die
else:
    models.Collection.modify = die
store().recreate(PAGES)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("point", "pages"), [("with both collections", True), ("without a collection", False)])
def test_the_next_change_ends_what_a_killed_rebuild_left(indexed: Places, point: str, pages: bool) -> None:
    """Also a change that has nothing to do with it."""
    held = store().count(PAGES)
    vectors.store().close()
    assert indexed.script(RECREATE, point).returncode == -9
    store().apply(Edit(delete={"papers": ["paper-1"]}))
    assert store().count(PAGES) == (held if pages else 0)
    assert_settings_kept()
