"""The pages of plans: times and jobs, forms with their errors, and previews that change nothing."""

from __future__ import annotations

import cProfile
import html
import random
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from backups.admin import plans as plan_pages
from backups.catalog import index
from backups.engine.prune import prune as prune_engine
from backups.engine.runtime.context import Context
from backups.engine.types import Hold
from backups.jobs import heartbeat, submit
from backups.jobs.arguments import PruneArguments
from backups.models import AuditEntry, IndexedBackup, Job, Plan
from backups.plans import defaults, editing, retention_preview, scheduling, yaml_files

PLANS = "/admin/backup/plans/"
FORM = {"cron": "0 3 * * *", "time_zone": "UTC", "attempts": "3", "limit_minutes": "60", "alert_after": "1", "do": "save"}


@pytest.fixture
def root(empty_site):
    defaults.install()
    return empty_site.client("root", superuser=True)


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.content.decode()))


def test_list_summary(root, empty_site):
    assert "Plans do not run" in text_of(root.get(PLANS)), "no worker was ever seen"
    heartbeat.beat()
    page = text_of(root.get(PLANS))
    assert re.search(r"\d plans enabled\. Next: [A-Z][a-z]+", page), "which one is next depends on the time"
    assert "Every day at 03:00 UTC" in page
    plan = Plan.objects.get(name="daily-full")
    job = scheduling.run(plan, empty_site.actor)
    Job.objects.filter(pk=job.pk).update(state=Job.State.FAILED, error={"message": "The disk is full."})
    page = text_of(root.get(PLANS))
    assert "The last job of Daily full failed." in page and "The disk is full." in page
    editing.pause_plan(empty_site.actor, plan)
    assert "1 paused" in text_of(root.get(PLANS)) and "Paused by tester" in text_of(root.get(PLANS))
    Plan.objects.filter(name="daily-full").update(cron="99 * * * *", enabled=True)
    page = html.unescape(text_of(root.get(PLANS)))
    assert "Never due '99 * * * *' is not a cron expression: bad minute." in page
    Plan.objects.all().delete()
    assert "nothing is backed up automatically" in text_of(root.get(PLANS))


def test_plan_is_added_changed_and_deleted(root):
    assert "Back up" in text_of(root.get(f"{PLANS}-/new/"))
    values = {**FORM, "name": "nightly", "backup": "full", "only": ["sqlite"], "verify": "hashes", "cron": "30  2 * * *"}
    made = root.post(
        f"{PLANS}-/new/?kind=backup", {**values, "time_zone": "Europe/Berlin", "alert_to": "a@example.org, b@example.org"}
    )
    assert made.headers["Location"] == f"{PLANS}nightly/", text_of(made)
    plan = Plan.objects.get(name="nightly")
    assert plan.arguments == {"backup": "full", "only": ["sqlite"], "verify": "hashes"}
    assert (plan.cron, plan.time_zone, plan.alert_to) == ("30 2 * * *", "Europe/Berlin", ["a@example.org", "b@example.org"])
    page = text_of(root.get(f"{PLANS}nightly/"))
    assert "Every day at 02:30 (Europe/Berlin)" in page and "This plan has not run yet" in page
    changed = {**FORM, "name": "other", "backup": "full", "note": "by night", "title": "By night"}
    assert root.post(f"{PLANS}nightly/", changed).status_code == 302
    plan.refresh_from_db()
    assert (plan.name, str(plan), plan.arguments) == ("nightly", "By night", {"backup": "full", "note": "by night"})
    entry = AuditEntry.objects.get(action="plan.changed")
    assert entry.before["time_zone"] == "Europe/Berlin" and entry.after["arguments"]["note"] == "by night"
    asked = text_of(root.get(f"{PLANS}nightly/delete/"))
    assert "will no longer run" in asked and Plan.objects.filter(name="nightly").exists()
    root.post(f"{PLANS}nightly/delete/")
    assert not Plan.objects.filter(name="nightly").exists()
    assert AuditEntry.objects.get(action="plan.removed").who == "root"


@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        ("backup", {"cron": "61 * * * *", "backup": "full"}, "bad minute"),
        ("backup", {"time_zone": "Nowhere", "backup": "full"}, "is not a time zone"),
        ("backup", {"name": "two words", "backup": "full"}, "Letters, digits"),
        ("backup", {"name": "daily-full", "backup": "full"}, "with this name already exists"),
        ("backup", {"backup": "half"}, "not one of the available choices"),
        ("backup", {"backup": "full", "alert_to": "nobody"}, "is not a mail address"),
        ("backup", {"backup": "full", "attempts": "99"}, "less than or equal to 20"),
        ("prune", {"keep_within": "14 days", "verified_floor": "2"}, "Enter a valid value"),
    ],
)
def test_errors_are_shown_next_to_fields(root, kind, values, complaint):
    before = Plan.objects.count()
    answer = root.post(f"{PLANS}-/new/?kind={kind}", {**FORM, "name": "new", **values})
    assert answer.status_code == 400 and complaint in text_of(answer)
    assert Plan.objects.count() == before


