"""Backups over REST."""

from __future__ import annotations

import pytest
from django.db import connections

from backups.catalog.index import refresh
from backups.jobs import submit
from backups.models import AuditEntry, IndexedBackup, Job
from refserver.library.models import Paper
from tests.control.many import many, vdbe_steps
from tests.control.rest import BACKUPS, bearer, json_of, problem, send


@pytest.mark.slow
def test_backup_life_cycle(site):
    client = bearer(site, "ada", superuser=True)
    asked = send(client, BACKUPS, {"kind": "full", "note": "by program"})
    job = json_of(asked, 202)
    assert asked.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["via"], job["by"]) == ("queued", "api", "ada")
    site.work()
    done = json_of(client.get(asked.headers["Location"]), 200)
    assert done["state"] == "succeeded", done["error"]
    [listed] = json_of(client.get(BACKUPS), 200)["items"]
    assert (listed["id"], listed["kind"], listed["proof"], listed["note"]) == (
        done["backup_id"],
        "full",
        "restore",
        "by program",
    )
    assert listed["job"] == job["id"]
    child = site.done(submit.back_up(site.actor, backup="incremental"))

    whole = json_of(client.get(f"{BACKUPS}/{listed['id']}"), 200)
    assert whole["manifest"]["id"] == listed["id"] and whole["proof_history"][0]["ok"]
    assert whole["lineage"] == {"needs": [], "needed_by": [child.backup_id]}
    assert json_of(client.get(f"{BACKUPS}/{child.backup_id}"), 200)["lineage"]["needs"] == [listed["id"]]
    assert json_of(client.get(f"{BACKUPS}/latest"), 200)["id"] == child.backup_id

    held = json_of(send(client, f"{BACKUPS}/{child.backup_id}/hold", {"note": "for the audit"}), 200)
    assert held["hold_note"] == "for the audit"
    refused = problem(client.delete(f"{BACKUPS}/{child.backup_id}"), 400, "usage")
    assert "held: for the audit" in refused["detail"] and refused["hint"] == "Release it first."
    assert not json_of(send(client, f"{BACKUPS}/{child.backup_id}/release"), 200)["held"]
    deletion = json_of(client.delete(f"{BACKUPS}/{child.backup_id}"), 202)
    assert site.done(Job.objects.get(pk=deletion["id"])).state == "succeeded"
    problem(client.get(f"{BACKUPS}/{child.backup_id}"), 404, "no_backup")

    last = problem(client.delete(f"{BACKUPS}/{listed['id']}"), 409, "in_use")
    assert "the set default has no proven backup" in last["detail"] and "last_proven=true" in last["hint"]
    json_of(client.delete(f"{BACKUPS}/{listed['id']}?last_proven=true"), 202)

    entry = AuditEntry.objects.filter(action="backup.held").get()
    assert (entry.who, entry.via, entry.token, entry.address) == ("ada", "api", "ada's (rsb_" + entry.token[11:], "127.0.0.1")


@pytest.mark.slow
def test_unreadable_manifest_is_reported(site):
    client = bearer(site, "ada", "viewer")
    made = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    site.repository.backup_folder("default", made.backup_id).joinpath("manifest.json").write_text("{")
    found = json_of(client.get(f"{BACKUPS}/{made.backup_id}"), 200)
    assert found["manifest"] is None and "not a JSON object" in found["problem"]


@pytest.mark.slow
def test_verify_drill_and_preview_queue_jobs(site):
    client = bearer(site, "ada", superuser=True)
    made = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    address = f"{BACKUPS}/{made.backup_id}"
    verified = json_of(send(client, f"{address}/verify", {"depth": "hashes"}), 202)
    drilled = json_of(send(client, f"{address}/drill"), 202)
    previewed = json_of(send(client, f"{address}/preview", {"only": "sqlite"}), 202)
    assert (verified["kind"], drilled["kind"], previewed["kind"]) == ("verify", "drill", "preview")
    site.work()
    states = {job.kind: (job.state, job.error) for job in Job.objects.exclude(kind="backup")}
    assert all(state == "succeeded" for state, _ in states.values()), states
    assert IndexedBackup.objects.get().verification == "restore"


