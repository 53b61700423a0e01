"""A real Chroma server, checked and repaired through its client's API."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import pytest

from consistency import chroma_server
from consistency.checking import run_check
from consistency.engine.check import check
from consistency.engine.context import Context
from consistency.engine.errors import Mistake, StoreUnreadable
from consistency.engine.findings import Finding
from consistency.engine.stores import Stores
from consistency.repairs.plan import plan_repair
from consistency.repairs.repair import repair
from consistency.repairs.undo import undo
from refserver.library import vectors
from tests.consistency.settings import QUICK
from tests.consistency.stores import DESCRIPTION, Home, plant, vector_of
from tests.library.places import Places

pytestmark = pytest.mark.slow


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """``chroma run`` on *directory*; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    arguments = [program, "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until and server.poll() is None, "the server did not start"
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_a_server_is_checked_like_files(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chroma_server, "_PAGE", 7)
    expected = plant(
        home, "missing_in_chromadb", "embedding_mismatch", "metadata_mismatch", "orphaned_chromadb", "null_in_the_row"
    )
    home.close()
    with serving(home.chroma) as address, chroma_server.downloaded(address, ["pages"], Context(), whole=True) as mirror:
        stores = Stores(
            sqlite={"app": home.database},
            chroma={"chroma": mirror.directory},
            at_rest=False,
            settle=0.05,
            renew=mirror.renew,
        )
        found: list[Finding] = []
        outcome = check(DESCRIPTION, stores, Context(), found.append)
        assert {(str(item.kind), item.record) for item in found} == expected
        assert outcome.records == 80 - 2 + 79

        def mended(seconds: float) -> None:
            """Between the two reads, another process corrects one vector."""
            client = chromadb.HttpClient(host="127.0.0.1", port=int(address.rpartition(":")[2]))
            client.get_collection("pages", embedding_function=None).update(ids=["page-7"], embeddings=[vector_of(7)])

        found = []
        check(DESCRIPTION, stores, Context(sleep=mended), found.append)
        assert {(str(item.kind), item.record) for item in found} == expected - {("embedding_mismatch", "page-7")}


def test_a_server_is_repaired_and_the_repair_undone(sample_library: Places, settings: Any) -> None:
    vectors.store().apply(vectors.Edit(delete={vectors.PAPERS: ["paper-1"]}))
    here = vectors.store().records(vectors.PAGES, ["page-2"])["page-2"]
    wrong = vectors.Record(here.id, -here.vector, here.document, here.metadata)
    vectors.store().apply(vectors.Edit(write={vectors.PAGES: [wrong]}))
    vectors.store().close()
    settings.CONSISTENCY = QUICK | {"DECLARATION": "tests.consistency.declarations.SERVER"}
    with serving(sample_library.chroma) as address:
        settings.CHROMA_ADDRESS = address
        first = run_check()
        assert first.kinds == {"missing_in_chromadb": 1, "embedding_mismatch": 1, "count_mismatch": 1}
        made = repair(plan_repair(first))
        assert made.counts() == {"applied": 2}
        assert run_check().verdict == "consistent"
        undo(made)
        assert run_check().kinds == first.kinds


def test_an_unreachable_server_is_a_clear_error(settings: Any, sample_library: Places) -> None:
    settings.CONSISTENCY = {"DECLARATION": "tests.consistency.declarations.SERVER"}
    settings.CHROMA_ADDRESS = "http://127.0.0.1:1"
    with pytest.raises(StoreUnreadable, match="cannot be reached"):
        run_check()
    settings.CHROMA_ADDRESS = "127.0.0.1"
    with pytest.raises(Mistake, match="not the address"):
        run_check()
