"""Tokens: issued with an expiry, shown once, listed and revoked by those with the permission."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from backups.admin.tokens import EXPLAINED
from backups.identity import permissions, tokens
from backups.models import ApiToken, AuditEntry

TOKENS = "/admin/backup/tokens/"


def make(client, **values):
    return client.post(TOKENS, {"name": "ci", "scopes": ["read", "backup"], "days": "90", **values})


def test_token_expires_and_its_secret_is_shown_once(empty_site):
    client = empty_site.client("olga", "operator")
    answer = make(client)
    secret = answer.context["issued"].secret
    assert answer.content.decode().count(secret) == 1
    assert "no-store" in answer.headers["Cache-Control"]
    assert secret not in client.get(TOKENS).content.decode()
    token = ApiToken.objects.get()
    assert abs(token.expires - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert token.digest == tokens.digest(secret) and secret not in str(ApiToken.objects.values())
    entry = AuditEntry.objects.get(action="token.issued")
    assert entry.who == "olga" and entry.after["scopes"] == ["backup", "read"] and secret not in str(entry.after)
    assert tokens.owner_of(secret, "192.0.2.1")[1] == token
    assert "192.0.2.1" in client.get(TOKENS).content.decode()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"name": ""}, "required"),
        ({"scopes": []}, "Select at least one scope"),
        ({"scopes": ["everything"]}, "not one of the available choices"),
        ({"days": "0"}, "confirm below"),
        ({"days": "9999"}, "not one of the available choices"),
    ],
)
def test_invalid_form_makes_no_token(empty_site, values, complaint):
    answer = make(empty_site.client("olga", "operator"), **values)
    assert answer.status_code == 400 and complaint in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_token_without_expiry_needs_confirmation(empty_site):
    client = empty_site.client("olga", "operator")
    make(client, days="0", forever="on")
    assert ApiToken.objects.get().expires is None
    assert "1 never expires" in client.get(TOKENS).content.decode().replace(",", "")


def test_scope_without_effect_is_marked(empty_site):
    page = empty_site.client("olga", "operator").get(TOKENS).content.decode()
    assert 'value="restore" disabled' in page and 'value="backup" disabled' not in page
    assert set(EXPLAINED) == set(permissions.SCOPES)


def test_tokens_of_others_need_permissions_to_see_and_revoke(empty_site):
    olga, ben = empty_site.client("olga", "operator"), empty_site.client("ben", "operator")
    make(olga, name="of-olga")
    make(ben, name="of-ben")
    assert "of-ben" not in olga.get(TOKENS).content.decode()
    of_ben = ApiToken.objects.get(name="of-ben")
    revoke = f"{TOKENS}{of_ben.pk}/revoke/"
    assert olga.post(revoke).status_code == 404
    assert ben.get(revoke).status_code == 405
    assert ben.post(revoke, follow=True).context["rows"][0][0].revoked
    root = empty_site.client("root", superuser=True)
    assert "of-olga" in root.get(TOKENS).content.decode()
    root.post(f"{TOKENS}{ApiToken.objects.get(name='of-olga').pk}/revoke/")
    assert not ApiToken.objects.filter(revoked=None).exists()
    assert [entry.who for entry in AuditEntry.objects.filter(action="token.revoked").order_by("number")] == ["ben", "root"]


def test_new_account_with_the_same_key_does_not_own_the_token(empty_site):
    client = empty_site.client("olga", "operator")
    secret = make(client).context["issued"].secret
    ApiToken.objects.update(username="somebody-before")
    assert "ci" not in [row[0].name for row in client.get(TOKENS).context["rows"]]
    assert tokens.owner_of(secret, "") is None


def test_viewer_cannot_open_the_page(empty_site):
    assert empty_site.client("vera", "viewer").get(TOKENS).status_code == 403
