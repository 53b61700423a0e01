"""Repositories and the audit over REST."""

from __future__ import annotations

import pytest
from django.db import connections

from backups.identity import audit
from backups.identity.audit import Actor
from backups.jobs import submit
from backups.models import AuditEntry, IndexedBackup, Job
from tests.control.rest import bearer, json_of, problem, send

REPOSITORIES = "/api/v1/repositories"


@pytest.mark.slow
def test_repository_shows_its_contents_and_free_space(site):
    client = bearer(site, "ada", superuser=True)
    made = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    [listed] = json_of(client.get(REPOSITORIES), 200)["items"]
    assert (listed["name"], listed["default"], listed["usable"]) == ("main", True, True) and 0 < listed["free"] < listed["size"]
    whole = json_of(client.get(f"{REPOSITORIES}/main"), 200)
    [held] = whole["sets"]
    assert (held["name"], held["backups"]) == ("default", 1)
    assert held["bytes_stored"] == whole["bytes_stored"] == IndexedBackup.objects.get(backup_id=made.backup_id).bytes_stored
    problem(client.get(f"{REPOSITORIES}/other"), 404, "not_found")


@pytest.mark.slow
def test_rescan_verify_and_prune(site):
    client = bearer(site, "ada", superuser=True)
    for _ in range(2):
        site.done(submit.back_up(site.actor, backup="full", verify="hashes"))
    IndexedBackup.objects.all().delete()
    jobs = [
        json_of(send(client, f"{REPOSITORIES}/main/reindex"), 202),
        json_of(send(client, f"{REPOSITORIES}/main/verify", {"everything": True}), 202),
        json_of(send(client, f"{REPOSITORIES}/main/prune", {"keep_last": 1, "verified_floor": 0, "dry_run": True}), 202),
    ]
    site.work()
    done = {job.kind: job for job in Job.objects.filter(pk__in=[job["id"] for job in jobs])}
    assert {kind: (job.state, job.error) for kind, job in done.items()} == dict.fromkeys(done, ("succeeded", None))
    assert IndexedBackup.objects.count() == 2
    assert len(done["verify"].result["results"]) == 2
    assert done["prune"].result["dry_run"] and len(done["prune"].result["removed"]) == 1
    assert "every backup would be deleted" in problem(send(client, f"{REPOSITORIES}/main/prune", {}), 400, "usage")["detail"]
    for verb in ("reindex", "verify", "prune"):
        problem(send(client, f"{REPOSITORIES}/other/{verb}", {"keep_last": 1} if verb == "prune" else None), 404, "not_found")


def test_an_unknown_set_is_refused(empty_site):
    client = bearer(empty_site, "ada", superuser=True)
    for verb, body in (("verify", {"everything": True}), ("verify", {}), ("prune", {"keep_last": 1})):
        answer = problem(send(client, f"{REPOSITORIES}/main/{verb}", body | {"set": "typo"}), 404, "no_backup")
        assert "typo" in answer["detail"] and "default" in answer["hint"]
    assert not Job.objects.exists()


def test_missing_repository_is_reported(empty_site):
    client = bearer(empty_site, "ada", superuser=True)
    empty_site.repository.folder.rename(empty_site.places.root / "away")
    [listed] = json_of(client.get(REPOSITORIES), 200)["items"]
    assert not listed["usable"] and "There is no repository" in listed["problem"] and listed["size"] is None
    assert json_of(client.get(f"{REPOSITORIES}/main"), 200)["sets"] == []
    IndexedBackup.objects.create(
        repository="main",
        backup_id="20260101T000000Z-full-abcdef",
        set="default",
        kind="full",
        time="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:00Z",
    )
    path = "/api/v1/backups/20260101T000000Z-full-abcdef"
    assert "There is no repository" in json_of(client.get(path), 200)["problem"]
    assert "Mount its disk" in problem(send(client, f"{path}/hold", {}), 503, "no_repository")["hint"]
    problem(client.get(f"{path}/files/data.tar.zst"), 503, "no_repository")
    restore = {"to": "in_place", "confirm": "20260101T000000Z-full-abcdef", "code": "any"}
    for verb, body in (
        ("verify", {}),
        ("drill", {}),
        ("preview", {}),
        ("restore", restore),
        ("restore", {"to": "folder", "folder": "a"}),
    ):
        problem(send(client, f"{path}/{verb}", body), 503, "no_repository")
    for verb, body in (("verify", {}), ("prune", {"keep_last": 1}), ("reindex", {})):
        problem(send(client, f"{REPOSITORIES}/main/{verb}", body), 503, "no_repository")
    problem(client.delete(path), 503, "no_repository")
    assert not Job.objects.exists()


@pytest.mark.slow
def test_locked_repository_sends_retry_after(site):
    client = bearer(site, "ada", superuser=True)
    made = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    from django.utils import timezone

    with site.repository.writing("a test", timezone.now()):
        answer = send(client, f"/api/v1/backups/{made.backup_id}/hold", {})
    problem(answer, 409, "repository_locked")
    assert answer.headers["Retry-After"] == "10"


def test_audit_is_listed_filtered_and_verified(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    for number in range(5):
        audit.record(Actor(name=f"who{number % 2}", via=Job.Via.PAGES), "thing.done", f"thing:{number}", after={"n": number})
    page = json_of(client.get("/api/v1/audit?limit=2"), 200)
    assert [entry["target"] for entry in page["items"]] == ["thing:4", "thing:3"]
    assert [entry["target"] for entry in json_of(client.get(page["next"]), 200)["items"]] == ["thing:2", "thing:1"]

    def numbers(query: str) -> list[int]:
        return [entry["after"]["n"] for entry in json_of(client.get(f"/api/v1/audit?{query}"), 200)["items"]]

    assert numbers("who=who1") == [3, 1] and numbers("target=thing:2") == [2] and numbers("action=other") == []
    moment = AuditEntry.objects.get(target="thing:3").time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert numbers(f"since={moment}") == [4, 3] and numbers(f"until={moment}") == [3, 2, 1, 0]
    good = json_of(client.get("/api/v1/audit/verify"), 200)
    assert (good["holds"], good["entries"], good["head"]) == (True, 5, AuditEntry.objects.get(number=5).hash)
    with connections["control"].cursor() as cursor:
        cursor.execute("DROP TRIGGER backups_auditentry_no_update")
        cursor.execute("""UPDATE backups_auditentry SET after = '{"n": 7}' WHERE number = 3""")
    broken = json_of(client.get("/api/v1/audit/verify"), 200)
    assert (broken["holds"], broken["broken_at"], broken["why"]) == (False, 3, "it is not what was written")
