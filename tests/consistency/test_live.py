"""Live stores: changes in progress are not findings, lasting differences are, and the library never causes findings."""

from __future__ import annotations

import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backups.engine.runtime.context import Progress
from consistency.checking import run_check
from consistency.engine.check import check
from consistency.engine.context import Context
from consistency.engine.errors import Cancelled, StoreBusy
from consistency.engine.findings import Finding
from consistency.models import Check
from refserver.library import catalogue, unsettled, vectors
from refserver.library.catalogue import change
from refserver.library.models import Paper
from tests.consistency.documents import document
from tests.consistency.settings import QUICK
from tests.consistency.stores import DESCRIPTION, Home, plant
from tests.library.places import ROOT, Places

pytestmark = pytest.mark.slow


def test_a_batch_of_a_thousand_papers_has_no_findings(library: Places, settings: Any) -> None:
    settings.CONSISTENCY = QUICK
    with change():
        for number in range(1000):
            catalogue.add(document(f"paper number {number}", pages=number % 3))
    vectors.store().close()
    done = run_check()
    assert (done.verdict, done.findings_count, done.in_flight) == ("consistent", 0, 0)
    assert done.mappings["papers"] == {"rows": 1000, "records": 1000, "vectors": 1000}
    assert done.mappings["pages"]["rows"] == sum(number % 3 for number in range(1000))


WRITER = """
import random, sys, time
from refserver.library import catalogue
from refserver.library.catalogue import Document, Page, change
from refserver.library.models import Paper
random.seed(int(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    papers = list(Paper.objects.order_by("?")[:3])
    turn = random.random()
    if turn < 0.5 or len(papers) < 3:
        name = f"{sys.argv[1]} {number} {random.random()}"
        pages = [Page(number=n, text=f"{name} {n}") for n in range(1, random.randint(1, 6))]
        catalogue.add(Document(file_name="x.md", content=name.encode(), pages=pages, title=name))
    elif turn < 0.7:
        catalogue.remove(papers[:1])
    else:
        with change() as changed:
            papers[0].title = f"title {number}"
            papers[0].save()
            changed.touch(papers[0].pk)
"""


def test_constant_writers_cause_no_findings(sample_library: Places, settings: Any) -> None:
    """Several processes add, remove and change papers without a pause, while the index is rewritten."""
    settings.CONSISTENCY = QUICK
    vectors.store().close()
    code = f"import django; django.setup()\n{WRITER}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            env=sample_library.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        until = time.monotonic() + 8
        checks = []
        while time.monotonic() < until:
            done = run_check()
            assert done.verdict == "consistent", list(done.findings.values("kind", "record", "message"))
            checks.append(done)
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert len(checks) >= 3


def test_a_change_between_two_reads_is_not_a_finding(home: Home) -> None:
    """An application that writes to Chroma after its commit: the vectors come a moment later."""
    home.add_rows(500)
    late = [[sys.executable, "-c", LATE, str(home.root)]]

    def add_late(seconds: float) -> None:
        if late:
            subprocess.run(late.pop(), check=True, cwd=ROOT)

    found: list[Finding] = []
    outcome = check(DESCRIPTION, home.stores(live=True, settle=0.01), Context(sleep=add_late), found.append)
    assert not late
    assert not found and outcome.mappings["pages"].rows == 82


LATE = """
import sys
from pathlib import Path
from tests.consistency.stores import Home
home = Home(Path(sys.argv[1]))
home.add_vectors(999, 1000)
home.close()
"""


def test_a_record_that_keeps_changing_is_in_flight(home: Home) -> None:
    turns = iter(range(10_000))

    def disturb(seconds: float) -> None:
        home.sql(f"UPDATE page SET text = 'turn {next(turns)}' WHERE id = 5")

    found: list[Finding] = []
    outcome = check(DESCRIPTION, home.stores(live=True, settle=0.01), Context(sleep=disturb), found.append)
    disturb(0)
    assert outcome.tally.findings == 0  # nothing was wrong at the first look
    outcome = check(DESCRIPTION, home.stores(live=True, settle=0.01), Context(sleep=disturb), found.append)
    assert [(item.record, item.severity, item.cause) for item in found] == [("page-5", "info", "in_flight")]
    assert outcome.state == "consistent"


