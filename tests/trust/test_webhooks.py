"""Webhooks as a way into the internal network: by address, by name, by redirect, and by what they answer."""

from __future__ import annotations

import socket

import pytest
from django.test import Client, override_settings
from django.urls import reverse

from backups.alerts import http, services
from backups.engine.errors import UsageError
from backups.models import AlertChannel
from tests.control.test_alerts_delivery import channel, web

__all__ = ["web"]

INTERNAL = {
    "loopback": "127.0.0.1",
    "other loopback": "127.8.8.8",
    "IPv6 loopback": "[::1]",
    "mapped": "[::ffff:127.0.0.1]",
    "6to4": "[2002:7f00:1::]",
    "NAT64": "[64:ff9b::7f00:1]",
    "class A": "10.0.0.5",
    "class B": "172.16.0.5",
    "class C": "192.168.0.5",
    "carrier": "100.64.0.5",
    "unique local": "[fd12::5]",
    "site local": "[fec0::5]",
    "benchmark": "198.18.0.5",
}


@pytest.mark.parametrize("address", INTERNAL.values(), ids=INTERNAL)
def test_internal_addresses_are_refused_unless_listed(address: str) -> None:
    with pytest.raises(http.Refused, match="ALERT_HOSTS"):
        http.check(f"http://{address}/hook")


def test_an_internal_address_behind_a_name_is_not_called(empty_site, web) -> None:
    ops = channel(empty_site, "slack", f"http://localhost:{web.port}/hook")
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": []}):
        answer = services.send_test(empty_site.actor, ops)
        assert not answer.ok and "does not list it" in answer.text
        with pytest.raises(UsageError, match="does not list it"):
            channel(empty_site, "slack", web.url(), name="other")
    assert not web.requests
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": ["localhost"]}):
        assert services.send_test(empty_site.actor, ops).ok


def test_a_name_that_changes_its_address_is_called_at_the_checked_one(empty_site, web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer of the DNS is public, each later one is this machine."""
    asked: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        asked.append(host)
        address = "192.0.2.1" if len(asked) > 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    ops = channel(empty_site, "slack", f"http://changes.example.org:{web.port}/hook")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert services.send_test(empty_site.actor, ops).ok, "the address that was checked is called"
    assert asked == ["changes.example.org"], "and the name is resolved once"


def test_a_name_with_one_internal_address_is_not_called_at_all(empty_site, web, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, web.port)) for address in ("1.1.1.1", "127.0.0.1")]
    ops = channel(empty_site, "slack", f"http://both.example.org:{web.port}/hook")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": []}):
        assert "does not list it" in services.send_test(empty_site.actor, ops).text
    assert not web.requests


def test_the_answer_is_shown_only_to_those_who_may_change_channels(empty_site, web) -> None:
    web.status, web.answer = 404, b"internal-page-content"
    ops = channel(empty_site, "slack", web.url())
    services.send_test(empty_site.actor, ops)
    assert "internal-page-content" in AlertChannel.objects.get().tested_answer
    pages = (reverse("backups:alerts"), ops.get_absolute_url())

    def seen_by(client: Client) -> list[bool]:
        return [b"internal-page-content" in client.get(page).content for page in pages]

    assert seen_by(empty_site.client("root", superuser=True)) == [True, True]
    assert seen_by(empty_site.client("viewer", "viewer")) == [False, False]
