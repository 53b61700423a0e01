"""What needs attention is shown where it is handled: badges, the checklist, missing backups, stores that shrank."""

import re
from datetime import timedelta

from django.test import override_settings
from django.utils import timezone

from backups.admin import timeline
from backups.identity import audit
from backups.identity.audit import Actor
from backups.jobs import lifecycle, submit
from backups.models import AuditEntry, IndexedBackup, Job, Plan, Worker
from backups.monitoring.conditions import Level
from backups.monitoring.gathering import gather
from backups.monitoring.verdict import verdict
from backups.plans.missed import missed_slots
from tests.control.conftest import HOST
from tests.control.consistency_site import joined
from tests.control.test_alert_pages import fired
from tests.control.test_backup_pages import indexed

LIST = "/admin/backup/backups/"


def test_missing_backups_are_named_until_their_loss_is_acknowledged(empty_site):
    rows = [indexed(verification="missing", held=True), indexed(verification="missing")]
    kept = indexed()
    viewer, root = empty_site.client("vera", "viewer"), empty_site.client("root", superuser=True)
    page = viewer.get(LIST).content.decode()
    assert "2 backups are missing from the repository" in page and "Acknowledge the loss" not in page
    assert all(row.backup_id in page for row in rows)
    assert page.count('<span class="rb-state bad"') == 2, "each is marked in the list, too"
    assert "It is missing from its repository" in root.get(rows[0].get_absolute_url()).content.decode()
    chosen = {"backup": rows[0].backup_id, "folder": "there", "go": "1"}
    assert "missing from its repository" in root.get("/admin/backup/restore/what/", chosen).content.decode()
    assert viewer.post(f"{LIST}forget/", {"id": rows[0].backup_id, "sure": "yes"}).status_code == 403
    assert "Acknowledge the loss" in root.get(LIST).content.decode()
    ids = {"id": [row.backup_id for row in rows]}
    assert root.post(f"{LIST}forget/", ids).status_code == 400 and IndexedBackup.objects.count() == 3
    assert root.post(f"{LIST}forget/", {**ids, "sure": "yes"}).status_code == 302
    assert not IndexedBackup.objects.filter(verification="missing").exclude(pk=kept.pk).exists()
    assert AuditEntry.objects.get(action="backups.forgotten").after["count"] == 2


def test_losses_of_a_store_are_shown_with_their_confirmation(empty_site):
    row = indexed(held=True, losses="sqlite/refserver.sqlite3: library_paper lost 64 of 65 rows.")
    client = empty_site.client("olga", "operator")
    for address in (LIST, row.get_absolute_url()):
        page = client.get(address).content.decode()
        assert "library_paper lost 64 of 65 rows" in page and "It was intended: release the hold" in page, address


def test_tabs_have_badges_and_the_overview_a_checklist(empty_site):
    fired(severity="critical")
    indexed(time=timezone.now() - timedelta(days=3))
    page = empty_site.client("root", superuser=True).get("/admin/backup/").content.decode()
    tabs = page[page.index("rb-tabs") : page.index("</nav>", page.index("rb-tabs"))]
    assert 'title="1 firing and not acknowledged"' in tabs and tabs.count("rb-badge") >= 2
    assert "Before you can rely on a recovery" in page and "☐" in page


def test_notices_tell_of_the_own_jobs_that_ended(empty_site):
    root, other = empty_site.client("root", superuser=True), empty_site.client("other", superuser=True)
    address = "/admin/backup/jobs/ended/"
    first = root.get(address).json()
    assert first["notices"] == [] and 'id="notices"' in root.get("/admin/backup/").content.decode()
    root.post("/admin/backup/back-up/", {"backup": "snapshot"})
    job = Job.objects.get()
    lifecycle.cancel(job, empty_site.actor)
    told = root.get(address, {"since": first["now"]}).json()
    assert [(one["tone"], one["address"]) for one in told["notices"]] == [("warn", job.get_absolute_url())]
    assert root.get(address, {"since": told["now"]}).json()["notices"] == []
    assert other.get(address, {"since": first["now"]}).json()["notices"] == []
    assert root.get(address, {"since": "yesterday"}).json()["notices"] == []


