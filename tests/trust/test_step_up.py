"""A stolen session, an open browser or a copied cookie can read some time after its owner signed in, but do nothing dangerous.

A page or an operation that these tables lack fails the first tests: decide whether it is dangerous.
"""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from axes.models import AccessAttempt
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups.admin import urls as pages
from backups.admin.step_up import FIELD
from backups.api import legacy
from backups.api import urls as api
from backups.api.operation import Operation
from backups.identity import step_up
from backups.models import AlertChannel, AlertRule, ApiToken, AuditEntry, IndexedBackup, Job, Plan
from backups_consistency import api as consistency_api
from consistency import urls as consistency_pages
from tests.control.conftest import PASSWORD
from tests.control.rest import bearer, json_of, problem, send
from tests.control.test_backup_pages import indexed
from tests.control.test_sign_in import code_of, enrol

BACKUP = "20260101T000000Z-full-abcdef"
ADDRESS = f"main/default/{BACKUP}"
V1 = "/api/v1"
CONFIRM = f"{V1}/session/confirm"

DANGEROUS_PAGES = {
    # Name: method, arguments, form
    "forget_missing": ("POST", [], {"sure": "yes", "id": ADDRESS}),
    "release": ("POST", [], {"id": ADDRESS}),
    "delete": ("POST", [], {"id": ADDRESS}),
    "backup_act": ("POST", [BACKUP], {"do": "release"}),
    "download": ("GET", [BACKUP, "SHA256SUMS"], {}),
    "restore_confirm": ("POST", [], {"backup": BACKUP, "target": "in_place", "typed": BACKUP}),
    "again": ("POST", ["prune-job"], {}),
    "plan_new": ("POST", [], {"kind": "prune", "do": "save"}),
    "plan_import": ("POST", [], {"text": "version: 1", "do": "save"}),
    "plan": ("POST", ["pruning"], {"do": "save"}),
    "plan_delete": ("POST", ["pruning"], {}),
    "plan_switch": ("POST", ["pruning", "pause"], {}),
    "alerts_mine": ("POST", [], {"least": ""}),
    "alert_rule_new": ("POST", [], {"title": "x"}),
    "alert_rule": ("POST", ["rule"], {"title": "x"}),
    "alert_rule_switch": ("POST", ["rule"], {"enabled": "no"}),
    "alert_rule_remove": ("POST", ["rule"], {}),
    "alert_channel_new": ("POST", ["mail"], {"name": "x"}),
    "alert_channel": ("POST", ["channel"], {"name": "x"}),
    "alert_channel_key": ("POST", ["channel"], {}),
    "alert_channel_remove": ("POST", ["channel"], {}),
    "approval_decide": ("POST", ["00000000-0000-0000-0000-000000000000"], {"do": "approve"}),
    "tokens": ("POST", [], {"name": "x"}),
    "token_resume": ("POST", ["token"], {}),
}
HARMLESS_PAGES = {
    "dashboard", "active", "back_up", "figures", "backups", "chosen", "backup", "restore", "restore_what",
    "restore_changes", "restore_look", "restore_report", "restore_report_live", "jobs_ended", "jobs", "job",
    "job_live", "job_log", "cancel", "plans", "plan_export", "plan_times", "plan_retention", "readiness",
    "drill", "alerts", "alert_channel_test", "alert", "alert_acknowledge", "token_revoke", "audit",
    "audit_verify", "audit_export", "second_factor", "second_factor_code", "confirm",
    "approvals",
}  # fmt: skip