def test_preview_saves_nothing_and_works_without_scripts(root):
    answer = root.post(f"{PLANS}daily-full/", {**FORM, "backup": "full", "cron": "15 4 * * 1", "do": "preview"})
    assert answer.status_code == 200
    page = text_of(answer)
    assert "Mondays at 04:15" in page and page.count("04:15") >= 6
    assert Plan.objects.get(name="daily-full").cron == "0 3 * * *"
    answer = root.post(f"{PLANS}daily-prune/", {**FORM, "keep_daily": "3", "verified_floor": "2", "do": "preview"})
    assert "There are no backups yet" in text_of(answer)


def test_the_live_preview(root):
    found = root.get(f"{PLANS}-/times/", {"cron": "0 */6 * * *", "time_zone": "Asia/Tokyo"})
    assert "Every 6 hours (Asia/Tokyo)" in text_of(found) and found.content.count(b"<time") == 10
    assert "bad hour" in text_of(root.get(f"{PLANS}-/times/", {"cron": "0 25 * * *", "time_zone": "UTC"}))
    assert "Give at least one rule" in text_of(root.get(f"{PLANS}-/retention/", {"verified_floor": "2"}))
    assert "are not valid yet" in text_of(root.get(f"{PLANS}-/retention/", {"keep_daily": "x"}))


def test_every_job_type_has_a_form(root):
    for kind in ("verify", "drill", "prune", "health", "audit_verify"):
        assert root.get(f"{PLANS}-/new/?kind={kind}").status_code == 200
        values = {**FORM, "name": f"a-{kind}", "depth": "hashes", "keep_daily": "7", "verified_floor": "0"}
        assert root.post(f"{PLANS}-/new/?kind={kind}", values).status_code == 302, kind
    assert Plan.objects.get(name="a-prune").arguments == {"keep_daily": 7, "verified_floor": 0}
    assert root.get(f"{PLANS}-/new/?kind=restore_in_place").status_code == 404
    assert root.get(f"{PLANS}-/new/?kind=nonsense").status_code == 400


def test_arguments_without_field_are_kept(root):
    Plan.objects.filter(name="daily-prune").update(arguments={"every_set": True, "keep_daily": 14, "dry_run": True})
    root.post(f"{PLANS}daily-prune/", {**FORM, "every_set": "on", "keep_daily": "10", "verified_floor": "2"})
    assert Plan.objects.get(name="daily-prune").arguments == {
        "every_set": True,
        "keep_daily": 10,
        "dry_run": True,
        "verified_floor": 2,
    }


def test_pause_resume_and_run_now(root):
    root.post(f"{PLANS}daily-full/pause/", {"back": "list"})
    assert not Plan.objects.get(name="daily-full").enabled
    assert "Paused by root" in text_of(root.get(f"{PLANS}daily-full/"))
    root.post(f"{PLANS}daily-full/resume/")
    assert Plan.objects.get(name="daily-full").enabled
    answer = root.post(f"{PLANS}daily-full/run/")
    job = Job.objects.get()
    assert answer.headers["Location"] == job.get_absolute_url()
    assert (job.plan.name, job.slot, job.by) == ("daily-full", None, "root")
    assert "by root" in text_of(root.get(f"{PLANS}daily-full/"))
    assert root.post(f"{PLANS}daily-full/explode/").status_code == 404
    assert root.get(f"{PLANS}daily-full/run/").status_code == 405
    assert root.get(f"{PLANS}nothing/").status_code == 404


def test_permissions(root, empty_site):
    viewer, operator = empty_site.client("vera", "viewer"), empty_site.client("olga", "operator")
    page = viewer.get(f"{PLANS}daily-prune/")
    assert page.status_code == 200 and "<form method" not in page.content.decode().partition('class="rb"')[2]
    for client, address in (
        (viewer, f"{PLANS}daily-full/run/"),
        (viewer, f"{PLANS}daily-full/"),
        (viewer, f"{PLANS}-/new/?kind=health"),
        (viewer, f"{PLANS}-/import/"),
        (operator, f"{PLANS}daily-prune/"),  # an account that cannot delete backups cannot add a plan that does
        (operator, f"{PLANS}daily-prune/delete/"),
        (operator, f"{PLANS}-/new/?kind=prune"),
    ):
        assert client.post(address, FORM).status_code == 403, address
    assert operator.post(f"{PLANS}daily-prune/pause/").status_code == 302
    assert operator.post(f"{PLANS}daily-full/", {**FORM, "backup": "full"}).status_code == 302
    file = "version: 1\nplans:\n  - {name: sweep, kind: prune, cron: 0 1 * * *, arguments: {keep_last: 1}}\n"
    refused = operator.post(f"{PLANS}-/import/", {"text": file, "do": "save"})
    assert refused.status_code == 400 and "that these plans need: backups.delete_backup" in text_of(refused)
    assert not Plan.objects.filter(name="sweep").exists()


def test_plan_of_unknown_job_type_can_be_deleted(root):
    Plan.objects.create(name="old", kind="gone_kind", cron="0 3 * * *")
    assert "is not installed, so the plan cannot run" in text_of(root.get(f"{PLANS}old/"))
    assert root.post(f"{PLANS}old/", FORM).status_code == 403
    assert root.post(f"{PLANS}old/delete/").status_code == 302


