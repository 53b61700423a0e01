"""What a stolen copy of the control database gives away, and how long a session without use lasts."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.test import Client

from backups.identity import sessions

PAGE = "/admin/backup/"


def test_the_table_of_sessions_signs_nobody_in(empty_site):
    mine = empty_site.client("ada", superuser=True)
    key = mine.cookies[settings.SESSION_COOKIE_NAME].value
    assert mine.get(PAGE).status_code == 200
    (row,) = Session.objects.all()
    assert row.session_key == sessions.stored_key(key) and key not in row.session_data
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = row.session_key
    assert thief.get(PAGE).status_code == 302
    assert mine.get(PAGE).status_code == 200
    mine.post("/admin/logout/")
    assert not Session.objects.exists() and mine.get(PAGE).status_code == 302


def test_a_session_of_another_engine_is_over(empty_site):
    ada = empty_site.person("ada", superuser=True)
    plain = sessions.db.SessionStore()
    plain.update({"_auth_user_id": str(ada.pk), "_auth_user_backend": settings.AUTHENTICATION_BACKENDS[-1]})
    plain["_auth_user_hash"] = ada.get_session_auth_hash()
    plain.save()
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = str(plain.session_key)
    assert client.get(PAGE).status_code == 302


def test_a_key_that_the_client_chose_is_not_used(empty_site):
    empty_site.person("ada", superuser=True)
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "a" * 32
    client.force_login(get_user_model().objects.get(username="ada"), settings.AUTHENTICATION_BACKENDS[-1])
    assert client.cookies[settings.SESSION_COOKIE_NAME].value != "a" * 32
    assert client.get(PAGE).status_code == 200


def test_a_session_ends_when_it_is_not_used(empty_site, monkeypatch, settings):
    client = empty_site.client("ada", superuser=True)
    assert client.get(PAGE).status_code == 200
    now = sessions.timezone.now()

    def later(hours: float) -> None:
        monkeypatch.setattr(sessions.timezone, "now", lambda: now + timedelta(hours=hours))

    later(11)
    assert client.get(PAGE).status_code == 200, "it was used again"
    for hours in (17, 22):
        later(hours)
        assert client.get(PAGE, headers={"HX-Request": "true"}).status_code == 200, "a page reloads itself"
    later(23.5)
    assert client.get(PAGE).status_code == 302 and not Session.objects.filter(session_data__contains="ada").exists()
    assert not Session.objects.exists()
    client = empty_site.client("bea", superuser=True)
    settings.BACKUPS_SESSION_IDLE_HOURS = 0
    assert client.get(PAGE).status_code == 200
    later(200)
    assert client.get(PAGE).status_code == 200