def test_the_check_waits_for_an_open_transaction(home: Home) -> None:
    """The vectors are in Chroma while the transaction that adds their rows is still open: not a finding."""
    home.add_vectors(999, 1000)
    home.close()
    with closing(sqlite3.connect(home.database)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        found: list[Finding] = []
        stores = home.stores(live=True)
        outcome = check(DESCRIPTION, replace(stores, patience=0.05), Context(), found.append)
        assert outcome.tally.findings == 0
        assert {item.record for item in found} == {"page-999", "page-1000"}
        assert {item.cause for item in found} == {"in_flight"}
    assert home.found(live=True) == {
        ("orphaned_chromadb", "page-999"),
        ("orphaned_chromadb", "page-1000"),
        ("count_mismatch", ""),
    }


def test_an_exchanged_directory_is_noticed(home: Home) -> None:
    plant(home, "missing_in_chromadb")
    home.close()

    def exchange(seconds: float) -> None:
        other = home.chroma.with_name("other")
        if not other.exists():
            home.chroma.rename(other)
            home.chroma.mkdir()
            for path in other.rglob("*"):
                target = home.chroma / path.relative_to(other)
                target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())

    with pytest.raises(StoreBusy, match="exchanged during the check"):
        check(DESCRIPTION, home.stores(live=True), Context(sleep=exchange), lambda item: None)


def test_a_check_reports_progress_and_can_be_cancelled(home: Home) -> None:
    events: list[Progress] = []
    check(DESCRIPTION, home.stores(), Context(on_progress=events.append), lambda item: None)
    assert {event.phase for event in events} == {"pages", "foreign keys"}  # no record needed a closer look
    last = [event for event in events if event.phase == "pages"][-1]
    assert (last.operation, last.done, last.total, last.finished) == ("check", 160, 160, True)
    with pytest.raises(Cancelled):
        check(DESCRIPTION, home.stores(), Context(should_cancel=lambda: True), lambda item: None)


def test_a_failed_check_is_recorded_in_its_row(sample_library: Places, settings: Any) -> None:
    settings.CONSISTENCY = QUICK
    with pytest.raises(Cancelled):
        run_check(ctx=Context(should_cancel=lambda: True))
    row = Check.objects.get()
    assert (row.state, row.error["code"]) == ("cancelled", "cancelled") if row.error else False


KILLED = """
import os, random, signal, sys
from refserver.library import catalogue, vectors
from refserver.library.models import Paper
from tests.consistency.documents import document
real = vectors.VectorStore.apply
def apply(self, edit):
    if sys.argv[1] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, edit)
    os.kill(os.getpid(), signal.SIGKILL)
vectors.VectorStore.apply = apply
if sys.argv[2] == "add":
    catalogue.add(document(sys.argv[3]))
else:
    catalogue.remove(list(Paper.objects.order_by("pk")[:1]))
"""


class Library(RuleBasedStateMachine):
    """Random changes, faults and kills; after each the check finds exactly the faults."""

    places: Places

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.faults: set[tuple[str, str]] = set()

    def _name(self) -> str:
        self.number += 1
        return f"paper {self.number}"

    def _records(self, paper: Paper) -> set[str]:
        return {f"paper-{paper.pk}", *(f"page-{key}" for key in paper.pages.values_list("pk", flat=True))}

    def _mended(self, records: set[str]) -> None:
        self.faults = {fault for fault in self.faults if fault[1] not in records}

    def _under_way(self) -> set[str]:
        """Records of changes interrupted by a kill; the next change corrects them, whatever was wrong."""
        ids = unsettled.together(note.ids for note in unsettled.pending())
        return {identifier for members in ids.values() for identifier in members}

    @initialize()
    def begin(self) -> None:
        catalogue.remove(list(Paper.objects.all()))
        catalogue.add(document("the first"))

    @rule(pages=st.integers(0, 3))
    def add(self, pages: int) -> None:
        self._mended(self._under_way())
        catalogue.add(document(self._name(), pages))

    @rule(order=st.sampled_from(["pk", "-pk"]))
    @precondition(lambda self: Paper.objects.count() > 1)
    def remove(self, order: str) -> None:
        paper = Paper.objects.order_by(order)[0]
        self._mended(self._under_way() | self._records(paper))
        catalogue.remove([paper])

    @rule(order=st.sampled_from(["pk", "-pk"]), pages=st.booleans())
    def embed_again(self, order: str, pages: bool) -> None:
        """It writes all records of the paper again, which corrects them."""
        paper = Paper.objects.order_by(order)[0]
        self._mended(self._under_way() | self._records(paper))
        catalogue.embed_again(paper, pages=pages)

    @rule(order=st.sampled_from(["pk", "-pk"]))
    def lose_a_vector(self, order: str) -> None:
        record = f"paper-{Paper.objects.order_by(order)[0].pk}"
        vectors.store().apply(vectors.Edit(delete={vectors.PAPERS: [record]}))
        self._mended({record})
        self.faults.add(("missing_in_chromadb", record))

    @rule(order=st.sampled_from(["pk", "-pk"]))
    def change_a_title_behind(self, order: str) -> None:
        """Bypasses the library, so Chroma keeps the old value."""
        paper = Paper.objects.order_by(order)[0]
        with connection.cursor() as cursor:
            cursor.execute("UPDATE library_paper SET title = title || '!' WHERE id = %s", [paper.pk])
        lost = {record for kind, record in self.faults if kind == "missing_in_chromadb"}
        self.faults |= {("metadata_mismatch", record) for record in self._records(paper) - lost}

    @rule(when=st.sampled_from(["before", "after"]), what=st.sampled_from(["add", "remove"]))
    @precondition(lambda self: Paper.objects.count() > 1)
    def be_killed(self, when: str, what: str) -> None:
        """Its records are in progress until the library's next change."""
        vectors.store().close()
        assert self.places.script(KILLED, when, what, self._name()).returncode == -9

    @invariant()
    def exactly_the_faults_are_found(self) -> None:
        vectors.store().close()
        done = run_check()
        found = set(done.findings.exclude(severity="info").exclude(kind="count_mismatch").values_list("kind", "record"))
        under_way = self._under_way()
        assert found == {fault for fault in self.faults if fault[1] not in under_way}