@pytest.mark.slow
def test_restore_to_folder(site):
    client = bearer(site, "ada", "restorer")
    made = site.done(submit.back_up(site.actor, backup="full"))
    path = f"{BACKUPS}/{made.backup_id}/restore"
    job = json_of(send(client, path, {"to": "folder", "folder": "look", "only": "sqlite"}), 202)
    assert site.done(Job.objects.get(pk=job["id"])).state == "succeeded"
    assert (site.places.root / "restored" / "look" / "sqlite" / "refserver.sqlite3").stat().st_size
    assert "look" in problem(send(client, path, {"to": "folder", "folder": "look"}), 409, "target_occupied")["detail"]
    for wrong in ("../look", "/etc", "", "a/b", "."):
        problem(send(client, path, {"to": "folder", "folder": wrong}), 400, "invalid")


@pytest.mark.slow
def test_restore_in_place_requires_the_id(site):
    made = site.done(submit.back_up(site.actor, backup="full"))
    for paper in Paper.objects.all()[:3]:
        paper.delete()
    before = Paper.objects.count()
    path = f"{BACKUPS}/latest/restore"
    program = bearer(site, "program", "restorer")
    problem(send(program, path, {"to": "in_place", "confirm": "latest"}), 409, "restore_refused")
    person = site.client("ada", "restorer")
    body = {"to": "in_place", "confirm": made.backup_id, "code": "any"}
    problem(send(person, path, {**body, "confirm": made.backup_id[:-1]}), 409, "restore_refused")
    assert not Job.objects.filter(kind="restore_in_place").exists()
    job = json_of(send(person, path, body), 202)
    done = site.done(Job.objects.get(pk=job["id"]))
    assert done.state == "succeeded", done.error
    assert Paper.objects.count() == before + 3


@pytest.mark.slow
def test_control_set_is_not_restored_in_place(site):
    made = site.done(submit.back_up(site.actor, set="control", backup="full", verify="none"))
    client = bearer(site, "ada", "restorer")
    body = {"to": "in_place", "confirm": made.backup_id, "code": "any"}
    assert (
        "holds the control database"
        in problem(send(client, f"{BACKUPS}/{made.backup_id}/restore", body), 409, "restore_refused")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"kind": "complete"}, "#/kind"),
        ({"note": 7}, "#/note"),
        ({"onyl": ["sqlite"]}, "#/onyl"),
        ({"only": ["mysql"]}, "#/only/0"),
        ({"note": "n" * 5000}, "#/note"),
        ([], "#"),
    ],
)
def test_invalid_body_is_reported_with_its_pointer(empty_site, body, where):
    client = bearer(empty_site, "ada", "operator")
    found = problem(send(client, BACKUPS, body), 400, "invalid")
    assert found["errors"][0]["pointer"] == where
    assert "Nothing was done" in found["detail"]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("body", "where"),
    [({"to": "folder", "folder": "../x"}, "#/folder"), ({"to": "in_place"}, "#/confirm"), ({"to": "nowhere"}, "#")],
)
def test_pointer_into_one_of_several_kinds_of_body(empty_site, body, where):
    client = bearer(empty_site, "ada", "restorer")
    path = f"{BACKUPS}/20261201T000000Z-full-000000/restore"
    assert problem(send(client, path, body), 400, "invalid")["errors"][0]["pointer"] == where


def test_unknown_set_or_repository_is_a_usage_error(empty_site):
    client = bearer(empty_site, "ada", "operator")
    assert "The setting BACKUPS has: default, control" in problem(send(client, BACKUPS, {"set": "nope"}), 400, "usage")["hint"]
    problem(send(client, BACKUPS, {"repository": "nope"}), 400, "usage")
    problem(client.get(f"{BACKUPS}/latest"), 404, "not_found")