DANGEROUS_OPERATIONS = {
    # Name: method, address, body
    "delete_backup": ("DELETE", f"/backups/{BACKUP}", None),
    "restore_backup": ("POST", f"/backups/{BACKUP}/restore", {"to": "in_place", "confirm": "x"}),
    "earlier_restore": (
        *("POST", "/admin/backup/restore"),
        {"backup_id": BACKUP, "restore": {"to": "in_place", "confirm": "x"}},
    ),
    "release_backup": ("POST", f"/backups/{BACKUP}/release", None),
    "download_backup": ("GET", f"/backups/{BACKUP}/files/data.tar.zst", None),
    "run_job_again": ("POST", "/jobs/{prune-job}/again", None),
    "create_schedule": ("POST", "/schedules", {"name": "x", "kind": "prune", "cron": "0 3 * * *"}),
    "change_schedule": ("PATCH", "/schedules/pruning", {"title": "x"}),
    "delete_schedule": ("DELETE", "/schedules/pruning", None),
    "run_schedule": ("POST", "/schedules/pruning/run", None),
    "pause_schedule": ("POST", "/schedules/pruning/pause", None),
    "resume_schedule": ("POST", "/schedules/pruning/resume", None),
    "forget_missing": ("POST", "/repositories/main/forget-missing", {}),
    "prune_repository": ("POST", "/repositories/main/prune", {"keep_last": 1}),
    "create_token": ("POST", "/tokens", {"name": "x", "scopes": ["read"]}),
    "decide_approval": ("POST", "/approvals/00000000-0000-0000-0000-000000000000/decide", {"do": "approve"}),
    "start_check": ("POST", "/consistency/checks", {"repair": "safe"}),
    "start_repair": ("POST", "/consistency/repairs", {}),
    "undo_repair": ("POST", "/consistency/repairs/1/undo", None),
    "resume_repair": ("POST", "/consistency/repairs/1/resume", None),
}
HARMLESS_OPERATIONS = {
    "create_backup", "verify_backup", "drill_backup", "preview_restore", "hold_backup", "cancel_job",
    "reindex_repository", "verify_repository", "revoke_token", "confirm_session", "earlier_trigger",
    "plan_repair",
}  # fmt: skip
ALONE = {"download", "alerts_mine", "alert_channel_key", "tokens", "token_resume", "approval_decide"}
"""What is dangerous and takes one person even where two are required."""
ALONE_OPERATIONS = {
    *("download_backup", "create_token", "decide_approval"),
    *("start_check", "start_repair", "undo_repair", "resume_repair"),
}
CONSISTENCY_PAGES = {"plan", "undo", "resume"}
HARMLESS_CONSISTENCY_PAGES = {"overview", "running", "check_now", "checks", "check", "finding", "repair"}


@pytest.fixture
def planted(empty_site) -> dict[str, object]:
    """One object of each kind that the tables name."""
    indexed(backup_id=BACKUP, held=True)
    job = Job.objects.create(kind="prune", state=Job.State.FAILED, host="elsewhere", arguments={"keep_last": 1})
    Plan.objects.create(name="pruning", kind="prune", cron="0 3 * * *", arguments={"keep_last": 9})
    AlertRule.objects.get_or_create(name="rule", defaults={"title": "Rule", "kind": "disk"})
    channel = AlertChannel.objects.create(name="channel", kind="webhook", target="https://example.org/", key="whsec_AAAA")
    token = ApiToken.objects.create(name="t", user_id="1", username="ada", digest="d", scopes=["read"])
    return {"prune-job": job.pk, "channel": channel.pk, "token": token.pk}


def age(client: Client, minutes: float = 11) -> Client:
    """The same session, *minutes* after its account was last there."""
    session = client.session
    session["_confirmed"] = {**session["_confirmed"], "at": session["_confirmed"]["at"] - minutes * 60}
    session.save()
    return client


def operations() -> dict[str, tuple[str, Operation]]:
    found = {}
    for pattern in (*api.urlpatterns, *legacy.urlpatterns, *consistency_api.urlpatterns):
        for method in ("get", "post", "patch", "delete"):
            handler = getattr(getattr(pattern.callback, "view_class", None), method, None)
            if handler is not None:
                found[handler.operation.name] = (method.upper(), handler.operation)
    return found


def state() -> list[object]:
    """Everything that the dangerous operations change."""
    models = (IndexedBackup, Job, Plan, AlertRule, AlertChannel, ApiToken)
    return [list(model._default_manager.order_by("pk").values()) for model in models]


def test_every_page_and_operation_is_classified():
    declared = {one.name for one in pages.urlpatterns if getattr(one.callback, "dangerous", None)}
    assert declared == set(DANGEROUS_PAGES)
    assert {one.name for one in pages.urlpatterns} - declared == HARMLESS_PAGES
    assert {one.name for one in pages.urlpatterns if getattr(one.callback, "second", None)} == DANGEROUS_PAGES.keys() - ALONE
    declared = {one.name for one in consistency_pages.urlpatterns if one.callback.dangerous}
    assert declared == CONSISTENCY_PAGES
    assert {one.name for one in consistency_pages.urlpatterns} - declared == HARMLESS_CONSISTENCY_PAGES
    found = operations()
    declared = {name for name, (_, operation) in found.items() if operation.dangerous is not None}
    assert declared == set(DANGEROUS_OPERATIONS)
    assert {name for name, (_, operation) in found.items() if operation.second} == declared - ALONE_OPERATIONS
    assert {name for name, (method, _) in found.items() if method != "GET"} - declared == HARMLESS_OPERATIONS