def test_plan_named_like_a_page(root):
    for name in ("new", "import", "delete"):
        root.post(f"{PLANS}-/new/?kind=health", {**FORM, "name": name})
        assert "health check" in text_of(root.get(f"{PLANS}{name}/")).lower()


def test_export_and_import(root):
    exported = root.get(f"{PLANS}-/export.yaml")
    assert exported.headers["Content-Disposition"].startswith('attachment; filename="plans-')
    text = exported.content.decode().replace("cron: 0 3 * * *", "cron: 0 4 * * *")
    upload = SimpleUploadedFile("plans.yaml", text.encode())
    shown = root.post(f"{PLANS}-/import/", {"file": upload, "do": "look"})
    page = text_of(shown)
    assert "Nothing has been changed yet" in page and "- cron: 0 3 * * *" in page and "+ cron: 0 4 * * *" in page
    assert Plan.objects.get(name="daily-full").cron == "0 3 * * *"
    assert root.post(f"{PLANS}-/import/", {"text": shown.context["text"], "do": "save"}).status_code == 302
    assert Plan.objects.get(name="daily-full").cron == "0 4 * * *"
    assert AuditEntry.objects.get(action="plans.imported").after == {"daily-full": "changed"}
    wrong = root.post(f"{PLANS}-/import/", {"text": "version: 1\nplans:\n  - name: x\n", "do": "save"})
    assert wrong.status_code == 400 and "line 3: plans[0].kind: Field required." in text_of(wrong)
    binary = SimpleUploadedFile("plans.yaml", b"\xff\xfe\x00")
    assert "not UTF-8 text" in text_of(root.post(f"{PLANS}-/import/", {"file": binary}))
    large = SimpleUploadedFile("plans.yaml", b"#" * (yaml_files.LONGEST_FILE + 1))
    assert root.post(f"{PLANS}-/import/", {"file": large}).status_code == 400


# What retention would do


POLICIES = [
    {"keep_last": 2},
    {"keep_hourly": 2, "keep_daily": 2},
    {"keep_daily": 3, "verified_floor": 0},
    {"keep_within": "2d", "keep_weekly": 1},
]


@pytest.mark.slow
def test_retention_preview_agrees_with_engine(site):
    """On a real repository with fulls, incrementals, holds, proofs and a deleted parent's place."""
    for kind in ("full", "incremental", "full", "incremental", "snapshot"):
        assert site.done(submit.back_up(site.actor, backup=kind, verify="none")).state == Job.State.SUCCEEDED
    ids = sorted(IndexedBackup.objects.values_list("backup_id", flat=True))
    site.done(submit.verify(site.actor, backup_ids=[ids[0], ids[2]]))
    with site.repository.writing("hold", datetime.now(UTC), wait=5):
        site.repository.set_hold(site.repository.load("default", ids[1]), Hold(time=datetime.now(UTC), note="why not"))
    index.refresh("main")
    now = timezone.now()
    for given in POLICIES:
        arguments = PruneArguments.model_validate(given)
        policy = retention_preview.policy_of(arguments)
        decided = prune_engine(
            site.repository, "default", policy, Context(now=lambda: now), dry_run=True, trash=timedelta(0)
        ).decisions
        shown = retention_preview.preview(arguments, now)
        assert {item.backup_id for item in shown.going} == {one.id for one in decided if not one.keep}, given
        assert shown.total == len(decided) == 5
    assert len(list(site.repository.ids("default"))) == 5, "nothing was touched"


def test_retention_preview_is_bounded(root, monkeypatch):
    chance, now = random.Random(4), timezone.now()
    rows = []
    for number in range(retention_preview.MOST):
        moment = now - timedelta(hours=number)
        name = f"{moment:%Y%m%dT%H%M%SZ}-{'full' if number % 24 == 0 else 'incremental'}-{chance.randrange(16**6):06x}"
        rows.append(
            IndexedBackup(
                repository="main", backup_id=name, set="default", kind=name.split("-")[1], time=moment, finished=moment
            )
        )
    for row, parent in pairwise(rows):
        row.parent_id = parent.backup_id if row.kind == "incremental" else ""
    IndexedBackup.objects.bulk_create(rows)
    with cProfile.Profile() as profile:
        answer = root.get(f"{PLANS}daily-prune/")
    calls = sum(entry.callcount for entry in profile.getstats())
    assert "would be deleted now" in text_of(answer) and calls < 200 * retention_preview.MOST, f"{calls:,} calls"
    monkeypatch.setattr(retention_preview, "MOST", 100)
    assert "default: too many backups for a preview here" in text_of(root.get(f"{PLANS}daily-prune/"))


def test_every_plannable_job_type_is_explained(root):
    offered = [kind.name for kind, _ in root.get(f"{PLANS}-/new/").context["choices"]]
    assert {"backup", "verify", "drill", "prune", "health"} <= set(offered) <= set(plan_pages.ABOUT_KINDS)
