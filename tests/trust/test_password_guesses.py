"""Guessing a password from many addresses, and many times at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.backends import ModelBackend
from django.db import connections
from django.test import Client

from backups.identity import login_throttling
from backups.identity.login_throttling import FREE, FREE_EVERYWHERE
from tests.control.conftest import PASSWORD
from tests.control.test_sign_in import later, sign

HOME = "192.0.2.7"


def guess_everywhere(count: int, name: str = "ada") -> list[int]:
    """The statuses of wrong passwords, each from another address."""
    return [sign(name, "wrong", address=f"198.51.{n // 250}.{n % 250}")[1].status_code for n in range(count)]


def test_many_addresses_together_are_slowed_and_the_owners_is_not(empty_site):
    empty_site.person("ada", superuser=True)
    empty_site.person("ben", superuser=True)
    assert sign("ada", PASSWORD, address=HOME)[1].status_code == 302
    answers = guess_everywhere(FREE_EVERYWHERE + 5)
    assert answers == [200] * (FREE_EVERYWHERE - 1) + [429] * 6, "the last five were not checked"
    assert sign("ada", PASSWORD, address="203.0.113.1")[1].status_code == 429, "an address that it never used waits"
    assert sign("ada", PASSWORD, address=HOME)[1].status_code == 302, "the owner's does not"
    assert sign("ben", PASSWORD, address="203.0.113.1")[1].status_code == 302


def test_the_wait_of_all_addresses_is_bounded(empty_site):
    empty_site.person("ada", superuser=True)
    AccessAttempt.objects.create(username="ada", ip_address="198.51.0.1", failures_since_start=10**6)
    answer = sign("ada", PASSWORD, address=HOME)[1]
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "300")
    later(301)
    assert sign("ada", PASSWORD, address=HOME)[1].status_code == 302


def test_an_address_of_the_account_is_judged_by_its_own_count(empty_site):
    empty_site.person("ada", superuser=True)
    assert sign("ada", PASSWORD, address=HOME)[1].status_code == 302
    for _ in range(FREE):
        sign("ada", "wrong", address=HOME)
    assert sign("ada", PASSWORD, address=HOME)[1].status_code == 429
    assert sign("ada", PASSWORD, address="203.0.113.1")[1].status_code == 302


def test_known_addresses_are_kept_once_and_forgotten(empty_site):
    empty_site.person("ada", superuser=True)
    for _ in range(2):
        sign("ada", PASSWORD, address=HOME)
    assert AccessLog.objects.count() == 1
    AccessLog.objects.update(attempt_time=AccessLog.objects.get().attempt_time - login_throttling.KNOWN)
    sign("ada", PASSWORD, address="203.0.113.1")
    assert [*AccessLog.objects.values_list("ip_address", flat=True)] == ["203.0.113.1"]


def test_of_parallel_guesses_no_more_are_checked_than_of_others(empty_site, monkeypatch: pytest.MonkeyPatch):
    empty_site.person("ada", superuser=True)
    checked: list[str] = []
    check = ModelBackend.authenticate

    def counted(self, request, username=None, password=None, **others):
        checked.append(password)
        return check(self, request, username=username, password=password, **others)

    monkeypatch.setattr(ModelBackend, "authenticate", counted)
    together = Barrier(FREE * 2)

    def guess(number: int) -> int:
        try:
            client = Client()
            together.wait(30)
            return sign("ada", f"guess-{number}", address=HOME, client=client)[1].status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(FREE * 2) as pool:
        answers = [*pool.map(guess, range(FREE * 2))]
    assert len(checked) == FREE, checked
    assert answers.count(429) >= FREE
