"""Rows and vectors change together, or not at all."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from django.db import IntegrityError, connection, connections, transaction

from backups.engine.gate import Gate
from refserver.library import catalogue, originals
from refserver.library.catalogue import Document, Duplicate, Page, change
from refserver.library.models import Embedding, Metadata, Paper
from refserver.library.vectors import PAGES, PAPERS, store
from tests.library.places import assert_equal_stores


def document(name: str = "whales", pages: int = 2) -> Document:
    texts = [Page(number=number, text=f"{name} on page {number}") for number in range(1, pages + 1)]
    return Document(
        file_name=f"{name}.md",
        content=name.encode(),
        pages=texts,
        title=name.title(),
        metadata={"kind": "test"},
    )


@pytest.mark.slow
def test_a_paper_is_added_to_both_stores_with_its_original(library):
    paper = catalogue.add(document())
    assert_equal_stores()
    assert originals.path(paper).read_bytes() == b"whales"
    assert originals.path(paper).stem == paper.content_hash
    assert [str(fact) for fact in paper.metadata.all()] == ["kind: test"]
    row = paper.embedding
    assert (row.dimension, len(row.vector)) == (384, 4 * 384)
    with connection.cursor() as cursor:
        modes = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert modes == ["wal", 2, 1]


def test_the_same_bytes_are_refused(library):
    first = catalogue.add(document())
    with pytest.raises(Duplicate, match=f"paper {first.pk}"):
        catalogue.add(document())
    assert originals.is_kept(first)
    assert_equal_stores()


def test_a_new_title_reaches_chroma(library):
    paper = catalogue.add(document())
    with change() as changed:
        paper.title = "Dolphins"
        paper.save()
        changed.touch(paper.pk)
    assert_equal_stores()


def test_removing_deletes_rows_vectors_and_original(library):
    gone, kept = catalogue.add(document("gone")), catalogue.add(document("kept"))
    catalogue.remove([gone])
    assert [paper.title for paper in Paper.objects.all()] == ["Kept"]
    assert not originals.is_kept(gone) and originals.is_kept(kept)
    assert_equal_stores()


def test_a_rollback_leaves_no_vector_and_no_original(library):
    catalogue.add(document("kept"))
    with pytest.raises(ZeroDivisionError), change() as changed:
        paper = catalogue.add(document("gone"))
        changed.touch(paper.pk)
        raise ZeroDivisionError
    assert_equal_stores()
    assert Paper.objects.count() == 1


def test_a_failed_commit_sets_the_vectors_back(library):
    kept = catalogue.add(document("kept"))
    with pytest.raises(IntegrityError), change() as changed:
        kept.title = "Changed"
        kept.save()
        changed.touch(kept.pk)
        catalogue.add(document("gone"))
        Metadata.objects.create(paper_id=4711, key="of", value="nobody")  # SQLite looks at keys when it commits
    assert_equal_stores()
    assert [paper.title for paper in Paper.objects.all()] == ["Kept"]


KILLED_BEFORE_THE_COMMIT = """
import os, signal, sys
from tests.library.places import assert_equal_stores
from refserver.library import catalogue, documents, vectors
real = vectors.VectorStore.apply
def apply(self, edit):
    real(self, edit)
    os.kill(os.getpid(), signal.SIGKILL)
