"""``Idempotency-Key``: a repeated request is executed once, also concurrently and after a crash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.db import connections
from django.utils import timezone

from backups.api import idempotency
from backups.identity import tokens
from backups.jobs import submit
from backups.models import ApiToken, AuditEntry, IdempotencyKey, Job
from tests.control.rest import BACKUPS, bearer, json_of, problem, send, with_token


def test_same_request_gets_the_same_response(empty_site):
    client = bearer(empty_site, "ada", "operator")
    first = send(client, BACKUPS, {"note": "one"}, Idempotency_Key="k1")
    second = send(client, BACKUPS, {"note": "one"}, Idempotency_Key="k1")
    assert json_of(first, 202) == json_of(second, 202) and first.headers["Location"] == second.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers and second.headers["Idempotency-Replayed"] == "true"
    assert Job.objects.count() == AuditEntry.objects.filter(action="backup.requested").count() == 1
    json_of(send(client, BACKUPS, {"note": "one"}, Idempotency_Key="k2"), 202)
    json_of(send(client, BACKUPS, {"note": "one"}), 202)
    assert Job.objects.count() == 3


def test_key_is_for_one_request(empty_site):
    client = bearer(empty_site, "ada", "operator")
    json_of(send(client, BACKUPS, {"note": "one"}, Idempotency_Key="k"), 202)
    problem(send(client, BACKUPS, {"note": "two"}, Idempotency_Key="k"), 422, "idempotency_key_used")
    problem(send(client, f"{BACKUPS}?repository=main", {"note": "one"}, Idempotency_Key="k"), 422, "idempotency_key_used")
    other = bearer(empty_site, "bob", "operator")
    json_of(send(other, BACKUPS, {"note": "two"}, Idempotency_Key="k"), 202)  # keys of different callers are independent
    assert Job.objects.count() == 2


@pytest.mark.parametrize("key", ["", "k" * 201, "a\tb"])
def test_invalid_key_is_refused(empty_site, key):
    client = bearer(empty_site, "ada", "operator")
    problem(send(client, BACKUPS, {}, Idempotency_Key=key), 400, "idempotency_key")
    assert not Job.objects.exists()


def test_key_of_a_refused_request_can_be_used_again(empty_site):
    client = bearer(empty_site, "ada", "operator")
    problem(send(client, BACKUPS, {"set": "nope"}, Idempotency_Key="k"), 400, "usage")
    json_of(send(client, BACKUPS, {"set": "control"}, Idempotency_Key="k"), 202)
    # Permissions are checked each time
    user = ApiToken.objects.get().username
    from django.contrib.auth import get_user_model

    get_user_model().objects.get(username=user).groups.clear()
    problem(send(client, BACKUPS, {"set": "control"}, Idempotency_Key="k"), 403, "not_allowed")


def test_twenty_concurrent_requests_queue_one_job(empty_site):
    issued = tokens.issue(empty_site.person("ada", "operator"), "t", ["backup"], None)
    start = Barrier(20)

    def ask(_: int) -> tuple[int, str]:
        try:
            start.wait(30)
            answer = send(with_token(issued.secret), BACKUPS, {"note": "race"}, Idempotency_Key="race")
            return answer.status_code, answer.json().get("id", answer.json().get("code"))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    [job] = Job.objects.all()
    assert set(answers) <= {(202, str(job.pk)), (409, "idempotency_key_in_use")}, answers
    assert (202, str(job.pk)) in answers
    late = send(with_token(issued.secret), BACKUPS, {"note": "race"}, Idempotency_Key="race")
    assert json_of(late, 202)["id"] == str(job.pk)


def test_key_in_use_is_refused(empty_site):
    client = bearer(empty_site, "ada", "operator")
    json_of(send(client, BACKUPS, {}, Idempotency_Key="k"), 202)
    IdempotencyKey.objects.update(status=None, body=None)  # the state while the first request is in progress
    answer = send(client, BACKUPS, {}, Idempotency_Key="k")
    problem(answer, 409, "idempotency_key_in_use")
    assert answer.headers["Retry-After"] == "1"
    assert Job.objects.count() == 1


def test_crash_leaves_no_job_and_the_key_is_taken_over(empty_site, monkeypatch):
    client = bearer(empty_site, "ada", "operator")

    class Crash(BaseException):
        """Not an error that a view could handle: a killed process leaves what the database has committed."""

    def killed(*args, **kwargs):
        really(*args, **kwargs)
        raise Crash

    really = submit.back_up
    monkeypatch.setattr(submit, "back_up", killed)
    monkeypatch.setattr(
        IdempotencyKey.objects.none().__class__, "delete", lambda self: (0, {})
    )  # a killed process deletes nothing
    with pytest.raises(Crash):
        send(client, BACKUPS, {}, Idempotency_Key="k")
    monkeypatch.undo()
    assert not Job.objects.exists() and IdempotencyKey.objects.get().status is None
    problem(send(client, BACKUPS, {}, Idempotency_Key="k"), 409, "idempotency_key_in_use")
    IdempotencyKey.objects.update(created=timezone.now() - idempotency.ABANDONED_AFTER - timedelta(seconds=1))
    json_of(send(client, BACKUPS, {}, Idempotency_Key="k"), 202)
    assert Job.objects.count() == 1


def test_request_whose_key_was_taken_over_is_rolled_back(empty_site, monkeypatch):
    client = bearer(empty_site, "ada", "operator")
    really = submit.back_up

    def slow(*args, **kwargs):
        IdempotencyKey.objects.update(created=timezone.now() + timedelta(seconds=61))  # as a takeover does
        return really(*args, **kwargs)

    monkeypatch.setattr(submit, "back_up", slow)
    problem(send(client, BACKUPS, {}, Idempotency_Key="k"), 409, "idempotency_key_in_use")
    assert not Job.objects.exists()


def test_secret_is_sent_once_and_not_stored(empty_site):
    client = empty_site.client("ada", "operator")
    body = {"name": "ci", "scopes": ["read"]}
    secret = json_of(send(client, "/api/v1/tokens", body, Idempotency_Key="k"), 201)["secret"]
    again = json_of(send(client, "/api/v1/tokens", body, Idempotency_Key="k"), 201)
    assert again["secret"] is None and ApiToken.objects.count() == 1
    assert secret not in str(IdempotencyKey.objects.values().get())
