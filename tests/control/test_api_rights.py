"""Permissions and scopes over REST: one table of all routes. A route that it lacks fails the test."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.test import Client, override_settings
from django.utils import timezone

from backups.api.reference import description
from backups.engine.repository.folder import initialise
from backups.identity import tokens
from backups.models import ApiToken, Approval, IndexedBackup, Job, Plan, Worker
from tests.control.conftest import HOST, settings_of
from tests.control.rest import EVERY_SCOPE, json_of, send, with_token
from tests.library.places import Places, at

BACKUP = "20260101T000000Z-full-abcdef"
V1 = "/api/v1"
ALL = {"viewer", "operator", "restorer"}
NOBODY: set[str] = set()

TABLE: dict[str, tuple[set[str], set[str]]] = {
    # Method and address: the groups that have the permission, and the token scopes that include it
    "GET /backups": (ALL, {"read"}),
    "POST /backups": ({"operator"}, {"backup"}),
    "GET /backups/{backup_id}": (ALL, {"read"}),
    "DELETE /backups/{backup_id}": ({"restorer"}, {"delete"}),
    "POST /backups/{backup_id}/verify": ({"operator"}, {"verify"}),
    "POST /backups/{backup_id}/drill": ({"operator"}, {"verify"}),
    "POST /backups/{backup_id}/preview": ({"restorer"}, {"restore"}),
    "POST /backups/{backup_id}/restore": ({"restorer"}, {"restore"}),
    "POST /backups/{backup_id}/hold": ({"operator"}, {"hold"}),
    "POST /backups/{backup_id}/release": ({"operator"}, {"hold"}),
    "GET /backups/{backup_id}/files/{file_name}": ({"restorer"}, {"download"}),
    "GET /jobs": (ALL, {"read"}),
    "GET /jobs/{job_id}": (ALL, {"read"}),
    "GET /jobs/{job_id}/log": (ALL, {"read"}),
    "POST /jobs/{job_id}/cancel": ({"operator", "restorer"}, {"jobs"}),
    "POST /jobs/{job_id}/again": ({"operator"}, {"read+backup"}),
    "GET /schedules": (ALL, {"read"}),
    "POST /schedules": ({"operator"}, {"plans+read"}),  # and the scope of the job type
    "GET /schedules/{name}": (ALL, {"read"}),
    "PATCH /schedules/{name}": ({"operator"}, {"plans+read"}),
    "DELETE /schedules/{name}": ({"operator"}, {"plans+read"}),
    "POST /schedules/{name}/run": ({"operator"}, {"plans"}),
    "POST /schedules/{name}/pause": ({"operator"}, {"plans"}),
    "POST /schedules/{name}/resume": ({"operator"}, {"plans"}),
    "GET /schedule-times": (ALL, {"read"}),
    "GET /repositories": (ALL, {"read"}),
    "GET /repositories/{name}": (ALL, {"read"}),
    "POST /repositories/{name}/reindex": ({"operator"}, {"backup"}),
    "POST /repositories/{name}/verify": ({"operator"}, {"verify"}),
    "POST /repositories/{name}/prune": ({"restorer"}, {"delete"}),
    "POST /repositories/{name}/forget-missing": ({"restorer"}, {"delete"}),
    "GET /audit": (ALL, {"read"}),
    "GET /audit/verify": (ALL, {"read"}),
    "GET /tokens": ({"operator", "restorer"}, {"tokens"}),
    "POST /tokens": ({"operator", "restorer"}, {"tokens"}),
    "GET /tokens/{token_id}": ({"operator", "restorer"}, {"tokens"}),
    "DELETE /tokens/{token_id}": ({"operator", "restorer"}, {"tokens"}),
    "GET /approvals": (ALL, {"read"}),
    "GET /approvals/{approval_id}": (ALL, {"read"}),
    "GET /status": (ALL, {"read"}),
    "GET /readiness": (ALL, {"read"}),
    "GET /schema": (ALL | {"none"}, set(EVERY_SCOPE)),
    "GET /readyz": (ALL | {"none", "anonymous"}, set(EVERY_SCOPE)),
    "POST /admin/backup/trigger": ({"operator"}, {"backup"}),
    "GET /admin/backup/status": (ALL, {"read"}),
    "GET /admin/backup/history": (ALL, {"read"}),
    "POST /admin/backup/restore": ({"restorer"}, {"restore"}),
}
TAKES_A_SESSION = {"POST /session/confirm", "POST /approvals/{approval_id}/decide"}
BODIES = {
    "POST /backups/{backup_id}/restore": {"to": "folder", "folder": "x"},
    "POST /admin/backup/restore": {"backup_id": BACKUP, "restore": {"to": "folder", "folder": "x"}},
    "POST /schedules": {"name": "made", "kind": "health", "cron": "0 3 * * *"},
    "POST /repositories/{name}/prune": {"keep_last": 1},
    "POST /repositories/{name}/forget-missing": {"ids": ["20200101T000000Z-full-abcdef"]},
    "POST /tokens": {"name": "x", "scopes": ["tokens"]},
}


def routes() -> set[str]:
    found = set()
    for path, methods in description()["paths"].items():
        if path.startswith((f"{V1}/consistency", "/admin/consistency")):
            continue  # has its own table
        found |= {f"{method.upper()} {path.removeprefix(V1)}" for method in methods if method != "parameters"}
    return found


def test_every_route_is_in_the_table():
    assert routes() == set(TABLE) | TAKES_A_SESSION, "tests/trust/test_step_up.py"


@pytest.fixture(scope="module")
def made(empty_places, tmp_path_factory, django_db_blocker):
    """One object of each kind, and an account in each group. Requests leave the site unchanged, so all tests share it."""
    root = tmp_path_factory.mktemp("rights") / "library"
    shutil.copytree(empty_places.root, root)
    initialise(root / "backups", datetime.now(UTC))
    places = Places(root)
    with (
        at(places),
        django_db_blocker.unblock(),
        override_settings(BACKUPS=settings_of(places), BACKUPS_STEP_UP_MINUTES=600),
    ):
        job = Job.objects.create(kind="backup", host="elsewhere", state=Job.State.FAILED)
        now = timezone.now()
        approval = Approval.objects.create(subject="delete", method="POST", address="/", content=[], expires=now)
        IndexedBackup.objects.create(
            repository="main", backup_id=BACKUP, set="default", kind="full", time=now, finished=now, verification="hashes"
        )
        Worker.objects.create(host=HOST)
        people, sessions, issued = {}, {}, {}
        for name in (*sorted(ALL), "none", "root"):
            people[name] = get_user_model().objects.create_user(name, is_staff=True, is_superuser=name == "root")
            people[name].groups.set(Group.objects.filter(name=name))
            sessions[name] = Client()
            sessions[name].force_login(people[name], "django.contrib.auth.backends.ModelBackend")
            issued[name] = tokens.issue(people[name], name, EVERY_SCOPE, None)
        yield {"job": job, "approval": approval, "sessions": sessions, "tokens": issued}


def ask(client: Client, route: str, made: dict, token_id: int) -> int:
    """The status of the response. The object exists, so that 404 does not hide 403."""
    cache.clear()
    method, path = route.split(" ")
    if not path.startswith(("/admin", "/readyz")):
        path = V1 + path
    name = "main" if "/repositories" in path else "plan"
    path = path.format(
        backup_id=BACKUP,
        job_id=made["job"].pk,
        approval_id=made["approval"].pk,
        token_id=token_id,
        name=name,
        file_name="SHA256SUMS",
    )
    path += "?cron=0+3+*+*+*" if path.endswith("schedule-times") else ""
    path += "?last_proven=true" if route == "DELETE /backups/{backup_id}" else ""
    if "schedules" in path:
        Plan.objects.get_or_create(name="plan", defaults={"kind": "health", "cron": "0 3 * * *"})
        Plan.objects.filter(name="made").delete()
    status = send(client, path, BODIES.get(route), method).status_code
    if method == "DELETE":
        ApiToken.objects.filter(pk=token_id).update(revoked=None)
    return status


ALLOWED = {200, 201, 202, 204, 404}
"""The backup exists only as a row: 404 for its folder means that the permission checks passed."""


@pytest.mark.parametrize("route", sorted(TABLE))
@pytest.mark.slow
def test_groups_and_scopes(made, route):
    groups, scopes = TABLE[route]
    anonymous = ask(Client(), route, made, 1)
    assert (anonymous in ALLOWED) is ("anonymous" in groups), anonymous
    assert anonymous in ALLOWED or anonymous == 401
    got = {}
    for name in (*ALL, "none"):
        token = made["tokens"][name]
        got[name] = ask(with_token(token.secret), route, made, token.token.pk)
        session = ask(made["sessions"][name], route, made, token.token.pk)
        assert session == got[name], "a session may do what a token with every scope may"
    assert {name for name, status in got.items() if status in ALLOWED} == groups - {"anonymous"}, got
    assert set(got.values()) <= ALLOWED | {403}, got
    # With every permission, the scope decides
    root = made["tokens"]["root"]

    def scoped(*names: str) -> int:
        ApiToken.objects.filter(pk=root.token.pk).update(scopes=names)
        return ask(with_token(root.secret), route, made, root.token.pk)

    assert all(scoped(*scope.split("+")) in ALLOWED for scope in (scopes if len(scopes) < 3 else [*scopes][:2]))
    needed = {part for scope in scopes for part in scope.split("+")}
    others = [scope for scope in EVERY_SCOPE if scope not in needed]
    assert not others or scoped(*others) == 403
    for scope in scopes:
        parts = scope.split("+")
        assert len(parts) == 1 or all(scoped(*others, part) == 403 for part in parts)


def test_session_must_be_of_the_admin_and_send_the_csrf_token(empty_site):
    user = empty_site.person("ada", "operator")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    json_of(client.get("/api/v1/backups"), 200)
    for path in ("/api/v1/backups", "/admin/backup/trigger"):
        assert json_of(send(client, path, {}), 403)["code"] == "csrf"
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    secret = client.cookies["csrftoken"].value
    json_of(send(client, "/api/v1/backups", {}, X_CSRFToken=secret), 202)
    user.is_staff = False
    user.save()
    assert json_of(client.get("/api/v1/backups"), 403)["code"] == "session_refused"
    issued = tokens.issue(user, "program", ["read"], None)
    json_of(with_token(issued.secret).get("/api/v1/backups"), 200)  # an account for programs need not be staff


def test_invalid_token_is_refused_on_public_routes_and_with_a_session(empty_site):
    client = empty_site.client("ada", superuser=True)
    for path in ("/api/v1/backups", "/readyz"):
        answer = client.get(path, headers={"Authorization": "Bearer rsb_wrong"})
        assert json_of(answer, 401)["code"] == "bad_token"
    for header in ("Bearer", "Bearer a b", "Bearer \xff", "bearer x"):
        assert client.get("/api/v1/backups", headers={"Authorization": header}).status_code == 401
    assert Client().get("/api/v1/backups", headers={"Authorization": "Basic YTpi"}).status_code == 401


def test_second_factor_is_required_of_sessions_but_not_of_tokens(empty_site, settings):
    settings.BACKUPS_SECOND_FACTOR = "required"
    assert json_of(empty_site.client("ada", "viewer").get("/api/v1/backups"), 403)["code"] == "second_factor"
    issued = tokens.issue(empty_site.person("robot", "viewer"), "program", ["read"], None)
    json_of(with_token(issued.secret).get("/api/v1/backups"), 200)
    # The interface checks it too, for sites without the middleware
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if not name.endswith("second_factor.Gate")]
    assert json_of(empty_site.client("bob", "viewer").get("/api/v1/backups"), 403)["code"] == "session_refused"