def test_every_dangerous_page_asks(empty_site, planted):
    client = age(empty_site.client("ada", superuser=True))
    before = state()
    asked = {}
    for name, (method, arguments, form) in DANGEROUS_PAGES.items():
        address = reverse(f"backups:{name}", args=[planted.get(argument, argument) for argument in arguments])
        answer = client.get(address) if method == "GET" else client.post(address, form)
        asked[name] = answer.status_code == 302 and answer.url.startswith("/admin/backup/confirm/?next=")
        if method == "POST":
            asked[name] = answer.status_code == 403 and FIELD in answer.content.decode()
    assert [name for name, whether in asked.items() if not whether] == [] and state() == before
    for address in ("checks/1/repair/", "repairs/1/undo/", "repairs/resume/"):
        answer = client.post(f"/admin/consistency/{address}")
        assert answer.status_code == 403 and FIELD in answer.content.decode(), address
    assert client.get(f"/admin/backup/backups/{BACKUP}/").status_code == 200, "what is not dangerous goes on"
    fresh = age(client, -11)
    for name in ("tokens", "plan", "alert_channel_new"):
        method, arguments, form = DANGEROUS_PAGES[name]
        answer = fresh.post(reverse(f"backups:{name}", args=arguments), form)
        assert answer.status_code == 400 and FIELD not in answer.content.decode(), name


def test_every_dangerous_operation_needs_a_confirmed_session(empty_site, planted):
    client, program = age(empty_site.client("ada", superuser=True)), bearer(empty_site, "eve", superuser=True)
    before = state()

    def ask(sender: Client, name: str):
        cache.clear()
        method, path, body = DANGEROUS_OPERATIONS[name]
        path = path.replace("{prune-job}", str(planted["prune-job"]))
        return send(sender, path if path.startswith("/admin") else V1 + path, body, method)

    for name in DANGEROUS_OPERATIONS:
        found = problem(ask(client, name), 403, "step_up")
        assert found["by"] == "password" and CONFIRM in found["hint"] and "/admin/backup/confirm/" in found["hint"], name
    assert state() == before
    json_of(send(client, CONFIRM, {"password": PASSWORD}), 204)
    for name in DANGEROUS_OPERATIONS:
        answer = ask(client, name)
        assert answer.status_code != 403, (name, answer.content)
    Plan.objects.get_or_create(name="pruning", defaults={"kind": "prune", "cron": "0 3 * * *"})
    for name in DANGEROUS_OPERATIONS:
        assert ask(program, name).status_code != 403, f"{name}: the scopes of a token are enough"
    assert problem(send(program, CONFIRM, {"password": PASSWORD}), 409, "no_session")


def test_harmless_variants_are_not_asked_for(empty_site, planted):
    client = age(empty_site.client("ada", superuser=True))
    json_of(send(client, f"{V1}/repositories/main/prune", {"keep_last": 1, "dry_run": True}), 202)
    folder = {"to": "folder", "folder": "there"}
    assert send(client, f"{V1}/backups/{BACKUP}/restore", folder).status_code == 202
    assert client.post(f"/admin/backup/backups/{BACKUP}/do/", {"do": "hold"}).status_code != 403
    assert client.post(reverse("backups:plan", args=["pruning"]), {"do": "times"}).status_code == 200