def test_random_changes_faults_and_kills(library: Places, settings: Any) -> None:
    settings.CONSISTENCY = QUICK | {"SETTLE_SECONDS": 0.0}
    Library.places = library
    quick = hypothesis.settings(
        max_examples=8,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(Library, settings=quick)


def manage(places: Places, *arguments: str, alone: bool = False) -> tuple[int, Any, str]:
    """Run the command, in a new process if *alone*: exit code, answer, and standard error."""
    vectors.store().close()
    if alone:
        done = places.manage("consistency_check", *arguments)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if "--json" in arguments else done.stdout, done.stderr
    out, code = io.StringIO(), 0
    try:
        call_command("consistency_check", *arguments, stdout=out)
    except SystemExit as ending:
        code = int(str(ending.code))
    except CommandError as problem:
        code = problem.returncode
    vectors.store().close()
    return code, json.loads(out.getvalue()) if "--json" in arguments else out.getvalue(), ""


def test_exit_codes_of_the_command(sample_library: Places, settings: Any) -> None:
    settings.CONSISTENCY = QUICK
    code, answer, errors = manage(sample_library, "--json", "--progress", "json", alone=True)
    assert (code, answer["state"], answer["findings"]) == (0, "consistent", 0)
    events = [json.loads(line) for line in errors.splitlines()]
    assert {event["event"] for event in events} == {"progress"}
    keys = {"event", "operation", "phase", "done", "total", "rate", "elapsed", "left", "finished"}
    assert all(event.keys() == keys for event in events)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE library_paper SET title = 'Another' WHERE id = 3")
    vectors.store().apply(vectors.Edit(delete={vectors.PAPERS: ["paper-5"]}))
    code, text, _ = manage(sample_library, alone=True)
    assert code == 5 and "1 missing_in_chromadb" in text and "paper-5: The row's vector is not in Chroma." in text
    code, answer, _ = manage(sample_library, "--repair", "safe", "--dry-run", "--json")
    assert (code, answer["plan"]["repairs"]) == (5, 3)
    code, answer, _ = manage(sample_library, "--repair", "safe", "--json")
    assert (code, answer["again"]["state"], answer["repair"]["steps"]) == (0, "consistent", {"applied": 3})
    number = str(answer["repair"]["id"])
    code, text, _ = manage(sample_library, "--undo", number)
    assert code == 0 and text.startswith(f"Repair {number} is undone: 3 undone.\nChecked again:\ninconsistent: ")
    assert manage(sample_library, "--json")[0] == 5
    assert manage(sample_library, "--resume")[1] == "No repair is unfinished.\n"
    code, answer, _ = manage(sample_library, "--undo", number, "--json")
    assert (code, answer["error"]["code"]) == (1, "refused")
    assert manage(sample_library, "--undo", "99")[0] == 2
    assert manage(sample_library, "--dry-run")[0] == 2
    assert manage(sample_library, "--repair", "everything", alone=True)[0] == 2


def test_sigterm_cancels(sample_library: Places) -> None:
    vectors.store().close()
    code = (
        "import os, signal, sys\n"
        "from django.core.management import call_command\n"
        "from consistency.engine import check\n"
        "real = check.compare\n"
        "def compare(*given):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    yield from real(*given)\n"
        "check.compare = compare\n"
        "call_command('consistency_check', '--json')\n"
    )
    done = sample_library.script(code)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (9, "cancelled")
    assert Check.objects.get().state == "cancelled"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
