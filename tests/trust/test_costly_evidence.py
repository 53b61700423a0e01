"""Large files in the place of journals and proofs: nothing that no trusted key signed is parsed, whatever its size."""

import json
import tracemalloc

import pytest

from backups.engine.evidence.journal import MOST_JOURNAL_BYTES
from backups.engine.repository import leases
from backups.engine.types import Depth
from backups.engine.verify import verify_backup
from tests.restore.stores import context
from tests.trust.signed import Signed

ENTRIES = b'{"a":[' + b",".join([b"{}"] * 1_500_000) + b"]"
LARGE = {
    "an unsigned line": ENTRIES + b"}\n",
    "a line with a false signature": ENTRIES + b',"signature":"%s==","time":"2026-12-01"}\n' % (b"A" * 86),
    "deep": b"[" * (1 << 20) + b"\n",
    "empty lines": b"\n" * 200_000,
}


def _peak_of(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("planted", LARGE.values(), ids=LARGE)
def test_planted_lines_are_not_parsed(signed: Signed, planted: bytes, where: str) -> None:
    lines = signed.journal.read_bytes()
    signed.journal.write_bytes(planted + lines if where == "first" else lines + planted)
    repository = signed.repository
    assert _peak_of(lambda: repository.evidence.journal("default")) < MOST_JOURNAL_BYTES + 4 * len(planted) + (1 << 20)
    assert signed.noticed == [("journal", None)] and not signed.load(0).damaged
    if repository.evidence.journal("default").problem:
        assert signed.load(0).verification == "none"


def test_what_precedes_a_signed_line_is_compared_before_it_is_parsed(signed: Signed) -> None:
    lines = signed.journal.read_bytes().splitlines(keepends=True)
    signed.journal.write_bytes(b"".join([lines[0], ENTRIES + b"}\n", *lines[2:]]))
    assert _peak_of(lambda: signed.repository.evidence.journal("default")) < MOST_JOURNAL_BYTES + 4 * len(ENTRIES)
    assert "line 2 was changed" in signed.repository.evidence.journal("default").problem


def test_a_line_that_was_spelt_anew_is_not_signed(signed: Signed) -> None:
    lines = signed.journal.read_bytes().splitlines()
    entry = json.loads(lines[-1])
    signed.journal.write_bytes(b"\n".join([*lines[:-1], json.dumps(entry).encode(), b""]))
    assert signed.noticed == [("journal", None)]


def test_planted_proofs_are_not_parsed(signed: Signed) -> None:
    proof = signed.place(0) / "proofs" / "29991231T000000Z-000000-restore.json"
    usual = _peak_of(lambda: signed.load(0))
    proof.write_bytes(ENTRIES[:4_000_000] + b",{}]}")
    assert _peak_of(lambda: signed.load(0)) < usual + (1 << 20)
    assert signed.load(0).verification == "restore" and signed.noticed == []


def test_a_verification_that_the_journal_does_not_take_is_no_failure(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done, and its result is true; that nothing vouches for the proof is said."""
    monkeypatch.setattr(leases.journalling.__wrapped__, "__defaults__", (0.0,))
    ctx = context()
    locked = leases.journalling(signed.repository.content)
    with locked:
        proof = verify_backup(signed.repository, signed.load(1), Depth.RESTORE, ctx)
    assert proof.ok and any(line.startswith("NOT SIGNED") and "writes a journal" in line for line in ctx.lines)
    assert signed.load(1).verification == "hashes" and signed.noticed == []
    verify_backup(signed.repository, signed.load(1), Depth.RESTORE, context())
    assert signed.load(1).verification == "restore"
