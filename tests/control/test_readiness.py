"""Readiness: only what was tested earns points."""

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
from backups.monitoring import encryption, readiness
from backups.monitoring.facts import (
    BackupFact,
    Drills,
    Facts,
    PlanFact,
    RepositoryFact,
    RestoreFact,
    SetFact,
    WorkerFact,
)
from backups.monitoring.readiness import ReadinessFacts, State, assess
from backups.plans import defaults

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FINE = ReadinessFacts(
    recent=100,
    recent_proven=100,
    copied=NOW - timedelta(hours=20),
    encrypted=True,
    alert_channels=1,
    alert_worked=NOW - timedelta(days=10),
    control=NOW - timedelta(hours=9),
    sqlite=(3, 51, 3),
)
MAIN, SECOND = RepositoryFact(name="main", free=50, size=100, grown_a_day=0.2), RepositoryFact(name="second")
PLAN = PlanFact(name="hourly", title="Hourly", kind="backup", set="default", next=NOW + timedelta(minutes=20))


def aged(seconds: float) -> dict[str, Any]:
    made = BackupFact(id="b", kind="full", time=NOW - timedelta(seconds=seconds), verification="restore")
    return {"sets": (SetFact(name="default", newest=made, proven=made),)}


def took(seconds: float) -> dict[str, Any]:
    return {"restores": (RestoreFact(seconds=seconds, time=NOW),)}


def drilled(days: float | None, **values: Any) -> dict[str, Any]:
    since = NOW - timedelta(days=days or 60)
    return {"drills": Drills(could_be_since=since, last_good=since if days else None, **values)}


def disk(**values: Any) -> dict[str, Any]:
    return {"repositories": (dataclasses.replace(MAIN, **values), SECOND)}


SITE = Facts(
    now=NOW,
    host="h",
    repositories=(MAIN, SECOND),
    plans=(PLAN,),
    workers=(WorkerFact(host="h", beat=NOW),),
    **aged(840),
    **took(8.1),
    **drilled(3, seconds=8.1),
)


def item(code: str, *, more: dict[str, Any] | None = None, **changes: Any) -> readiness.Item:
    found = assess(dataclasses.replace(SITE, **changes), dataclasses.replace(FINE, **(more or {})))
    return next(one for one in found.items if one.code == code)


def test_a_site_without_gaps_scores_a_hundred():
    found = assess(SITE, FINE)
    assert (found.score, found.level) == (100, "ready")
    assert {one.state for one in found.items} == {State.MET}


def test_a_site_where_nothing_was_tested_scores_nothing():
    bare = Facts(now=NOW, host="h", sets=(SetFact(name="default"),), repositories=(RepositoryFact(name="main"),))
    found = assess(bare, ReadinessFacts(has_control=True, sqlite=(3, 40, 1)))
    assert (found.score, found.level) == (0, "not_ready")
    assert all(one.todo for one in found.items)


@pytest.mark.parametrize(
    ("code", "more", "changes", "state"),
    [
        ("recovery_point", {}, aged(3900), State.MET),
        ("recovery_point", {}, aged(4600), State.PARTLY),
        ("recovery_point", {}, aged(11000), State.MISSED),
        ("recovery_time", {}, took(301), State.MISSED),
        ("drill", {}, drilled(3, failed=NOW), State.MISSED),
        ("drill", {}, drilled(9), State.PARTLY),
        ("drill", {}, drilled(40), State.MISSED),
        ("drill", {}, drilled(None), State.UNTESTED),
        ("second_copy", {}, {"repositories": (MAIN,)}, State.MISSED),
        ("second_copy", {"copied": None}, {}, State.MISSED),
        ("second_copy", {"copied": NOW - timedelta(days=5)}, {}, State.PARTLY),
        ("proven", {"recent_proven": 94}, {}, State.PARTLY),
        ("proven", {"recent_proven": 49}, {}, State.MISSED),
        ("automation", {}, {"workers": ()}, State.MISSED),
        ("automation", {}, {"plans": (dataclasses.replace(PLAN, enabled=False, next=None),)}, State.MISSED),
        ("alerts", {"alert_channels": 0}, {}, State.MISSED),
        ("alerts", {"alert_worked": None}, {}, State.UNTESTED),
        ("alerts", {"alert_worked": NOW - timedelta(days=100)}, {}, State.PARTLY),
        ("space", {}, disk(free=4), State.MISSED),
        ("space", {}, disk(grown_a_day=5), State.PARTLY),
        ("control", {"control": None}, {}, State.MISSED),
        ("control", {"has_control": False}, {}, State.MISSED),
        ("control", {"has_control": False, "control_on_server": True}, {}, State.UNKNOWN),
        ("encryption", {"encrypted": None}, {}, State.UNKNOWN),
        ("sqlite", {"sqlite": (3, 40, 1)}, {}, State.MISSED),
        ("sqlite", {"sqlite": (3, 44, 6)}, {}, State.MET),
    ],
)
def test_each_criterion(code, more, changes, state):
    found = item(code, more=more, **changes)
    assert found.state is state and found.text
    assert bool(found.todo) == (state is not State.MET)


def test_a_high_score_does_not_hide_that_no_restore_was_tested():
    found = assess(dataclasses.replace(SITE, **drilled(None)), FINE)
    assert found.score == 85 and found.level == "not_ready"
    assert found.sentence == "Recovery not confirmed: no drill has been run."


@pytest.mark.slow
def test_the_score_rises_with_each_thing_done(site):
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
    assert score() == planned  # a switch that was called has notified nobody
    mail = AlertChannel.objects.create(name="mail", kind="mail", target="ops@example.org")
    assert score() == planned  # a channel that was never tried is worth nothing
    AlertDelivery.objects.create(
        event="test", recipient=f"channel:{mail.pk}", to="mail", thread="t", state="delivered", finished=datetime.now(UTC)
    )
    assert bare < backed_up < drilled < planned < score()


@pytest.mark.slow
def test_the_page_shows_the_score_and_starts_a_drill(site):
    site.done(submit.back_up(site.actor, backup="full"))
    viewer = site.client("viewer", "viewer")
    page = viewer.get("/admin/backup/readiness/")
    assert page.status_code == 200 and b"Not tested" in page.content
    assert b">Drill</button>" not in page.content
    assert viewer.post("/admin/backup/readiness/drill/").status_code == 403
    operator = site.client("operator", "operator")
    assert operator.post("/admin/backup/readiness/drill/").status_code == 302
    assert site.work() == 1
    assert b">Succeeded</span>" in operator.get("/admin/backup/readiness/").content


def test_an_encrypted_disk_is_detected_from_sysfs(tmp_path):
    import os

    device = tmp_path.stat().st_dev
    top = tmp_path / "sys" / f"{os.major(device)}:{os.minor(device)}"
    assert encryption.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is None
    (top / "slaves").mkdir(parents=True)
    assert encryption.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is False
    below = tmp_path / "dm-0"
    (below / "dm").mkdir(parents=True)
    (below / "dm" / "uuid").write_text("CRYPT-LUKS2-0123-data\n")
    (top / "slaves" / "dm-0").symlink_to(below)
    assert encryption.on_encrypted_disk(tmp_path, sys=tmp_path / "sys") is True
