"""Keyset pages: every row once in both directions, and cursors from outside."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from backups.models import IndexedBackup, Job
from backups.models.listing import Keyset, moment_of
from tests.control.test_backup_pages import indexed

BACKUPS = Keyset(IndexedBackup, "time", "backup_id", "pk")


def test_pages_show_every_row_once_in_both_directions(empty_site):
    now = timezone.now()
    for age in range(5):
        moment = now - timedelta(hours=age)
        copies = {"time": moment, "backup_id": f"{moment:%Y%m%dT%H%M%SZ}-full-000001"}
        indexed(**copies)
        indexed(**copies, repository="second")  # the same backup in another repository has the same time and id
    rows = list(IndexedBackup.objects.order_by("-time", "-backup_id", "-pk"))
    seen, parts = [], []
    part = BACKUPS.part(IndexedBackup.objects.all(), 3)
    assert part.newer is None
    while True:
        seen += part.rows
        parts.append(part.rows)
        if part.older is None:
            break
        part = BACKUPS.part(IndexedBackup.objects.all(), 3, older=BACKUPS.read(BACKUPS.write(part.older)))
    assert seen == rows
    for expected in reversed(parts[:-1]):
        part = BACKUPS.part(IndexedBackup.objects.all(), 3, newer=part.newer)
        assert part.rows == expected
    assert part.newer is None and part.older is not None


def test_a_cursor_may_lack_the_last_keys_and_use_either_separator(empty_site):
    moment = timezone.now()
    newest, older = indexed(time=moment), indexed(time=moment - timedelta(hours=1))
    for text in (f"{moment.isoformat()}~{newest.backup_id}", f"{moment.isoformat()}_{newest.backup_id}_{newest.pk}"):
        assert BACKUPS.part(IndexedBackup.objects.all(), 5, older=BACKUPS.read(text)).rows == [older]


@pytest.mark.parametrize("text", [None, "", "then", "~", "2026-11-20T10:00", "2026-11-20T10:00+00:00~", "99999-01-01T00:00Z~x"])
def test_anything_else_is_not_a_cursor(text):
    assert BACKUPS.read(text) is None
    assert Keyset(Job, "created", "id").read(f"2026-11-20T10:00:00+00:00~{text}") is None


def test_a_time_is_read_in_the_zone_of_the_reader():
    with timezone.override("Europe/Berlin"):
        assert moment_of("2026-11-20T10:00") == moment_of("2026-11-20T09:00Z")
    assert moment_of("1969-12-31T23:59Z") is moment_of("9999-01-01T00:00Z") is moment_of("soon") is None
