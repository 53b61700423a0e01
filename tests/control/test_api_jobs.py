"""Jobs over REST."""

from __future__ import annotations

import uuid

import pytest
from django.db import connections

from backups.jobs import lifecycle, submit
from backups.models import AuditEntry, Job, JobLog
from tests.control.many import many, vdbe_steps
from tests.control.rest import BACKUPS, JOBS, bearer, json_of, problem, send


def test_log_is_followed_to_the_end_of_the_job(empty_site):
    client = bearer(empty_site, "ada", "operator")
    job = submit.back_up(empty_site.actor, backup="full")
    mine = lifecycle.claim("test-host", "me")
    lifecycle.say(mine, "first")
    lifecycle.say(mine, "second", JobLog.Level.WARNING)
    lifecycle.beat(mine, phase="store", done=50, total=200, rate=10.0, left=15.0)
    found = json_of(client.get(f"{JOBS}/{job.pk}"), 200)
    assert found["progress"] == {
        "phase": "store",
        "done": 50,
        "total": 200,
        "fraction": 0.25,
        "rate": 10.0,
        "seconds_left": 15.0,
    }
    path = f"{JOBS}/{job.pk}/log"
    log = json_of(client.get(path), 200)
    assert [line["line"] for line in log["lines"][2:]] == ["first", "second"] and not log["ended"]
    lifecycle.say(mine, "third")
    more = json_of(client.get(f"{path}?after={log['last']}"), 200)
    assert [line["line"] for line in more["lines"]] == ["third"]
    assert lifecycle.end(mine, Job.State.SUCCEEDED, result={})
    end = json_of(client.get(f"{path}?after={more['last']}"), 200)
    assert [line["line"].partition(" ")[0] for line in end["lines"]] == ["Done"] and end["ended"]
    end = json_of(client.get(f"{path}?after={end['last']}"), 200)
    assert end["lines"] == [] and end["ended"]
    assert [line["line"] for line in json_of(client.get(f"{path}?level=warning"), 200)["lines"]] == ["second"]
    assert [line["line"] for line in json_of(client.get(f"{path}?text=IR"), 200)["lines"]] == ["first", "third"]
    assert len(json_of(client.get(f"{path}?limit=1"), 200)["lines"]) == 1
    problem(client.get(f"{path}?after=-1"), 400, "invalid")
    problem(client.get(f"{JOBS}/{uuid.uuid4()}/log"), 404, "not_found")


def test_cancel_a_queued_job_and_a_running_one(empty_site):
    client = bearer(empty_site, "ada", "operator")
    waiting = submit.back_up(empty_site.actor, backup="full")
    assert json_of(send(client, f"{JOBS}/{waiting.pk}/cancel"), 200)["state"] == "cancelled"
    running = submit.back_up(empty_site.actor, backup="full")
    mine = lifecycle.claim("test-host", "me")
    asked = json_of(send(client, f"{JOBS}/{running.pk}/cancel"), 202)
    assert asked["state"] == "running" and asked["cancel_asked"]
    json_of(send(client, f"{JOBS}/{running.pk}/cancel"), 202)
    assert AuditEntry.objects.filter(action="job.cancel_asked").count() == 1
    lifecycle.end(mine, Job.State.CANCELLED)
    assert json_of(send(client, f"{JOBS}/{running.pk}/cancel"), 200)["state"] == "cancelled"


def test_running_a_job_again_requires_the_permission_of_its_type(empty_site):
    job = submit.back_up(empty_site.actor, backup="full", note="once more")
    operator = bearer(empty_site, "ada", "operator")
    path = f"{JOBS}/{job.pk}/again"
    problem(send(operator, path), 409, "not_ended")
    lifecycle.cancel(job, empty_site.actor)
    again = json_of(send(operator, path), 202)
    assert (again["kind"], again["note"], again["by"]) == ("backup", "once more", "ada") and again["id"] != str(job.pk)
    viewer = bearer(empty_site, "bob", "viewer")
    assert problem(send(viewer, path), 403, "not_allowed")["permission"] == "backups.create_backup"
    reader = bearer(empty_site, "cyd", "operator", scopes=("read",))
    assert problem(send(reader, path), 403, "scope")["scopes"] == ["backup"]
    restore = Job.objects.create(kind="restore_in_place", host="test-host", state=Job.State.FAILED)
    restorer = bearer(empty_site, "dan", "restorer")
    assert "a new restore" in problem(send(restorer, f"{JOBS}/{restore.pk}/again"), 409, "restore_refused")["hint"]


def test_jobs_are_filtered(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    one = submit.back_up(empty_site.actor, backup="full")
    two = submit.verify(empty_site.actor, everything=True)
    lifecycle.cancel(two, empty_site.actor)

    def ids(query: str) -> list[str]:
        return [item["id"] for item in json_of(client.get(f"{JOBS}?{query}"), 200)["items"]]

    assert ids("") == [str(two.pk), str(one.pk)]
    assert ids("state=queued") == ids("kind=backup") == ids(f"until={one.created:%Y-%m-%dT%H:%M:%S.%fZ}") == [str(one.pk)]
    assert ids("state=cancelled") == [str(two.pk)]
    assert len(ids("by=tester&repository=main")) == 2
    assert ids("by=nobody") == ids("schedule=daily-full") == ids("backup=x") == ids("set=control") == []
    page = json_of(client.get(f"{JOBS}?limit=1"), 200)
    assert json_of(client.get(page["next"]), 200)["items"][0]["id"] == str(one.pk)


@pytest.mark.slow
def test_lists_of_100_000_jobs_and_a_million_log_lines_do_little_work(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    newest = uuid.UUID(many(jobs=100_000, lines=1_000_000))
    deep = json_of(client.get(f"{JOBS}?limit=1&until=2026-06-01T00:00:00Z"), 200)["next"] or f"{JOBS}?limit=1"
    work = {}
    for path in (
        JOBS,
        f"{JOBS}?state=failed",
        f"{JOBS}?kind=verify",
        f"{JOBS}?by=nobody",
        f"{JOBS}?schedule=none",
        deep,
        f"{JOBS}/{newest}",
        f"{JOBS}/{newest}/log",
        f"{JOBS}/{newest}/log?text=nowhere",
        f"{JOBS}?set=none",
        "/api/v1/status",
    ):
        with vdbe_steps(connections["control"].connection) as steps:
            json_of(client.get(path), 200)
        work[path] = steps.taken
    assert max(work.values()) <= 5 * 100_000, work


def test_location_is_the_address_of_the_job(empty_site):
    client = bearer(empty_site, "ada", "operator")
    asked = send(client, BACKUPS, {})
    assert json_of(client.get(asked.headers["Location"]), 200)["id"] == json_of(asked, 202)["id"]
