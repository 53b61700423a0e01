"""Attacks on the control plane that once went through, and must not again."""

from __future__ import annotations

import json
import logging
import time
import uuid
from datetime import UTC, datetime

import pytest
from django.core import mail
from django.utils import timezone

from backups import jobs, kinds, plan_files
from backups.admin.plan_form import JsonForm
from backups.alerts import mail as alert_mail
from backups.alerts import messages
from backups.engine import cli
from backups.engine.errors import UsageError
from backups.logs import LineFormatter
from backups.models import Alert, IndexedBackup, Job, JobLog, Plan
from backups.plans import check
from backups.runner import _hear, _Heard
from tests.control.rest import bearer, problem, send, told

BACKUP = "20260101T000000Z-full-abcdef"
OUT_OF_BOUNDS = ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00")
KEY = uuid.UUID(int=1).hex


def row(**values) -> IndexedBackup:
    now = timezone.now()
    facts = {"repository": "main", "backup_id": BACKUP, "set": "default", "kind": "full", "time": now, "finished": now}
    return IndexedBackup.objects.create(**{**facts, **values})


# What an address or a body may hold


def test_times_beyond_all_bounds_are_no_error_of_the_server(empty_site):
    client = empty_site.client("ada", "viewer", "restorer")
    row()
    for moment in OUT_OF_BOUNDS:
        for address in (
            *("backups/?since={}", "backups/?until={}", "backups/?older={}~x", "backups/?newer={}~x", "restore/?at={}"),
            *(f"{area}/?{side}={{}}_{KEY}" for area in ("jobs", "alerts") for side in ("before", "after")),
        ):
            assert client.get("/admin/backup/" + address.format(moment)).status_code == 200, address
    for query in ("until=9999-12-31", "since=0001-01-01"):
        assert client.get(f"/admin/backup/audit/?{query}").status_code == 400


def test_nul_is_refused_before_it_reaches_a_database_or_a_process(empty_site):
    client = empty_site.client("ada", superuser=True)
    for address in ("backups/?q=%00", "backups/x%00/", "jobs/?plan=%00", "restore/what/?backup=x&repository=%00"):
        assert client.get("/admin/backup/" + address).status_code == 400, address
    assert client.post("/admin/backup/backups/chosen/", {"id": "a", "do": "hold", "note": "a\0b"}).status_code == 400
    program = bearer(empty_site, "op", "operator")
    assert program.get("/api/v1/backups?text=%00").status_code == 400
    problem(send(program, "/api/v1/backups", {"note": "a\0b"}), 400, "invalid")
    schedule = {"name": "x", "kind": "backup", "cron": "0 3 * * *", "arguments": {"note": "a\0b"}}
    problem(send(program, "/api/v1/schedules", schedule), 400, "invalid")
    with pytest.raises(UsageError, match="NUL"):
        jobs.enqueue(kinds.BACKUP, {"note": "a\0b"}, empty_site.actor)
    with pytest.raises(UsageError, match="NUL"):
        plan_files.read('version: 1\nplans:\n- {name: n, kind: backup, cron: 0 3 * * *, arguments: {note: "a\\0"}}')
    assert not Job.objects.exists() and not Plan.objects.exists()
    assert told(send(program, "/api/v1/backups", {"note": "\\u0000 as text"}), 202)["note"] == "\\u0000 as text"


def test_a_note_that_looks_like_an_option_is_a_note(empty_site):
    for note in ("--set=other", "-v", "--", "--help"):
        command = kinds.BACKUP.command(kinds.BackupArguments(note=note), "j")
        assert cli.build_parser().parse_args(command[command.index("create") :]).note.strip() == note