def test_log_of_every_job_says_what_happened(empty_site):
    cancelled = submit.reindex(empty_site.actor)
    lifecycle.cancel(cancelled, empty_site.actor)
    lines = list(cancelled.log.values_list("line", flat=True))
    assert lines == ["Requested by tester (Command line).", "Cancelled by tester before it started."]
    failed = submit.reindex(empty_site.actor)
    claimed = lifecycle.claim(HOST, "worker:1:1")
    assert claimed == failed
    lifecycle.end(claimed, Job.State.FAILED, error={"message": "No space.", "hint": "Free some."})
    lines = list(failed.log.values_list("line", "level"))
    assert lines[1] == (f"Started on {HOST}.", "info")
    assert lines[2][0].startswith("Failed after ") and lines[2][0].endswith(": No space. Free some.") and lines[2][1] == "error"


def test_selected_backups_are_released_and_drilled(empty_site):
    backup = indexed()
    client = empty_site.client("root", superuser=True)
    page = client.get(LIST).content.decode()
    assert 'value="release"' in page and 'value="drill"' in page and "Verify by restore" not in page
    client.post(f"{LIST}chosen/", {"id": backup.backup_id, "do": "drill"})
    assert Job.objects.get().kind == "drill" and Job.objects.get().backup_id == backup.backup_id
    answer = client.post(f"{LIST}chosen/", {"id": backup.backup_id, "do": "release"}, follow=True)
    assert "None of these backups is held" in answer.content.decode()


def test_page_of_a_backup_reloads_when_its_job_has_ended(empty_site):
    backup = indexed()
    client = empty_site.client("root", superuser=True)
    job = submit.drill(empty_site.actor, backup_id=backup.backup_id)
    assert "&amp;busy" in client.get(backup.get_absolute_url()).content.decode()
    asked = client.get(backup.get_absolute_url(), {"busy": ""})
    assert asked.status_code == 204 and "HX-Refresh" not in asked.headers
    lifecycle.cancel(job, empty_site.actor)
    assert client.get(backup.get_absolute_url(), {"busy": ""}).headers["HX-Refresh"] == "true"
    assert "&amp;busy" not in client.get(backup.get_absolute_url()).content.decode()


def test_cluster_with_an_unproven_backup_is_not_drawn_as_proven(empty_site):
    now = timezone.now()
    for verification in ("restore", "none", "hashes"):
        indexed(time=now - timedelta(hours=2), verification=verification)
    drawn = timeline.timeline(timeline.RANGES["7d"], now)
    assert [(point.state, point.count) for lane in drawn.lanes for point in lane.points] == [("unproven", 3)]
    indexed(time=now - timedelta(hours=2), verification="missing")
    drawn = timeline.timeline(timeline.RANGES["7d"], now)
    assert [point.state for lane in drawn.lanes for point in lane.points] == ["damaged"]


def test_times_of_a_plan_name_their_zone(empty_site):
    plan = Plan.objects.create(name="night", kind="prune", cron="0 3 * * *", time_zone="Asia/Tokyo", arguments={"keep_last": 1})
    client = empty_site.client("root", superuser=True)
    for address in ("/admin/backup/plans/", plan.get_absolute_url()):
        assert re.search(r"03:00 JST</time> <span class=\"quiet\">= \w+ 18:00 UTC", client.get(address).content.decode()), (
            address
        )


def test_arguments_of_a_project_job_type_have_fields(empty_site):
    with override_settings(BACKUPS=joined(empty_site.places)):
        client = empty_site.client("root", superuser=True)
        page = client.get("/admin/backup/plans/-/new/", {"kind": "check_consistency"}).content.decode()
        assert '<select name="repair"' in page and "JSON" not in page and "arguments_text" not in page
        form = {"name": "nightly-check", "cron": "0 4 * * *", "time_zone": "UTC", "attempts": 1, "limit_minutes": 60}
        sent = {**form, "alert_after": 1, "kind": "check_consistency", "repair": "safe", "do": "save"}
        assert client.post("/admin/backup/plans/-/new/?kind=check_consistency", sent).status_code == 302
        plan = Plan.objects.get(name="nightly-check")
        assert plan.arguments == {"repair": "safe"}
        assert 'value="safe" selected' in client.get(plan.get_absolute_url()).content.decode()


