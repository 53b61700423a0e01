"""Consistency over REST: who may do what, by a table over its routes, and what it answers."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.test import Client, override_settings
from django.utils import timezone

from backups.api.reference import description
from backups.identity import tokens
from backups.models import ApiToken, Job
from consistency.models import Check, Finding, Repair
from tests.control.consistency_site import joined
from tests.control.rest import EVERY_SCOPE, bearer, json_of, problem, send, with_token

V1 = "/api/v1/consistency"
ALL = {"viewer", "operator", "restorer"}
TABLE: dict[str, tuple[set[str], str]] = {
    "GET /checks": (ALL, "read"),
    "POST /checks": ({"operator"}, "consistency"),
    "GET /checks/{number}": (ALL, "read"),
    "GET /issues": (ALL, "read"),
    "GET /issues/{number}": (ALL, "read"),
    "GET /repairs": (ALL, "read"),
    "POST /repairs": ({"operator"}, "consistency"),
    "POST /repairs/plan": (ALL, "read"),
    "GET /repairs/{number}": (ALL, "read"),
    "POST /repairs/{number}/undo": ({"operator"}, "consistency"),
    "POST /repairs/{number}/resume": ({"operator"}, "consistency"),
}


@pytest.fixture
def checked(empty_site):
    """A site with a check that found two things, and a repair that is unfinished."""
    with override_settings(BACKUPS=joined(empty_site.places)):
        check = Check.objects.create(
            state=Check.State.DONE,
            verdict="inconsistent",
            ended=timezone.now(),
            findings_count=2,
            kinds={"missing_in_chromadb": 1, "missing_in_sqlite": 1},
            severities={"error": 2},
        )
        common = {"belongs_to": check, "severity": "error", "mapping": "pages", "message": "It is gone."}
        Finding.objects.create(kind="missing_in_chromadb", record="page-1", repair="write", safe=True, **common)
        Finding.objects.create(
            kind="missing_in_sqlite", record="page-2", repair="delete_vector", chroma={"title": "x", "vector": None}, **common
        )
        Repair.objects.create(of_check=check)
        yield empty_site


def test_every_route_is_in_the_table_and_described(checked):
    paths = {path: methods for path, methods in description()["paths"].items() if path.startswith(V1)}
    assert {f"{method.upper()} {path.removeprefix(V1)}" for path, methods in paths.items() for method in methods} == set(TABLE)
    for methods in paths.values():
        for one in methods.values():
            assert one["tags"] == ["Consistency"] and one["summary"] and "Needs the permission" in one["description"]


@pytest.mark.parametrize("route", sorted(TABLE))
def test_groups_and_scopes(checked, route):
    groups, scope = TABLE[route]
    method, path = route.split(" ")
    numbers = {"/checks": Check, "/issues": Finding, "/repairs": Repair}
    number = next(model for start, model in numbers.items() if path.startswith(start)).objects.order_by("pk").first().pk
    path = V1 + path.format(number=number)

    def status(client: Client) -> int:
        cache.clear()
        return send(client, path, None, method).status_code

    allowed = {200, 202}
    assert status(Client()) == 401
    got = {name: status(bearer(checked, name, name)) for name in sorted(ALL)}
    assert {name for name, code in got.items() if code in allowed} == groups and set(got.values()) <= {*allowed, 403}
    root = tokens.issue(checked.person("root", superuser=True), "root's", EVERY_SCOPE, None)
    for scopes, fits in (([scope], True), ([one for one in EVERY_SCOPE if one != scope], False)):
        ApiToken.objects.filter(pk=root.token.pk).update(scopes=scopes)
        assert (status(with_token(root.secret)) in allowed) is fits


def test_checks_issues_and_repairs(checked):
    client = bearer(checked, "eve", "operator")
    [check] = json_of(client.get(f"{V1}/checks"), 200)["items"]
    assert check["verdict"] == "inconsistent" and json_of(client.get(f"{V1}/checks/{check['id']}"), 200) == check
    issues = json_of(client.get(f"{V1}/issues"), 200)["items"]
    assert [one["record"] for one in issues] == ["page-2", "page-1"]
    first = json_of(client.get(f"{V1}/issues", {"limit": 1}), 200)
    assert json_of(client.get(first["next"]), 200)["items"] == issues[1:]
    assert json_of(client.get(f"{V1}/issues", {"safe": "true"}), 200)["items"] == issues[1:]
    assert json_of(client.get(f"{V1}/issues", {"kind": "missing_in_sqlite", "check": check["id"]}), 200)["items"] == issues[:1]
    assert json_of(client.get(f"{V1}/issues/{issues[0]['id']}"), 200)["chroma"]["title"] == "x"
    problem(client.get(f"{V1}/issues", {"check": 999}), 404, "not_found")
    problem(client.get(f"{V1}/issues", {"kind": "nonsense"}), 400, "invalid")

    plan = json_of(send(client, f"{V1}/repairs/plan", {}), 200)
    assert (plan["repairs"], plan["asks"], plan["actions"]) == (1, 1, {"write": 1})
    assert json_of(send(client, f"{V1}/repairs/plan", {"scope": "all"}), 200)["repairs"] == 2
    job = json_of(send(client, f"{V1}/repairs", {"issues": [issues[1]["id"]]}, Idempotency_Key="k"), 202)
    assert job["kind"] == "repair_consistency" and job["arguments"]["findings"] == [issues[1]["id"]] and job["by"] == "eve"
    again = send(client, f"{V1}/repairs", {"issues": [issues[1]["id"]]}, Idempotency_Key="k")
    assert json_of(again, 202)["id"] == job["id"] and again.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    Finding.objects.update(state="repaired")
    problem(send(client, f"{V1}/repairs", {}), 409, "repair_refused")
    Check.objects.update(source="20260101T000000Z-full-abcdef")
    problem(send(client, f"{V1}/repairs/plan", {"check": check["id"]}), 409, "repair_refused")
    problem(send(client, f"{V1}/repairs/plan", {}), 404, "not_found")


def test_a_check_is_queued_once(checked):
    client = bearer(checked, "eve", "operator")
    job = json_of(send(client, f"{V1}/checks", {}), 202)
    assert json_of(send(client, f"{V1}/checks"), 202)["id"] == job["id"]
    assert json_of(send(client, f"{V1}/checks", {"repair": "safe"}), 202)["arguments"]["repair"] == "safe"
    assert Job.objects.count() == 2
    [made] = json_of(client.get(f"{V1}/repairs"), 200)["items"]
    assert json_of(send(client, f"{V1}/repairs/{made['id']}/resume"), 202)["kind"] == "resume_repair"
    Repair.objects.update(state=Repair.State.UNDONE)
    problem(send(client, f"{V1}/repairs/{made['id']}/undo"), 409, "repair_refused")
    problem(send(client, f"{V1}/repairs/{made['id']}/resume"), 409, "repair_refused")
