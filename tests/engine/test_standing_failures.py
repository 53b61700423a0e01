"""A failed proof stands until one that looked as deep succeeds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backups.engine.types import Backup, DataFile, Depth, Manifest, Pause, Proof

START = datetime(2026, 11, 22, tzinfo=UTC)
ID = "20261122T000000Z-full-abcdef"
MANIFEST = Manifest(
    id=ID,
    set="default",
    kind="full",
    time=START,
    finished=START,
    sources=(),
    bytes_source=0,
    bytes_stored=0,
    pause_ms=Pause(),
    data=DataFile(bytes=1, sha256="0" * 64, table_offset=0, table_bytes=1, table_blake3="0" * 64, table_whole=True),
)


def proven(*results: str) -> Backup:
    """A backup with proofs in this order: ``written``, ``hashes`` or ``restore``, with a ``!`` before one that failed."""
    proofs = tuple(
        Proof(
            id=ID,
            time=START + timedelta(hours=number),
            ok=not result.startswith("!"),
            depth=Depth.RESTORE if "restore" in result else Depth.HASHES,
            scope="written" if "written" in result else "needed",
            seconds=1.0,
            bytes=1,
        )
        for number, result in enumerate(results)
    )
    return Backup(manifest=MANIFEST, proofs=proofs)


@pytest.mark.parametrize(
    ("results", "verification"),
    [
        ((), "none"),
        (("written",), "hashes"),
        (("hashes",), "hashes"),
        (("restore", "hashes"), "restore"),
        (("!restore",), "damaged"),
        (("!restore", "hashes"), "damaged"),
        (("!restore", "hashes", "hashes"), "damaged"),
        (("!restore", "restore"), "restore"),
        (("!hashes", "written"), "damaged"),
        (("!hashes", "hashes"), "hashes"),
        (("!hashes", "restore"), "restore"),
        (("!restore", "!hashes", "hashes"), "damaged"),
        (("!restore", "!hashes", "restore"), "restore"),
        (("restore", "!hashes"), "damaged"),
        (("restore", "!written"), "damaged"),
    ],
)
def test_only_a_verification_as_deep_refutes_a_failure(results: tuple[str, ...], verification: str) -> None:
    backup = proven(*results)
    assert backup.verification == verification
    assert backup.damaged == (verification == "damaged")
