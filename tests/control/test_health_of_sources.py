"""The hourly health check of the stores."""

from __future__ import annotations

import pytest
from django.utils import timezone

from backups.monitoring import health
from tests.restore.stores import Chroma, vector

pytestmark = pytest.mark.slow


def broken() -> list[str]:
    return [one.message for one in health.run_checks(timezone.now()).findings if one.check == "sources"]


def test_a_damaged_or_missing_store_is_a_finding(site):
    assert not broken()
    database = site.places.settings["REFSERVER_DATABASE"]
    whole = database.read_bytes()
    page = bytearray(whole)
    page[4096 * 5 : 4096 * 40] = b"\x5a" * (4096 * 35)
    database.write_bytes(page)
    [message] = broken()
    assert str(database) in message
    database.write_bytes(whole)
    site.places.chroma.rename(site.places.root / "aside")
    [message] = broken()
    assert str(site.places.chroma) in message


def test_a_truncated_index_is_a_finding(empty_site):
    directory = empty_site.places.chroma
    with Chroma(directory) as client:
        client.create("indexed", threshold=20)
        names = [f"id-{number}" for number in range(40)]
        client.call("indexed", "upsert", ids=names, embeddings=[vector(name) for name in names])
    vectors = next(directory.glob("*/data_level0.bin"))
    whole = vectors.read_bytes()
    assert not broken()
    vectors.write_bytes(whole[: len(whole) // 4])  # it is created for a hundred elements
    [message] = broken()
    assert "its index is broken" in message and str(directory) in message