vectors.VectorStore.apply = apply
catalogue.add(documents.parse("long.md", (("long text " * 150 + chr(10) * 2) * 5).encode()))
"""


@pytest.mark.slow
def test_the_next_change_corrects_a_crash_before_the_commit(library):
    catalogue.add(document("before"))
    assert library.script(KILLED_BEFORE_THE_COMMIT).returncode == -9
    assert Paper.objects.count() == 1
    assert store().count(PAPERS) == 2  # the vectors of the paper that never was
    assert store().count(PAGES) > 3
    catalogue.add(document("after"))
    assert_equal_stores()


def test_an_unreadable_note_does_not_stop_changes(library, caplog):
    catalogue.add(document("one"))
    folder = library.chroma.with_name("chroma.unsettled")
    (folder / "x.json").write_text("{torn")
    catalogue.add(document("two"))
    assert "x.json is not a valid note" in caplog.text
    assert store().count(PAPERS) == 2


def test_a_change_inside_a_transaction_is_refused(library):
    """Chroma could not be written last before the commit."""
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        catalogue.add(document())
    assert store().count(PAPERS) == 0


@pytest.mark.slow
def test_an_exchanged_store_is_seen_at_once_in_all_processes(library):
    """As a restore does it: under the gate, the directory is renamed aside and another takes its place."""
    catalogue.add(document("first"))
    copy = library.chroma.with_name("copy")
    with Gate(library.chroma).exclusive():
        shutil.copytree(library.chroma, copy)
    catalogue.add(document("second"))
    assert store().count(PAPERS) == 2
    with Gate(library.chroma).exclusive() as held:
        library.chroma.rename(library.chroma.with_name("aside"))
        copy.rename(library.chroma)
        held.advance()
    assert store().count(PAPERS) == 1
    code = "from refserver.library.vectors import store; print(store().count('papers'))"
    assert library.script(code).stdout == "1\n"
    # and a write goes into the new directory, not into the one aside
    Paper.objects.filter(title="Second").delete()
    catalogue.add(document("third"))
    assert_equal_stores()
    with sqlite3.connect(library.chroma.with_name("aside") / "chroma.sqlite3") as aside:
        assert aside.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 6
    aside.close()


@pytest.mark.slow
def test_another_open_process_sees_the_writes(library):
    code = """
import sys
from refserver.library.vectors import store
for line in sys.stdin:
    print(store().count("pages"), flush=True)
"""
    command = [sys.executable, "-c", f"import django; django.setup()\n{code}"]
    with subprocess.Popen(command, env=library.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def ask() -> int:
            other.stdin.write("\n")
            other.stdin.flush()
            return int(other.stdout.readline())

        assert ask() == 0
        for number in range(1, 4):
            catalogue.add(document(f"paper {number}"))
            assert ask() == 2 * number
        other.stdin.close()
        assert other.wait(20) == 0


def test_threads_read_and_write_at_the_same_time(library):
    failures: list[BaseException] = []

    def work(step) -> None:
        try:
            for number in range(6):
                step(number)
        except BaseException as error:  # noqa: BLE001 (shown by the test itself)
            failures.append(error)
        finally:
            connections.close_all()

    steps = [lambda number, who=who: catalogue.add(document(f"{who}-{number}")) for who in "ab"]
    steps += [lambda number: store().nearest(PAGES, np.ones(384, dtype=np.float32), 5)] * 3
    threads = [threading.Thread(target=work, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert Paper.objects.count() == 12
    assert_equal_stores()


@pytest.mark.slow
def test_processes_write_and_search_at_the_same_time(library, tmp_path):
    folders = []
    for who in "ab":
        folder = tmp_path / who
        folder.mkdir()
        for number in range(8):
            (folder / f"{number}.md").write_text(f"# {who} {number}\n\nwritten by {who}")
        folders.append(folder)
    command = [sys.executable, "manage.py", "ingest"]
    children = [
        subprocess.Popen([*command, str(folder)], env=library.environment, stderr=subprocess.PIPE) for folder in folders
    ]
    while any(child.poll() is None for child in children):
        for match in store().nearest(PAGES, np.ones(384, dtype=np.float32), 20):
            assert match.id.startswith("page-")
    errors = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert Paper.objects.count() == 16
    assert_equal_stores()


@pytest.mark.slow
def test_a_fork_opens_its_own_client(library):
    catalogue.add(document())
    code = """
import os, warnings
from refserver.library.vectors import store
warnings.simplefilter("ignore")
assert store().count("papers") == 1
if (pid := os.fork()) == 0:
    os._exit(store().count("papers"))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
assert store().count("papers") == 1
"""
    result = library.script(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_no_network_connection_is_opened(library):
    code = """
import sys
def audit(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        print("network:", event, arguments, flush=True)
sys.addaudithook(audit)
from tests.library.places import assert_equal_stores
from refserver.library import catalogue, documents, search, vectors
catalogue.add(documents.parse("a.md", b"# Whales"))
assert search.search("whales", 3)
vectors.store().close()
"""
    result = library.script(code)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_vectors_are_computed_again_for_another_model(library):
    paper = catalogue.add(document())
    Embedding.objects.update(model="older", vector=bytes(4 * 384))
    catalogue.embed_again(paper)
    assert Embedding.objects.get().model == "hashed-words-1"
    assert_equal_stores()
