"""Attacks on the control plane that once succeeded, and must not succeed again."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime

import pytest
from axes.models import AccessAttempt
from django.conf import settings as settings_of_project
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core import mail
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from backups.admin.urls import urlpatterns
from backups.alerts import http, messages
from backups.alerts import mail as alert_mail
from backups.engine import cli
from backups.engine.errors import UsageError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.identity.login_throttling import FREE
from backups.jobs import lifecycle, submit, types
from backups.jobs.arguments import BackupArguments
from backups.jobs.child_output import ChildOutput
from backups.jobs.logs import LineFormatter
from backups.models import Alert, AlertChannel, AlertRule, ApiToken, AuditEntry, IndexedBackup, Job, JobLog, Plan
from backups.plans import yaml_files
from backups.plans.validation import check
from tests.control.conftest import PASSWORD
from tests.control.rest import bearer, json_of, problem, send

BACKUP = "20260101T000000Z-full-abcdef"
OUT_OF_BOUNDS = ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00")
KEY = uuid.UUID(int=1).hex


def row(**values) -> IndexedBackup:
    now = timezone.now()
    facts = {"repository": "main", "backup_id": BACKUP, "set": "default", "kind": "full", "time": now, "finished": now}
    return IndexedBackup.objects.create(**{**facts, **values})


# Addresses and bodies


@pytest.mark.slow
def test_out_of_range_times_are_not_server_errors(empty_site):
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
        lifecycle.enqueue(types.BACKUP, {"note": "a\0b"}, empty_site.actor)
    with pytest.raises(UsageError, match="NUL"):
        yaml_files.read('version: 1\nplans:\n- {name: n, kind: backup, cron: 0 3 * * *, arguments: {note: "a\\0"}}')
    assert not Job.objects.exists() and not Plan.objects.exists()
    assert json_of(send(program, "/api/v1/backups", {"note": "\\u0000 as text"}), 202)["note"] == "\\u0000 as text"


def test_note_that_looks_like_an_option_is_a_note(empty_site):
    for note in ("--set=other", "-v", "--", "--help"):
        command = types.BACKUP.command(BackupArguments(note=note), "j")
        assert cli.build_parser().parse_args(command[command.index("create") :]).note.strip() == note


def test_symbolic_link_in_the_restore_folder_is_not_followed(empty_site):
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


def test_plan_token_cannot_delete_through_a_prune_plan(empty_site):
    prune = {"name": "gone", "kind": "prune", "cron": "0 3 * * *", "arguments": {"keep_last": 1, "verified_floor": 0}}
    problem(send(bearer(empty_site, "root", superuser=True, scopes=("plans",)), "/api/v1/schedules", prune), 403, "scope")
    Plan.objects.create(name="health", kind="health", cron="0 3 * * *")
    program = bearer(empty_site, "root2", superuser=True, scopes=("plans", "read"))
    change = {"kind": "prune", "arguments": prune["arguments"]}
    problem(send(program, "/api/v1/schedules/health", change, "PATCH"), 403, "scope")
    both = bearer(empty_site, "root3", superuser=True, scopes=("plans", "delete"))
    json_of(send(both, "/api/v1/schedules", prune), 201)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("version: 1" + ":59" * 300_000, id="a number to the base 60"),
        pytest.param("version: 1\nplans: [" + "{}," * 300_000 + "]", id="many values"),
    ],
)
@pytest.mark.slow
def test_expensive_plan_file_is_refused_quickly(text):
    began = time.process_time()
    with pytest.raises(UsageError, match="larger than plans can be"):
        yaml_files.read(text)
    assert time.process_time() - began < 40


def test_plan_has_few_addresses_and_a_title_of_one_line(empty_site):
    plan = Plan(name="n", kind="backup", cron="0 3 * * *", alert_to=[f"a{number}@example.org" for number in range(51)])
    with pytest.raises(UsageError, match="at most 50 are allowed"):
        check(plan)
    plan = Plan(name="n", kind="backup", cron="0 3 * * *", title="Nightly\r\nBcc: eve@example.org", host="a\x1b[2J")
    with pytest.raises(UsageError, match=r"title.*host"):
        check(plan)


# Alerts and logs


def test_name_with_line_breaks_stops_no_alert_and_adds_no_header(empty_site, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    now = datetime.now(UTC)
    alert = Alert(rule="r", title="Bad\rBcc: eve@example.org", severity="warning", subject="a\u2028b\nc", text="t", since=now)
    answer = alert_mail.send(["ops@example.org"], messages.about("fired", [alert], now), "uid")
    assert answer.ok, answer.text
    assert mail.outbox[0].recipients() == ["ops@example.org"] and "Bcc" not in mail.outbox[0].message()


def test_file_name_cannot_forge_a_log_line(empty_site):
    job = Job.objects.create(kind="backup", host="h")
    output = ChildOutput(job)
    forged = "read a\n2026-01-01T00:00:00 error   all is lost\x1b[2J\u202e"
    output.add_events(json.dumps({"event": "log", "line": forged, "level": "info"}).encode() + b"\n")
    JobLog.objects.bulk_create(output.lines)
    client = empty_site.client("ada", "viewer")
    text = b"".join(client.get(f"/admin/backup/jobs/{job.pk}/log/").streaming_content).decode()
    assert text.count("\n") == 1 and "\\n2026" in text and "\x1b" not in text and "\u202e" not in text
    record = logging.makeLogRecord({"msg": "Job failed: %s", "args": ("a\nWARNING all is lost",)})
    assert LineFormatter("{message}", style="{").format(record) == "Job failed: a\\nWARNING all is lost"


@pytest.mark.parametrize(
    "host",
    ["[2002:a9fe:a9fe::1]", "[2001:0:1:1:0:0:5601:5601]", "[::ffff:169.254.169.254]", "168.63.129.16", "169.254.169.254"],
)
def test_no_spelling_of_an_address_leads_a_webhook_to_a_metadata_service(host):
    with pytest.raises(http.Refused, match="where no receiver can be"):
        http.check(f"http://{host}/")


# A hostile database


@pytest.mark.slow
def test_names_in_a_hostile_database_hide_no_change(empty_site):
    script, quoted = "<script>alert(1)</script>", 'a"; DROP TABLE library_paper; --'
    with contextlib.closing(sqlite3.connect(empty_site.places.settings["REFSERVER_DATABASE"])) as live:
        for name in (script, quoted, "nameless"):
            live.execute('CREATE TABLE "{}" (a)'.format(name.replace('"', '""')))
        live.execute("PRAGMA writable_schema = 1")
        sql = b'CREATE TABLE "\xff" (a)'
        live.execute(
            "UPDATE sqlite_schema SET name = CAST(? AS TEXT), tbl_name = CAST(? AS TEXT), sql = CAST(? AS TEXT)"
            " WHERE name = 'nameless'",
            (b"\xff", b"\xff", sql),
        )
        live.commit()
    made = empty_site.done(submit.back_up(empty_site.actor, backup="full", only=["sqlite"], verify="none"))
    assert made.state == Job.State.SUCCEEDED, made.error
    look = empty_site.done(submit.preview_restore(empty_site.actor, backup_id=made.backup_id, only="sqlite"))
    assert look.state == Job.State.SUCCEEDED, look.error
    names = {table["name"] for table in look.result["sqlite"][0]["tables"]}
    assert {script, quoted, "library_paper"} <= names and "\\xff" not in names
    address = f"/admin/backup/restore/changes/?backup={made.backup_id}&only=sqlite&target=in_place&look={look.pk}"
    text = empty_site.client("ada", "restorer").get(address).content.decode()
    assert "&lt;script&gt;alert" in text and script not in text


# Accounts


def test_changes_of_accounts_and_groups_are_audited(empty_site):
    root = empty_site.client("root", superuser=True)
    eve = empty_site.person("eve", "viewer")
    restorer = Group.objects.get(name="restorer")
    form = {"username": "eve", "is_active": "on", "is_staff": "on", "groups": [restorer.pk]}
    form |= {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    assert root.post(f"/admin/auth/user/{eve.pk}/change/", form).status_code == 302
    changed = AuditEntry.objects.get(action="account.changed")
    assert (changed.who, changed.target, changed.address) == ("root", "account:eve", "127.0.0.1")
    assert (changed.before["groups"], changed.after["groups"]) == (["viewer"], ["restorer"])
    assert "Groups" in changed.after["fields"]
    new = {"password1": "another-horse-staple", "password2": "another-horse-staple", "usable_password": "true"}
    assert root.post(f"/admin/auth/user/{eve.pk}/password/", new).status_code == 302
    assert "password" in AuditEntry.objects.filter(action="account.changed").latest("number").after["fields"]
    kept = [permission.pk for permission in restorer.permissions.all()][:1]
    assert root.post(f"/admin/auth/group/{restorer.pk}/change/", {"name": "restorer", "permissions": kept}).status_code == 302
    entry = AuditEntry.objects.get(action="group.changed")
    assert len(entry.before["permissions"]) > 1 == len(entry.after["permissions"])
    chosen = {"action": "delete_selected", "_selected_action": [eve.pk], "post": "yes"}
    assert root.post("/admin/auth/user/", chosen).status_code == 302
    assert AuditEntry.objects.get(action="account.deleted").target == "account:eve"
    assert "horse" not in json.dumps(list(AuditEntry.objects.values_list("before", "after")))


def test_password_change_throttles_guesses_of_an_open_session(empty_site):
    client = empty_site.client("ada", "viewer")
    wished = {"new_password1": "another-horse-staple", "new_password2": "another-horse-staple"}
    for _ in range(FREE):
        assert client.post("/admin/password_change/", {"old_password": "wrong", **wished}).status_code in (200, 429)
    answer = client.post("/admin/password_change/", {"old_password": PASSWORD, **wished})
    assert "Too many wrong passwords" in answer.content.decode()
    AccessAttempt.objects.all().delete()
    answer = client.post("/admin/password_change/", {"old_password": PASSWORD, **wished})
    assert answer.headers["Location"] == "/admin/password_change/done/"
    assert client.get("/admin/backup/backups/").status_code == 200, "this session continues"
    actions = list(AuditEntry.objects.values_list("action", flat=True))
    assert actions.count("account.refused") >= FREE - 1 and actions.count("account.password_changed") == 1


# The server


def test_large_upload_is_refused_before_it_is_written(empty_site, settings, tmp_path):
    settings.FILE_UPLOAD_TEMP_DIR = str(tmp_path / "nowhere")  # writing there fails
    large = b"a" * (5 << 20)
    for address in ("/admin/login/", "/admin/backup/plans/-/import/", "/papers/1/"):
        answer = Client().post(address, {"file": SimpleUploadedFile("x", large)})
        assert answer.status_code == 413, address
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    problem(Client().post("/api/v1/backups", large, content_type="application/json"), 413, "too_large")
    assert Client().post("/admin/login/", {}, CONTENT_LENGTH="-1").status_code == 413


def test_private_pages_are_not_cached(empty_site, settings):
    settings.REFSERVER_OPEN_LIBRARY = False
    client = empty_site.client("ada", "viewer")
    for address in (
        "/",
        "/api/search?q=x",
        "/admin/",
        "/admin/backup/",
        "/api/v1/backups",
        "/admin/backup/plans/-/export.yaml",
    ):
        assert "no-store" in client.get(address).headers["Cache-Control"], address


@pytest.mark.slow
def test_files_made_by_commands_are_private(tmp_path):
    made = tmp_path / "made"
    write = f"from pathlib import Path; Path({str(made)!r}).write_text('')"
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", write]
    subprocess.run(command, cwd=settings_of_project.BASE_DIR, check=True, capture_output=True, umask=0o022, timeout=60)
    assert made.stat().st_mode & 0o777 == 0o600


# Attacks that never succeeded


def test_stored_answer_is_not_repeated_without_the_permission(empty_site):
    program = bearer(empty_site, "op", "operator")
    json_of(send(program, "/api/v1/backups", {"note": "secret"}, Idempotency_Key="k"), 202)
    get_user_model().objects.get(username="op").groups.clear()
    problem(send(program, "/api/v1/backups", {"note": "secret"}, Idempotency_Key="k"), 403, "not_allowed")
    other = bearer(empty_site, "op2", "operator")
    assert "Idempotency-Replayed" not in send(other, "/api/v1/backups", {"note": "secret"}, Idempotency_Key="k").headers


@pytest.mark.slow
def test_nothing_changes_by_get_or_without_csrf_token(empty_site):
    changing = [pattern for pattern in all_pages() if "{" not in pattern]
    assert len(changing) > 20
    client = Client(enforce_csrf_checks=True)
    client.force_login(empty_site.person("root", superuser=True), "django.contrib.auth.backends.ModelBackend")
    before = AuditEntry.objects.count(), Job.objects.count(), Plan.objects.count()
    for address in changing:
        client.get(address)
        assert client.post(address, {"do": "save"}).status_code in (403, 405, 404), address
        client.get(address, headers={"X-HTTP-Method-Override": "POST"})
    assert (AuditEntry.objects.count(), Job.objects.count(), Plan.objects.count()) == before


@pytest.mark.slow
def test_viewer_can_change_only_their_own_settings(empty_site):
    viewer, nobody = empty_site.client("ada", "viewer"), empty_site.client("bob")
    own = ("/alerts/mine/", "/second-factor/", "/second-factor/code/", "/audit/verify/")
    values = {
        "str:backup_id": BACKUP,
        "str:name": "p",
        "rb_switch:what": "run",
        "rb_download:name": "SHA256SUMS",
        "str:kind": "mail",
        "str:form": "csv",
    }
    Plan.objects.create(name="p", kind="prune", cron="0 3 * * *", arguments={"keep_last": 1})
    AlertRule.objects.create(name="p", title="p", kind="disk")
    Job.objects.create(id=uuid.UUID(int=1), kind="backup", host="h", state=Job.State.FAILED)
    row()
    for page in all_pages():
        address = page
        for name, value in values.items():
            address = address.replace(f"{{{name}>", value)
        address = re.sub(r"{int:\w+>", "1", re.sub(r"{uuid:\w+>", str(uuid.UUID(int=1)), address))
        assert nobody.post(address, {"do": "hold"}).status_code in (286, 403, 405) or page.endswith(own[1:3]), page
        answer = viewer.post(address, {"do": "hold", "id": BACKUP})
        refused = (286, 403, 404, 405) if "/approvals/" in page else (286, 403, 405)  # requests of others are not named
        assert answer.status_code in refused or page.endswith(own), page
    assert not Job.objects.exclude(kind__in=("backup", "audit_verify")).exists()


def test_user_text_is_escaped_on_every_page(empty_site):
    bad = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"
    made = row(note=bad, hold_note=bad, held=True, host=bad, problem=bad, verification="damaged")
    job = Job.objects.create(
        kind="backup", host=bad, note=bad, by=bad, state=Job.State.FAILED, error={"message": bad, "hint": bad}
    )
    JobLog.objects.create(job=job, time=made.time, level="error", line=bad)
    plan = Plan.objects.create(name="p", title=bad, kind="backup", cron="0 3 * * *", host=bad, arguments={"note": bad})
    times = {"since": made.time, "seen": made.time, "fired": made.time}
    alert = Alert.objects.create(rule="r", title=bad, severity="warning", subject=bad, text=bad, todo=bad, **times)
    AlertChannel.objects.create(name=bad[:80], kind="mail", target="a@example.org")
    ApiToken.objects.create(name=bad, user_id="1", username=bad, digest="d", hint="h", scopes=["read"])
    audit.record(Actor(name=bad, via=Job.Via.API, token=bad), "a.b", bad, before={bad: bad}, after={bad: bad})
    client = empty_site.client("root", superuser=True)
    things = (f"backups/?q={bad}", f"backups/{BACKUP}/", f"backups/delete/?id={BACKUP}", f"jobs/{job.pk}/")
    things += (plan.get_absolute_url(), alert.get_absolute_url())
    for address in (*all_pages(), *things):
        if "{" in address:
            continue
        answer = client.get(address if address[0] == "/" else f"/admin/backup/{address}")
        if answer.headers["Content-Type"].startswith("text/html"):
            assert b"<script>alert" not in answer.content and b"<img src=x" not in answer.content, address
        else:
            download = answer.headers.get("Content-Disposition", "").startswith("attachment")
            assert download or answer.status_code == 405 or answer.headers["Content-Type"] == "application/json", address


def all_pages() -> list[str]:
    """The addresses of all pages, with braces for parameters."""
    return ["/admin/backup/" + str(pattern.pattern).replace("<", "{") for pattern in urlpatterns]
