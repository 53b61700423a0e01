"""Readiness: points for what was tested, and for nothing else."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command

from backups.jobs import submit
from backups.models import AlertChannel, AlertDelivery, IndexedBackup, Worker
from backups.monitoring import readiness
from backups.monitoring import verdict as status
from backups.monitoring.readiness import ReadinessFacts, State, assess
from backups.plans import defaults

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FINE = ReadinessFacts(
    recent=100,
    recent_proven=100,
    drilled=NOW - timedelta(days=3),
    drill_ok=True,
    drill_seconds=8.1,
    repositories=2,
    copied=NOW - timedelta(hours=20),
    encrypted=True,
    alert_channels=1,
    alert_worked=NOW - timedelta(days=10),
    control=NOW - timedelta(hours=9),
    planned=True,
    working=True,
    sqlite=(3, 51, 3),
)


def verdict(**changes: Any) -> status.Verdict:
    made = status.verdict(status.Facts(host="h"), NOW)
    fine = {
        "recovery_point": status.Measure(seconds=840, promised=3600),
        "recovery_time": status.Measure(seconds=8.1, promised=300),
        "space": status.Space(used=10, free=50, size=100, full_in_days=212),
    }
    return dataclasses.replace(made, **{**fine, **changes})


def item(code: str, *, facts: dict[str, Any] | None = None, **changes: Any) -> readiness.Item:
    found = assess(verdict(**changes), dataclasses.replace(FINE, **(facts or {})), NOW)
    return next(one for one in found.items if one.code == code)


def test_all_that_is_tested_is_a_hundred():
    found = assess(verdict(), FINE, NOW)
    assert (found.score, found.level) == (100, "ready")
    assert {one.state for one in found.items} == {State.MET}


def test_what_was_never_tested_gives_nothing():
    nothing = status.Measure(seconds=None, promised=60)
    bare = ReadinessFacts(has_control=True, sqlite=(3, 40, 1))
    found = assess(
        verdict(recovery_point=nothing, recovery_time=nothing, space=status.Space(used=0, free=0, size=0, full_in_days=None)),
        bare,
        NOW,
    )
    assert (found.score, found.level) == (0, "not_ready")
    assert all(one.todo for one in found.items)


@pytest.mark.parametrize(
    ("code", "facts", "changes", "state"),
    [
        ("recovery_point", {}, {"recovery_point": status.Measure(seconds=3900, promised=3600)}, State.MET),
        ("recovery_point", {}, {"recovery_point": status.Measure(seconds=4200, promised=3600)}, State.PARTLY),
        ("recovery_point", {}, {"recovery_point": status.Measure(seconds=9000, promised=3600)}, State.MISSED),
        ("recovery_time", {}, {"recovery_time": status.Measure(seconds=301, promised=300)}, State.MISSED),
        ("drill", {"drill_ok": False}, {}, State.MISSED),
        ("drill", {"drilled": NOW - timedelta(days=9)}, {}, State.PARTLY),
        ("drill", {"drilled": NOW - timedelta(days=40)}, {}, State.MISSED),
        ("drill", {"drilled": None}, {}, State.UNTESTED),
        ("second_copy", {"repositories": 1}, {}, State.UNTESTED),
        ("second_copy", {"copied": None}, {}, State.MISSED),
        ("second_copy", {"copied": NOW - timedelta(days=5)}, {}, State.PARTLY),
        ("proven", {"recent_proven": 94}, {}, State.PARTLY),
        ("proven", {"recent_proven": 49}, {}, State.MISSED),
        ("automation", {"working": False}, {}, State.MISSED),
        ("automation", {"planned": False}, {}, State.MISSED),
        ("alerts", {"alert_channels": 0}, {}, State.UNTESTED),
        ("alerts", {"alert_worked": None}, {}, State.UNTESTED),
        ("alerts", {"alert_worked": NOW - timedelta(days=100)}, {}, State.PARTLY),
        ("space", {}, {"space": status.Space(used=1, free=4, size=100, full_in_days=None)}, State.MISSED),
        ("space", {}, {"space": status.Space(used=1, free=50, size=100, full_in_days=20)}, State.PARTLY),
        ("control", {"control": None}, {}, State.UNTESTED),
        ("control", {"has_control": False}, {}, State.MET),
        ("encryption", {"encrypted": None}, {}, State.UNTESTED),
        ("sqlite", {"sqlite": (3, 40, 1)}, {}, State.MISSED),
        ("sqlite", {"sqlite": (3, 44, 6)}, {}, State.MET),
    ],
)
def test_each_reason(code, facts, changes, state):
    found = item(code, facts=facts, **changes)
    assert found.state is state and found.text
    assert bool(found.todo) == (state is not State.MET)


def test_a_high_score_does_not_hide_that_no_restore_was_tested():
    found = assess(verdict(), dataclasses.replace(FINE, drilled=None), NOW)
    assert found.score == 85 and found.level == "not_ready"
    assert "no test restore was ever made" in found.sentence


def test_it_rises_with_what_is_done(site):
    def score() -> int:
        output = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("backup_readiness", json=True, stdout=output)
        answer = json.loads(output.getvalue())
        assert ended.value.code == 2 if answer["level"] == "not_ready" else 1
        return answer["score"]

    bare = score()
    site.done(submit.back_up(site.actor, backup="full"))
    backed_up = score()
    site.done(submit.drill(site.actor))
    row = IndexedBackup.objects.get()
    assert row.drill_ok and row.drilled_at and row.drill_seconds
    drilled = score()
    defaults.install()
    Worker.objects.create(host="test-host")
    planned = score()
    switch = AlertChannel.objects.create(name="switch", kind="ping", target="https://example.org/ping")
    AlertDelivery.objects.create(
        event="success",
        recipient=f"channel:{switch.pk}",
        to="switch",
        thread="s",
        state="delivered",
        finished=datetime.now(UTC),
    )
    assert score() == planned  # a switch that was called has told nobody
    mail = AlertChannel.objects.create(name="mail", kind="mail", target="ops@example.org")
    assert score() == planned  # a channel that was never tried is worth nothing
    AlertDelivery.objects.create(
        event="test", recipient=f"channel:{mail.pk}", to="mail", thread="t", state="delivered", finished=datetime.now(UTC)
    )
    assert bare < backed_up < drilled < planned < score()


def test_the_page_says_it_and_asks_for_a_drill(site):
    site.done(submit.back_up(site.actor, backup="full"))
    viewer = site.client("viewer", "viewer")
    page = viewer.get("/admin/backup/readiness/")
    assert page.status_code == 200 and b"Never tested" in page.content
    assert b"Restore the newest backup to test it" not in page.content
    assert viewer.post("/admin/backup/readiness/drill/").status_code == 403
    operator = site.client("operator", "operator")
    assert operator.post("/admin/backup/readiness/drill/").status_code == 302
    assert site.work() == 1
    assert b"Restored and sound" in operator.get("/admin/backup/readiness/").content


def test_an_encrypted_disk_is_told_by_the_kernel(tmp_path):
    import os

    device = tmp_path.stat().st_dev
    top = tmp_path / "sys" / f"{os.major(device)}:{os.minor(device)}"
    assert readiness.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is None
    (top / "slaves").mkdir(parents=True)
    assert readiness.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is False
    below = tmp_path / "dm-0"
    (below / "dm").mkdir(parents=True)
    (below / "dm" / "uuid").write_text("CRYPT-LUKS2-0123-data\n")
    (top / "slaves" / "dm-0").symlink_to(below)
    assert readiness.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is True
