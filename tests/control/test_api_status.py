"""Status, readiness, the probe ``/readyz``, and the addresses of legacy clients."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from backups.jobs import submit
from backups.models import Job, Worker
from tests.control.conftest import HOST
from tests.control.rest import BACKUPS, bearer, json_of, problem, send


@pytest.mark.slow
def test_status_and_readiness(site):
    client = bearer(site, "ada", "viewer")
    empty = json_of(client.get("/api/v1/status"), 200)
    assert empty["level"] == "unprotected" and "nothing" in {reason["code"] for reason in empty["reasons"]}
    made = site.done(submit.back_up(site.actor, backup="full"))
    Worker.objects.create(host=HOST)
    full = json_of(client.get("/api/v1/status"), 200)
    assert full["newest_proven"] == made.backup_id and full["counts"]["proven"] == 1 and full["recovery_point"]["kept"]
    score = json_of(client.get("/api/v1/readiness"), 200)
    assert score["level"] == "not_ready" and sum(item["points"] for item in score["items"]) == 100
    assert score["score"] == int(sum(item["earned"] for item in score["items"]))
    assert json_of(client.get("/admin/backup/status"), 200)["level"] == full["level"]


def test_readyz_checks_databases_queue_and_worker(empty_site):
    ask = Client()
    missing = plain_json(ask.get("/readyz"), 503)
    assert missing["status"] == "not_ready" and missing["checks"]["worker"] == {"ok": False, "says": "not started yet"}
    worker = Worker.objects.create(host=HOST)
    ready = plain_json(ask.get("/readyz"), 200)
    assert ready["status"] == "ready" and all(check["ok"] for check in ready["checks"].values())
    Worker.objects.filter(pk=worker.pk).update(beat=timezone.now() - timedelta(minutes=10))
    assert "no heartbeat for 60" in plain_json(ask.get("/readyz"), 503)["checks"]["worker"]["says"]
    Worker.objects.filter(pk=worker.pk).update(beat=timezone.now())
    for alias, name in (("default", "REFSERVER_DATABASE"), ("control", "REFSERVER_CONTROL_DATABASE")):
        connections.close_all()
        file = empty_site.places.settings[name]
        file.rename(file.with_suffix(".away"))
        file.write_bytes(b"this is not a database, and long enough to be recognised as such" * 100)
        found = plain_json(ask.get("/readyz"), 503)["checks"]
        assert found["database"] == {"ok": False, "says": f"the database {alias} is not available"}
        connections.close_all()
        file.with_suffix(".away").rename(file)
    assert plain_json(ask.get("/readyz"), 200)["status"] == "ready"


def plain_json(response, status):
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json"), response.content
    return response.json()


@pytest.mark.slow
def test_legacy_addresses_work(site):
    client = bearer(site, "ada", superuser=True)
    asked = send(client, "/admin/backup/trigger", {"kind": "full"}, Idempotency_Key="k")
    job = json_of(asked, 202)
    assert asked.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert json_of(send(client, "/admin/backup/trigger", {"kind": "full"}, Idempotency_Key="k"), 202)["id"] == job["id"]
    done = site.done(Job.objects.get(pk=job["id"]))
    assert done.state == Job.State.SUCCEEDED, done.error
    history = json_of(client.get("/admin/backup/history?limit=5"), 200)
    assert history["items"] == json_of(client.get(f"{BACKUPS}?limit=5"), 200)["items"]
    body = {"backup_id": done.backup_id, "restore": {"to": "folder", "folder": "earlier"}}
    restored = site.done(Job.objects.get(pk=json_of(send(client, "/admin/backup/restore", body), 202)["id"]))
    assert restored.state == Job.State.SUCCEEDED, restored.error
    in_place = {"backup_id": done.backup_id, "restore": {"to": "in_place", "confirm": done.backup_id, "code": "any"}}
    person = site.client("bob", "restorer")
    json_of(send(person, "/admin/backup/restore", in_place), 202)


def test_legacy_errors_are_problems_and_pages_stay_pages(empty_site):
    for method, path in (("GET", "status"), ("GET", "history"), ("POST", "trigger"), ("POST", "restore")):
        problem(send(Client(), f"/admin/backup/{path}", method=method), 401, "not_signed_in")
    person = empty_site.client("ada", superuser=True)
    problem(person.get("/admin/backup/trigger"), 405, "method_not_allowed")
    assert person.get("/admin/backup/").headers["Content-Type"].startswith("text/html")