def test_runs_that_a_dead_worker_missed_are_shown_as_missed(empty_site):
    now = timezone.now()
    plan = Plan.objects.create(name="hourly", kind="backup", cron="0 * * * *", time_zone="UTC", served=now - timedelta(hours=4))
    client = empty_site.client("root", superuser=True)
    missed = missed_slots(plan, now)
    assert 3 <= len(missed) <= 4
    for address in ("/admin/backup/", "/admin/backup/plans/"):
        assert f"{len(missed)} missed" in client.get(address).content.decode(), address
    assert f"{len(missed)} runs missed" in client.get(plan.get_absolute_url()).content.decode()
    # Once a worker has served the last one, the others stay visible in the plan's history
    top = now.replace(minute=0, second=0, microsecond=0)
    for hours in (0, 4):
        Job.objects.create(kind="backup", plan=plan, slot=top - timedelta(hours=hours), host=HOST, state="succeeded")
    Plan.objects.update(served=top)
    page = client.get(plan.get_absolute_url()).content.decode()
    assert "missed" not in page and "3 planned runs did not take place between these jobs" in page
    Plan.objects.update(enabled=False, served=now - timedelta(hours=4))
    plan.refresh_from_db()
    assert missed_slots(plan, now) == []


def test_missed_runs_put_protection_at_risk_until_a_later_run_succeeds(empty_site):
    now = timezone.now()
    plan = Plan.objects.create(name="often", kind="health", cron="*/2 * * * *", time_zone="UTC", served=now)
    indexed(verification="restore", verified_at=now)
    client = empty_site.client("root", superuser=True)
    audit.record(Actor(name=plan.name, via=Job.Via.PLAN), "plan.missed", "plan:often", after={"count": 2})

    def reason():
        return next(one for one in verdict(gather(timezone.now())).reasons if one.kind == "plan_missed")

    assert reason().level is Level.AT_RISK and reason().text.startswith("often missed 2 runs in the last day")
    for address in ("/admin/backup/", "/admin/backup/plans/"):
        assert '<span class="rb-state bad">2 missed</span>' in client.get(address).content.decode(), address
    page = client.get(plan.get_absolute_url()).content.decode()
    assert '<div class="rb-verdict warn">' in page and "2 runs missed in the last day; no later run has succeeded" in page
    Job.objects.create(kind="health", plan=plan, host=HOST, state="succeeded", finished=timezone.now())
    assert reason().level is Level.PROTECTED
    page = client.get(plan.get_absolute_url()).content.decode()
    assert '<div class="rb-verdict good">' in page and "2 runs missed in the last day." in page
    Job.objects.create(kind="health", plan=plan, host=HOST, state="failed", finished=timezone.now())
    assert '<div class="rb-verdict warn">' in client.get(plan.get_absolute_url()).content.decode()


def test_frozen_worker_is_reported_within_two_minutes_and_a_half(empty_site):
    now = timezone.now()
    client = empty_site.client("root", superuser=True)
    for seconds, silent in ((95, False), (150, True)):
        Worker.objects.update_or_create(host=HOST, defaults={"beat": now - timedelta(seconds=seconds)})
        assert any(one.code == "worker" for one in verdict(gather(now)).reasons) is silent
        assert client.get("/readyz").json()["checks"]["worker"]["ok"] is not silent
        assert ("has not reported for" in client.get("/admin/backup/readiness/").content.decode()) is silent


def test_shrunk_backup_warns_wherever_it_is_shown_until_the_loss_is_confirmed(empty_site):
    now = timezone.now()
    complete, shrunk = indexed(time=now - timedelta(hours=2), held=True), indexed(time=now - timedelta(hours=1))
    complete.losses = f"files/documents has 0 files, 65 in the backup before ({shrunk.backup_id})"
    complete.save()
    later, safety = indexed(kind="incremental", time=now), indexed(time=now, safety=True)
    job = Job.objects.create(kind="backup", host=HOST, state="succeeded", repository="main", backup_id=shrunk.backup_id)
    client = empty_site.client("root", superuser=True)
    says = "It holds far less than earlier backups: files/documents has 0 files, 65 in the backup before."
    what = f"/admin/backup/restore/what/?backup={shrunk.backup_id}"
    for address in (shrunk.get_absolute_url(), job.get_absolute_url(), LIST, what):
        page = client.get(address).content.decode()
        assert says in page and complete.backup_id in page, address
    for address in (later.get_absolute_url(), "/admin/backup/restore/"):
        assert "It was made after the stores shrank" in client.get(address).content.decode(), address
    assert '<div class="rb-verdict warn">' in client.get(job.get_absolute_url()).content.decode()
    for row in (complete, safety):
        assert "far less" not in client.get(row.get_absolute_url()).content.decode()
    IndexedBackup.objects.update(losses="")
    for address in (shrunk.get_absolute_url(), job.get_absolute_url(), LIST, what):
        assert "far less" not in client.get(address).content.decode(), address