def test_a_link_in_the_folder_of_restores_leads_no_restore_elsewhere(empty_site):
    row()
    outside = empty_site.places.root / "outside"
    folder = empty_site.places.root / "restored"
    folder.mkdir()
    (folder / "mine").symlink_to(outside)
    program = bearer(empty_site, "eve", "restorer")
    problem(send(program, f"/api/v1/backups/{BACKUP}/restore", {"to": "folder", "folder": "mine"}), 400, "usage")
    page = empty_site.client("bob", "restorer")
    answer = page.post("/admin/backup/restore/confirm/", {"backup": BACKUP, "target": "folder", "folder": "mine"})
    assert "restore/what/" in answer.headers["Location"]
    assert not Job.objects.exists() and not outside.exists()


# Plans


def test_a_token_for_plans_cannot_delete_by_a_plan_that_prunes(empty_site):
    prune = {"name": "gone", "kind": "prune", "cron": "0 3 * * *", "arguments": {"keep_last": 1, "verified_floor": 0}}
    problem(send(bearer(empty_site, "root", superuser=True, scopes=("plans",)), "/api/v1/schedules", prune), 403, "scope")
    Plan.objects.create(name="health", kind="health", cron="0 3 * * *")
    program = bearer(empty_site, "root2", superuser=True, scopes=("plans", "read"))
    change = {"kind": "prune", "arguments": prune["arguments"]}
    problem(send(program, "/api/v1/schedules/health", change, "PATCH"), 403, "scope")
    both = bearer(empty_site, "root3", superuser=True, scopes=("plans", "delete"))
    told(send(both, "/api/v1/schedules", prune), 201)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("version: 1" + ":59" * 300_000, id="a number to the base 60"),
        pytest.param("version: 1\nplans: [" + "{}," * 300_000 + "]", id="many values"),
    ],
)
def test_a_file_of_plans_that_costs_minutes_is_refused_at_once(text):
    began = time.process_time()
    with pytest.raises(UsageError, match="more than plans can hold"):
        plan_files.read(text)
    assert time.process_time() - began < 8


def test_a_plan_has_no_thousand_addresses_and_a_title_of_one_line(empty_site):
    plan = Plan(name="n", kind="backup", cron="0 3 * * *", alert_to=[f"a{number}@example.org" for number in range(51)])
    with pytest.raises(UsageError, match="50 are the most"):
        check(plan)
    plan = Plan(name="n", kind="backup", cron="0 3 * * *", title="Nightly\r\nBcc: eve@example.org", host="a\x1b[2J")
    with pytest.raises(UsageError, match=r"title.*host"):
        check(plan)


def test_arguments_nested_without_end_are_a_mistake_of_the_form_and_no_error():
    form = JsonForm({"arguments_text": "[" * 100_000}, kind=kinds.BACKUP)
    assert "That is no JSON" in form.errors["arguments_text"][0]


# Alerts and logs


def test_a_name_with_line_breaks_stops_no_alert_and_adds_no_header(empty_site, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    now = datetime.now(UTC)
    alert = Alert(rule="r", title="Bad\rBcc: eve@example.org", severity="warning", subject="a\u2028b\nc", text="t", since=now)
    answer = alert_mail.send(["ops@example.org"], messages.about("fired", [alert], now), "uid")
    assert answer.ok, answer.text
    assert mail.outbox[0].recipients() == ["ops@example.org"] and "Bcc" not in mail.outbox[0].message()


def test_a_name_of_a_file_forges_no_line_of_a_log(empty_site):
    job = Job.objects.create(kind="backup", host="h")
    heard = _Heard()
    forged = "read a\n2026-01-01T00:00:00 error   all is lost\x1b[2J\u202e"
    _hear(job, heard, json.dumps({"event": "log", "line": forged, "level": "info"}).encode() + b"\n")
    JobLog.objects.bulk_create(heard.lines)
    client = empty_site.client("ada", "viewer")
    text = b"".join(client.get(f"/admin/backup/jobs/{job.pk}/log/").streaming_content).decode()
    assert text.count("\n") == 1 and "\\n2026" in text and "\x1b" not in text and "\u202e" not in text
    record = logging.makeLogRecord({"msg": "Job failed: %s", "args": ("a\nWARNING all is lost",)})
    assert LineFormatter("{message}", style="{").format(record) == "Job failed: a\\nWARNING all is lost"
