"""Schedules over REST."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from backups.models import AuditEntry, Job, Plan
from backups.plans import defaults
from tests.control.rest import bearer, problem, send, told

SCHEDULES = "/api/v1/schedules"
NIGHTLY = {
    "name": "nightly",
    "kind": "backup",
    "arguments": {"backup": "full"},
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
}


def test_a_schedule_is_made_shown_changed_run_paused_and_deleted(empty_site):
    client = bearer(empty_site, "ada", "operator")
    made = send(client, SCHEDULES, {**NIGHTLY, "alert_to": ["ops@example.org"]})
    plan = told(made, 201)
    assert made.headers["Location"] == f"{SCHEDULES}/nightly"
    assert plan["in_words"].startswith("Every day at 02:30") and len(plan["next"]) == 5 and plan["enabled"]
    assert all(datetime.fromisoformat(moment) > timezone.now() for moment in plan["next"])
    assert told(client.get(f"{SCHEDULES}/nightly"), 200) == plan
    problem(send(client, SCHEDULES, NIGHTLY), 400, "usage")

    before = Plan.objects.get().served
    changed = told(send(client, f"{SCHEDULES}/nightly", {"cron": "0 4 * * *", "title": "Every night"}, "PATCH"), 200)
    assert (changed["cron"], changed["title"], changed["time_zone"]) == ("0 4 * * *", "Every night", "Europe/Berlin")
    assert Plan.objects.get().served > before  # a slot that its new times have in the past is not served
    entry = AuditEntry.objects.get(action="plan.changed")
    assert entry.before == {"title": "", "cron": "30 2 * * *"} and entry.after["cron"] == "0 4 * * *"

    job = told(send(client, f"{SCHEDULES}/nightly/run"), 202)
    assert (job["schedule"], job["by"], job["arguments"]["backup"]) == ("nightly", "ada", "full")
    shown = told(client.get(f"{SCHEDULES}/nightly"), 200)
    assert (shown["last_job"], shown["last_state"]) == (job["id"], "queued")
    paused = told(send(client, f"{SCHEDULES}/nightly/pause"), 200)
    assert (paused["enabled"], paused["paused_by"], paused["next"]) == (False, "ada", [])
    assert [one["name"] for one in told(client.get(f"{SCHEDULES}?enabled=false"), 200)["items"]] == ["nightly"]
    assert told(send(client, f"{SCHEDULES}/nightly/resume"), 200)["enabled"]

    told(client.delete(f"{SCHEDULES}/nightly"), 204)
    problem(client.get(f"{SCHEDULES}/nightly"), 404, "not_found")
    assert Job.objects.get().plan is None
    actions = [*AuditEntry.objects.filter(action__startswith="plan.").order_by("number").values_list("action", flat=True)]
    assert actions == ["plan.made", "plan.changed", "plan.paused", "plan.resumed", "plan.removed"]


def test_all_that_is_wrong_is_told_at_once(empty_site):
    client = bearer(empty_site, "ada", superuser=True)
    wrong = {"name": "x", "kind": "backup", "arguments": {"bakcup": "full"}, "cron": "0 25 * * *", "alert_to": ["nobody"]}
    found = problem(send(client, SCHEDULES, wrong), 400, "usage")
    assert [one.partition(":")[0] for one in found["problems"]] == ["cron", "arguments", "alert_to"]
    for field, value in (
        ("cron", "* * * * * *"),
        ("cron", "0 0 30 2 *"),
        ("time_zone", "Mars/Olympus"),
        ("kind", "nope"),
        ("name", "a/b"),
        ("arguments", {"backup": "full", "set": "nope"}),
        ("attempts", 0),
        ("limit_minutes", 10**9),
    ):
        answer = send(client, SCHEDULES, {**NIGHTLY, field: value})
        assert told(answer, 400)["code"] in ("usage", "invalid"), (field, value)
    assert not Plan.objects.exists()


def test_a_plan_does_nothing_that_its_author_may_not(empty_site):
    operator = bearer(empty_site, "ada", "operator")
    prune = {**NIGHTLY, "name": "prune", "kind": "prune", "arguments": {"keep_last": 1}}
    assert problem(send(operator, SCHEDULES, prune), 403, "not_allowed")["permission"] == "backups.delete_backup"
    admin = bearer(empty_site, "root", superuser=True)
    told(send(admin, SCHEDULES, prune), 201)
    told(send(operator, f"{SCHEDULES}/prune", {"cron": "0 5 * * *"}, "PATCH"), 200)
    problem(send(operator, f"{SCHEDULES}/prune", {"arguments": {"keep_last": 2}}, "PATCH"), 403, "not_allowed")
    problem(send(operator, f"{SCHEDULES}/prune", {"kind": "health", "arguments": {}}, "PATCH"), 403, "not_allowed")
    restore = {**NIGHTLY, "name": "r", "kind": "restore_in_place", "arguments": {"backup_id": "20260101T000000Z-full-abcdef"}}
    assert "a person asks for it" in problem(send(admin, SCHEDULES, restore), 400, "usage")["detail"]


def test_the_default_plans_are_listed_with_words(empty_site):
    defaults.install()
    items = told(bearer(empty_site, "ada", "viewer").get(SCHEDULES), 200)["items"]
    assert {item["name"] for item in items} >= {"hourly-incremental", "daily-full", "daily-prune"}
    assert all(item["in_words"] and len(item["next"]) == 5 and item["builtin"] for item in items)


def test_a_cron_expression_in_plain_words(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    found = told(client.get("/api/v1/schedule-times?cron=0+3+*+*+1&count=3"), 200)
    assert found["in_words"] == "At 03:00, only on Monday" and len(found["next"]) == 3
    first, second = (datetime.fromisoformat(moment) for moment in found["next"][:2])
    assert second - first == timedelta(days=7) and first.weekday() == 0
    for query in ("cron=nonsense", "cron=*+*+*+*+*+*", "cron=0+3+*+*+*&time_zone=Nowhere", "cron=61+*+*+*+*"):
        problem(client.get(f"/api/v1/schedule-times?{query}"), 400, "usage")
    problem(client.get("/api/v1/schedule-times"), 400, "invalid")


@pytest.mark.parametrize("name", ["nope", "..", "a%2Fb"])
def test_a_schedule_that_is_not_there(empty_site, name):
    problem(bearer(empty_site, "ada", "viewer").get(f"{SCHEDULES}/{name}"), 404, "not_found")
