"""Every error is a problem (RFC 9457); request rates."""

from __future__ import annotations

import json

import pytest
from django.core.cache import cache
from django.db import OperationalError
from django.test import Client

from backups.api import problems
from backups.engine import errors
from backups.jobs import submit
from backups.models import Job
from tests.control.rest import BACKUPS, bearer, json_of, problem, send, with_token


def test_http_errors_are_problems(empty_site):
    client = bearer(empty_site, "ada", "operator")
    wrong = client.put(BACKUPS)
    problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == "GET, HEAD, POST" or set(wrong.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}
    for method in ("OPTIONS", "TRACE", "PATCH", "DELETE"):
        problem(client.generic(method, BACKUPS), 405, "method_not_allowed")
    problem(client.get("/api/v1/nothing"), 404, "not_found")
    problem(client.post("/api/v1/nothing/"), 404, "not_found")
    problem(client.get(f"{BACKUPS}/not-an-id"), 404, "no_backup")
    problem(client.get(BACKUPS, headers={"Accept": "text/html"}), 406, "not_acceptable")
    json_of(client.get(BACKUPS, headers={"Accept": "application/*;q=0.5, text/html"}), 200)
    problem(client.post(BACKUPS, "kind=full", content_type="application/x-www-form-urlencoded"), 415, "media_type")
    problem(client.post(BACKUPS, "{}", content_type="text/plain"), 415, "media_type")
    assert "json" in problem(send(client, BACKUPS, "{"), 400, "json")["detail"].lower()
    problem(send(client, BACKUPS, '{"note": NaN}'), 400, "json")
    problem(send(client, BACKUPS, "[" * 100_000), 400, "json")
    problem(send(client, BACKUPS, '{"note": "\\ud800"}'), 400, "invalid")
    problem(send(client, BACKUPS, '{"note": "' + "n" * 3_000_000 + '"}'), 413, "too_large")
    assert not Job.objects.exists()


def test_unknown_names_are_named_with_where_to_find_them(empty_site):
    client = bearer(empty_site, "ada", "operator")
    number, job = "999999", "00000000-0000-4000-8000-000000000000"
    unknown = {
        "backups": ("backup", "20260101T000000Z-full-abcdef", "no-id"),
        "jobs": ("job", job, "no-uuid"),
        "schedules": ("plan", "nowhere", "no plan"),
        "repositories": ("repository", "nowhere", "-"),
        "tokens": ("token", number, "none"),
        "consistency/checks": ("check", number, "none"),
        "consistency/issues": ("finding", number, "none"),
        "consistency/repairs": ("repair", number, "-1"),
    }
    for place, (what, *names) in unknown.items():
        for name in names:
            told = problem(client.get(f"/api/v1/{place}/{name}"), 404, "no_backup" if what == "backup" else "not_found")
            assert told["detail"].startswith(f"There is no {what} {name}"), told
            assert "scan" in told["hint"] or told["hint"] == f"GET /api/v1/{place} lists them."
    problem(send(client, f"{BACKUPS}/no-id/hold", {}), 404, "no_backup")
    told = problem(client.get(f"{BACKUPS}/20260101T000000Z-full-abcdef?repository=main"), 404, "no_backup")
    assert told["detail"] == "There is no backup 20260101T000000Z-full-abcdef in main."
    assert problem(client.get(f"{BACKUPS}/latest/nothing"), 404, "not_found")["detail"] == "Nothing exists at this address."


def test_body_without_content_length_is_refused(empty_site):
    client = bearer(empty_site, "ada", "operator")
    answer = client.generic("POST", BACKUPS, headers={"Transfer-Encoding": "chunked"})
    problem(answer, 411, "length")
    assert not Job.objects.exists()


@pytest.mark.parametrize("kind", errors.tree(), ids=lambda kind: kind.code)
def test_engine_error_keeps_its_code_hint_and_details(empty_site, monkeypatch, kind):
    def fail(*_: object, **__: object) -> None:
        raise kind("It did not work.", id="20260101T000000Z-full-abcdef", status=1)

    monkeypatch.setattr(submit, "back_up", fail)
    status = errors.HTTP_STATUS.get(kind.code, 500)
    found = problem(send(bearer(empty_site, "ada", "operator"), BACKUPS, {}), status, kind.code)
    assert (found["detail"], found["hint"], found["id"]) == (
        "It did not work.",
        kind.default_hint,
        "20260101T000000Z-full-abcdef",
    )


def test_unexpected_error_is_logged_and_not_revealed(empty_site, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(submit, "back_up", fail)
    client = bearer(empty_site, "ada", "operator")
    client.raise_request_exception = False
    answer = send(client, BACKUPS, {})
    problem(answer, 500, "failed")
    assert b"hunter2" not in answer.content and "hunter2" in caplog.text


def test_unavailable_database_sends_retry_after(empty_site, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(submit, "back_up", fail)
    answer = send(bearer(empty_site, "ada", "operator"), BACKUPS, {})
    problem(answer, 503, "database")
    assert answer.headers["Retry-After"] == "5"


def _rates(settings, **rates: str) -> None:
    settings.BACKUPS = settings.BACKUPS | {"API_RATES": rates}
    cache.clear()


def test_each_token_has_its_own_rate(empty_site, settings):
    first, second = bearer(empty_site, "ada", "operator"), bearer(empty_site, "bob", "operator")
    _rates(settings, caller="3/minute", changes="1/minute")
    json_of(send(first, BACKUPS, {}), 202)
    answer = send(first, BACKUPS, {})
    problem(answer, 429, "too_many_requests")
    assert 50 <= int(answer.headers["Retry-After"]) <= 60
    json_of(first.get(BACKUPS), 200)
    problem(first.get(BACKUPS), 429, "too_many_requests")
    json_of(second.get(BACKUPS), 200)


def test_anonymous_requests_and_invalid_tokens_are_throttled_by_address(empty_site, settings):
    good = bearer(empty_site, "ada", "viewer")
    _rates(settings, anonymous="2/minute", bad_tokens="2/minute")
    assert [Client().get(BACKUPS).status_code for _ in range(3)] == [401, 401, 429]
    assert [Client().get("/readyz").status_code for _ in range(1)] == [429]
    assert Client(REMOTE_ADDR="192.0.2.7").get(BACKUPS).status_code == 401
    guesses = [with_token(f"rsb_guess{number}").get(BACKUPS) for number in range(3)]
    assert [guess.status_code for guess in guesses] == [401, 401, 429]
    assert 1 <= int(guesses[2].headers["Retry-After"]) <= 60
    json_of(good.get(BACKUPS), 200)  # a valid token at the same address still works


def test_responses_are_not_cached(empty_site):
    client = bearer(empty_site, "ada", "viewer")
    for path in (BACKUPS, "/api/v1/status", "/readyz"):
        assert client.get(path).headers["Cache-Control"] == "private, no-store"


def test_details_do_not_replace_members_of_a_problem():
    body = problems.body(400, "usage", "It is wrong.", "Do this.", {"status": 7, "code": "other", "problems": ["a"]})
    assert json.loads(json.dumps(body)) == {
        "type": "urn:refserver-backups:problem:usage",
        "title": "Invalid request",
        "status": 400,
        "detail": "It is wrong.",
        "code": "usage",
        "hint": "Do this.",
        "problems": ["a"],
    }