def test_the_page_goes_on_with_what_was_requested(empty_site):
    rows = [indexed() for _ in range(2)]
    client = Client(enforce_csrf_checks=True)
    ada = empty_site.person("ada", "restorer")
    client.force_login(ada, "django.contrib.auth.backends.ModelBackend")
    age(client)
    address = reverse("backups:delete") + "?from=list"
    page = client.get(f"{address}&id={rows[0].address}").content.decode()
    form = {"id": [row.address for row in rows], "back": '"<b>', "csrfmiddlewaretoken": _csrf(page)}
    page = client.post(address, form)
    assert page.headers["Cache-Control"].find("no-store") >= 0

    def again(page, answer: str):
        text = page.content.decode()
        fields = [(name, unescape(value)) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', text)]
        assert f'action="{address}"' in text and ("back", '"<b>') in fields
        kept = {name: [value for key, value in fields if key == name] for name, _ in fields}
        return client.post(address, {**kept, FIELD: answer})

    assert client.post(address, {**form, "csrfmiddlewaretoken": "x" * 32, FIELD: PASSWORD}).status_code == 403
    page = again(page, "a guess")
    assert page.status_code == 403 and "That is not your password" in page.content.decode()
    assert "a guess" not in page.content.decode() and not Job.objects.exists()
    assert again(page, PASSWORD).status_code == 302
    assert sorted(Job.objects.get().arguments["backup_ids"]) == sorted(row.backup_id for row in rows)
    actions = list(AuditEntry.objects.order_by("number").values_list("action", flat=True))
    assert actions[-3:-1] == ["account.refused", "account.confirmed"]
    assert AuditEntry.objects.get(action="account.confirmed").after == {"by": "password"}


def _csrf(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found
    return found[1]


def test_a_download_goes_on_at_this_site_only(empty_site):
    indexed(backup_id=BACKUP)
    client = age(empty_site.client("ada", "restorer"))
    link = reverse("backups:download", args=[BACKUP, "SHA256SUMS"]) + "?repository=main&set=default"
    question = client.get(link).url
    page = client.get(question).content.decode()
    assert unescape(re.findall(r'name="next" value="([^"]+)"', page)[0]) == link
    assert client.post(question, {FIELD: PASSWORD, "next": link}).url == link
    assert client.get(link).status_code == 404, "it was only indexed, so there is no such file"
    for evil in ("https://evil.example/", "//evil.example", "javascript:alert(1)", "\\\\evil.example"):
        assert client.post(f"{reverse('backups:confirm')}", {FIELD: PASSWORD, "next": evil}).url == "/admin/"


def test_guesses_are_throttled_like_sign_ins(empty_site):
    client = age(empty_site.client("ada", superuser=True))
    for _ in range(3):
        problem(send(client, CONFIRM, {"password": "guess"}), 403, "step_up")
    for _ in range(2):
        answer = client.post(reverse("backups:tokens"), {"name": "x", FIELD: "guess"})
    assert answer.status_code == 429 and AccessAttempt.objects.get().failures_since_start == 5
    assert "Retry-After" in send(client, CONFIRM, {"password": PASSWORD}).headers
    problem(send(client, CONFIRM, {"password": PASSWORD}), 429, "too_many_requests")
    assert client.post(reverse("backups:tokens"), {"name": "x", FIELD: PASSWORD}).status_code == 429
    assert not AuditEntry.objects.filter(action="account.confirmed").exists() and not ApiToken.objects.exists()


def test_a_second_factor_is_asked_for_instead_of_the_password(empty_site):
    client = empty_site.client("ada", superuser=True)
    device, _ = enrol(client, "ada")
    age(client)
    found = problem(send(client, f"{V1}/tokens", {"name": "x", "scopes": ["read"]}), 403, "step_up")
    assert found["by"] == "code"
    problem(send(client, CONFIRM, {"password": PASSWORD}), 403, "step_up")
    page = client.post(reverse("backups:tokens"), {"name": "x", "scopes": ["read"], "days": "7", FIELD: PASSWORD})
    assert page.status_code == 403 and "authenticator app" in page.content.decode() and not ApiToken.objects.exists()
    type(device).objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    page = client.post(reverse("backups:tokens"), {"name": "x", "scopes": ["read"], "days": "7", FIELD: code_of(device)})
    assert page.status_code == 200 and ApiToken.objects.count() == 1
    assert AuditEntry.objects.get(action="account.confirmed").after == {"by": "code"}


def test_zero_minutes_ask_each_time(empty_site, settings):
    settings.BACKUPS_STEP_UP_MINUTES = 0
    client = empty_site.client("ada", superuser=True)
    new = {"name": "x", "scopes": ["read"]}
    problem(send(client, f"{V1}/tokens", new), 403, "step_up")
    for _ in range(2):
        json_of(send(client, CONFIRM, {"password": PASSWORD}), 204)
        json_of(send(client, f"{V1}/tokens", new), 201)
        problem(send(client, f"{V1}/tokens", new), 403, "step_up")
    json_of(send(client, CONFIRM, {"password": PASSWORD}), 204)
    problem(send(age(client, 3), f"{V1}/tokens", new), 403, "step_up")


def test_freshness_is_on_the_server_and_of_one_session(empty_site, monkeypatch):
    client = age(empty_site.client("ada", superuser=True))
    other = Client()
    other.force_login(get_user_model().objects.get(username="ada"), "django.contrib.auth.backends.ModelBackend")
    json_of(send(other, CONFIRM, {"password": PASSWORD}), 204)
    assert set(other.cookies) == {"sessionid"} and other.cookies["sessionid"]["httponly"]
    problem(send(client, f"{V1}/tokens", {"name": "x", "scopes": ["read"]}), 403, "step_up")
    # A clock that was set back does not make an old confirmation last
    earlier = timezone.now() - timedelta(days=1)
    request = other.get("/admin/backup/").wsgi_request
    monkeypatch.setattr(timezone, "now", lambda: earlier)
    assert not step_up.admit(request)


def test_accounts_are_not_changed_with_an_old_session(empty_site):
    client = age(empty_site.client("ada", superuser=True))
    new = {"username": "mallory", "password1": "another-horse-staple", "password2": "another-horse-staple"}
    new |= {"usable_password": "true"}
    people = get_user_model().objects
    chosen = {"action": "delete_selected", "_selected_action": [people.get().pk], "post": "yes"}
    for path, form in (("add/", new), (f"{people.get().pk}/password/", new), ("", chosen), (f"{people.get().pk}/delete/", {})):
        answer = client.post(f"/admin/auth/user/{path}", form)
        assert answer.url.startswith("/admin/backup/confirm/?next="), path
    assert people.count() == 1 and people.get().check_password(PASSWORD)
    client.post("/admin/backup/confirm/", {FIELD: PASSWORD})
    assert client.post("/admin/auth/user/add/", new).status_code == 302 and people.count() == 2


def test_the_control_set_is_downloaded_by_superusers_only(empty_site):
    indexed(backup_id=BACKUP, set="control")
    page, file = reverse("backups:backup", args=[BACKUP]), reverse("backups:download", args=[BACKUP, "data.tar.zst"])
    address = f"{V1}/backups/{BACKUP}/files/data.tar.zst"
    restorer, root = empty_site.client("rita", "restorer"), empty_site.client("ada", superuser=True)
    answer = restorer.get(file)
    assert answer.status_code == 403 and "Only a superuser may download the set control" in answer.content.decode()
    assert file not in restorer.get(page).content.decode() and file in root.get(page).content.decode()
    assert root.get(file).status_code == 404, "it was only indexed, so there is no such file"
    for client in (restorer, bearer(empty_site, "program", "restorer")):
        assert "superuser" in problem(client.get(address), 403, "not_allowed")["detail"]
        assert client.head(address).status_code == 403
    for client in (root, bearer(empty_site, "robot", superuser=True)):
        assert client.get(address).status_code == 404


def test_an_operator_cannot_touch_a_plan_that_deletes(empty_site, planted):
    """Over REST an operator could delete the plan that prunes, and change its times."""
    plan = list(Plan.objects.filter(name="pruning").values())
    rest = f"{V1}/schedules/pruning"
    operator, program = empty_site.client("olga", "operator"), bearer(empty_site, "program", "operator")
    for client in (operator, program):
        for method, body in (("DELETE", None), ("PATCH", {"cron": "0 0 30 2 *"}), ("PATCH", {"alert_to": []})):
            assert problem(send(client, rest, body, method), 403, "not_allowed")["permission"] == "backups.delete_backup"
    assert operator.post(reverse("backups:plan_delete", args=["pruning"])).status_code == 403
    assert operator.post(reverse("backups:plan", args=["pruning"]), {"do": "save", "cron": "* * * * *"}).status_code == 403
    assert list(Plan.objects.filter(name="pruning").values()) == plan
    Plan.objects.create(name="checking", kind="health", cron="0 3 * * *")
    json_of(send(program, f"{V1}/schedules/checking", None, "DELETE"), 204)
