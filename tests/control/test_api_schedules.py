"""Plans over REST."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from backups.models import AuditEntry, Job, Plan
from backups.plans import defaults
from tests.control.rest import bearer, json_of, problem, send

SCHEDULES = "/api/v1/schedules"
NIGHTLY = {
    "name": "nightly",
    "kind": "backup",
    "arguments": {"backup": "full"},
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
}


def test_plan_life_cycle(empty_site):
    client = bearer(empty_site, "ada", "operator")
    made = send(client, SCHEDULES, {**NIGHTLY, "alert_to": ["ops@example.org"]})
    plan = json_of(made, 201)
    assert made.headers["Location"] == f"{SCHEDULES}/nightly"
    assert plan["in_words"].startswith("Every day at 02:30") and len(plan["next"]) == 5 and plan["enabled"]
    assert all(datetime.fromisoformat(moment) > timezone.now() for moment in plan["next"])
    assert json_of(client.get(f"{SCHEDULES}/nightly"), 200) == plan
    problem(send(client, SCHEDULES, NIGHTLY), 400, "usage")

    before = Plan.objects.get().served
    changed = json_of(send(client, f"{SCHEDULES}/nightly", {"cron": "0 4 * * *", "title": "Every night"}, "PATCH"), 200)
    assert (changed["cron"], changed["title"], changed["time_zone"]) == ("0 4 * * *", "Every night", "Europe/Berlin")
    assert Plan.objects.get().served > before  # past times of the new expression are skipped
    entry = AuditEntry.objects.get(action="plan.changed")
    assert entry.before == {"title": "", "cron": "30 2 * * *"} and entry.after["cron"] == "0 4 * * *"

    job = json_of(send(client, f"{SCHEDULES}/nightly/run"), 202)
    assert (job["schedule"], job["by"], job["arguments"]["backup"]) == ("nightly", "ada", "full")
    shown = json_of(client.get(f"{SCHEDULES}/nightly"), 200)
    assert (shown["last_job"], shown["last_state"]) == (job["id"], "queued")
    paused = json_of(send(client, f"{SCHEDULES}/nightly/pause"), 200)
    assert (paused["enabled"], paused["paused_by"], paused["next"]) == (False, "ada", [])
    assert [one["name"] for one in json_of(client.get(f"{SCHEDULES}?enabled=false"), 200)["items"]] == ["nightly"]
    assert json_of(send(client, f"{SCHEDULES}/nightly/resume"), 200)["enabled"]

    json_of(client.delete(f"{SCHEDULES}/nightly"), 204)
    problem(client.get(f"{SCHEDULES}/nightly"), 404, "not_found")
    assert Job.objects.get().plan is None
    actions = [*AuditEntry.objects.filter(action__startswith="plan.").order_by("number").values_list("action", flat=True)]
    assert actions == ["plan.made", "plan.changed", "plan.paused", "plan.resumed", "plan.removed"]


def test_all_faults_are_reported_at_once(empty_site):
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
        assert json_of(answer, 400)["code"] in ("usage", "invalid"), (field, value)
    assert not Plan.objects.exists()


def test_plan_requires_the_permission_of_its_job_type(empty_site):
    operator = bearer(empty_site, "ada", "operator")
    prune = {**NIGHTLY, "name": "prune", "kind": "prune", "arguments": {"keep_last": 1}}
    assert problem(send(operator, SCHEDULES, prune), 403, "not_allowed")["permission"] == "backups.delete_backup"
    admin = bearer(empty_site, "root", superuser=True)
    json_of(send(admin, SCHEDULES, prune), 201)
    problem(send(operator, f"{SCHEDULES}/prune", {"cron": "0 5 * * *"}, "PATCH"), 403, "not_allowed")
    problem(send(operator, f"{SCHEDULES}/prune", {"arguments": {"keep_last": 2}}, "PATCH"), 403, "not_allowed")
    problem(send(operator, f"{SCHEDULES}/prune", {"kind": "health", "arguments": {}}, "PATCH"), 403, "not_allowed")
    restore = {**NIGHTLY, "name": "r", "kind": "restore_in_place", "arguments": {"backup_id": "20260101T000000Z-full-abcdef"}}
    assert "must be requested each time" in problem(send(admin, SCHEDULES, restore), 400, "usage")["detail"]


def test_default_plans_are_listed_in_words(empty_site):
    defaults.install()
    items = json_of(bearer(empty_site, "ada", "viewer").get(SCHEDULES), 200)["items"]
    assert {item["name"] for item in items} >= {"hourly-incremental", "daily-full", "daily-prune"}
    assert all(item["in_words"] and len(item["next"]) == 5 and item["builtin"] for item in items)


def test_cron_expression_in_words(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    found = json_of(client.get("/api/v1/schedule-times?cron=0+3+*+*+1&count=3"), 200)
    assert found["in_words"] == "Mondays at 03:00 UTC" and len(found["next"]) == 3
    first, second = (datetime.fromisoformat(moment) for moment in found["next"][:2])
    assert second - first == timedelta(days=7) and first.weekday() == 0
    for query in ("cron=nonsense", "cron=*+*+*+*+*+*", "cron=0+3+*+*+*&time_zone=Nowhere", "cron=61+*+*+*+*"):
        problem(client.get(f"/api/v1/schedule-times?{query}"), 400, "usage")
    problem(client.get("/api/v1/schedule-times"), 400, "invalid")


@pytest.mark.parametrize("name", ["nope", "..", "a%2Fb"])
def test_unknown_plan(empty_site, name):
    problem(bearer(empty_site, "ada", "viewer").get(f"{SCHEDULES}/{name}"), 404, "not_found")