def test_filters_and_pages_return_each_backup_once(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    many(backups=500)
    seen, address = [], f"{BACKUPS}?limit=60"
    while address:
        page = json_of(client.get(address), 200)
        seen += [item["id"] for item in page["items"]]
        address = page["next"]
    assert len(seen) == len(set(seen)) == 500 and seen == sorted(seen, reverse=True)

    def ids(query: str) -> list[str]:
        return [item["id"] for item in json_of(client.get(f"{BACKUPS}?limit=500&{query}"), 200)["items"]]

    row = IndexedBackup.objects.order_by("-time")[100]
    moment = row.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert set(ids("kind=full")) == {one for one in seen if "-full-" in one}
    assert ids(f"since={moment}") == seen[:101] and ids(f"until={moment}") == seen[100:]
    assert len(ids("proof=none")) == 10 and not ids("held=true") and len(ids("held=false&set=default&repository=main")) == 500
    assert not ids("host=other") and not ids("set=other")
    assert ids(f"text={row.backup_id[-6:].upper()}") == [row.backup_id]
    assert ids("text=50%25") == [] and ids("text=_") == []
    # The next page continues after the last item, even if rows were deleted meanwhile
    first = json_of(client.get(f"{BACKUPS}?limit=10&kind=incremental"), 200)
    IndexedBackup.objects.filter(backup_id__in=[item["id"] for item in first["items"]]).delete()
    second = json_of(client.get(first["next"]), 200)
    assert second["items"][0]["id"] == [one for one in seen if "-incremental-" in one][10]


@pytest.mark.parametrize("cursor", ["x", "e30=", "WzFd", "WyJhIiwiYiIsMV0=", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsImEiLC0xXQ=="])
def test_invalid_cursor_is_refused(empty_site, cursor):
    problem(bearer(empty_site, "ada", "viewer").get(f"{BACKUPS}?cursor={cursor}"), 400, "cursor")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=a",
        "kid=full",
        "since=yesterday",
        "since=2026-01-01",
        "since=0001-01-01T00:00:00%2B14:00",
        "kind=full&kind=incremental",
        "held=perhaps",
        "proof=all",
    ],
)
def test_invalid_query_is_refused(empty_site, query):
    found = problem(bearer(empty_site, "ada", "viewer").get(f"{BACKUPS}?{query}"), 400, "invalid")
    assert found["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.slow
def test_same_backup_in_two_repositories(site, settings):
    made = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    import shutil

    shutil.copytree(site.places.root / "backups", site.places.root / "copy")
    settings.BACKUPS = {
        **site.settings,
        "REPOSITORIES": {**site.settings["REPOSITORIES"], "copy": str(site.places.root / "copy")},
    }
    refresh("copy")
    client = bearer(site, "ada", superuser=True)
    assert len(json_of(client.get(f"{BACKUPS}?limit=1"), 200)["items"]) == 1
    second = json_of(client.get(json_of(client.get(f"{BACKUPS}?limit=1"), 200)["next"]), 200)
    assert second["items"][0]["id"] == made.backup_id and second["next"] is None
    assert json_of(client.get(f"{BACKUPS}/{made.backup_id}?repository=copy"), 200)["repository"] == "copy"
    held = json_of(send(client, f"{BACKUPS}/{made.backup_id}/hold?repository=copy", {}), 200)
    assert (held["repository"], held["held"]) == ("copy", True)
    assert not IndexedBackup.objects.get(repository="main").held


@pytest.mark.slow
def test_lists_of_100_000_backups_do_little_work(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    many(backups=100_000)
    middle = IndexedBackup.objects.order_by("-time")[50_000]
    deep = json_of(client.get(f"{BACKUPS}?until={middle.time:%Y-%m-%dT%H:%M:%SZ}&limit=2"), 200)["next"]
    work = {}
    for query in (
        "",
        "kind=full",
        "proof=damaged",
        "set=default&repository=main",
        "since=2020-01-01T00:00:00Z",
        "text=nowhere",
        "held=true",
        "host=elsewhere",
        deep.partition("?")[2],
    ):
        with vdbe_steps(connections["control"].connection) as steps:
            json_of(client.get(f"{BACKUPS}?{query}"), 200)
        work[query] = steps.taken
    assert max(work.values()) <= 9 * 100_000, work  # a search for text reads all notes
