"""Tokens over REST and on the command line."""

from __future__ import annotations

import io
import json
import shlex
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from backups.identity import tokens
from backups.models import ApiToken, AuditEntry
from tests.control.rest import BACKUPS, bearer, json_of, problem, send, with_token
from tests.docs.pages import ROOT, blocks

TOKENS = "/api/v1/tokens"


def test_token_life_cycle(empty_site):
    person = empty_site.client("ada", "operator")
    made = send(person, TOKENS, {"name": "ci", "scopes": ["read", "backup"], "days": 30})
    issued = json_of(made, 201)
    assert issued["secret"].startswith("rsb_") and issued["hint"] == issued["secret"][:8]
    assert made.headers["Location"] == f"{TOKENS}/{issued['id']}"
    assert ApiToken.objects.get().digest == tokens.digest(issued["secret"])
    program = with_token(issued["secret"])
    json_of(program.get(BACKUPS), 200)
    shown = json_of(person.get(f"{TOKENS}/{issued['id']}"), 200)
    assert "secret" not in shown and shown["used_from"] == "127.0.0.1" and shown["usable"]
    entry = AuditEntry.objects.get(action="token.issued")
    assert (entry.who, entry.after["scopes"]) == ("ada", ["backup", "read"]) and issued["secret"] not in json.dumps(entry.after)
    json_of(person.delete(f"{TOKENS}/{issued['id']}"), 204)
    refused = program.get(BACKUPS)
    problem(refused, 401, "bad_token")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="api", error="invalid_token"'
    json_of(person.delete(f"{TOKENS}/{issued['id']}"), 204)
    assert AuditEntry.objects.filter(action="token.revoked").count() == 1


def test_tokens_of_other_accounts_require_a_permission(empty_site):
    ada, bob = empty_site.client("ada", "operator"), empty_site.client("bob", "operator")
    mine = json_of(send(ada, TOKENS, {"name": "a", "scopes": ["read"]}), 201)
    json_of(send(bob, TOKENS, {"name": "b", "scopes": ["read"]}), 201)
    assert [one["name"] for one in json_of(ada.get(TOKENS), 200)["items"]] == ["a"]
    problem(ada.get(f"{TOKENS}?everybody=true"), 403, "not_allowed")
    problem(bob.get(f"{TOKENS}/{mine['id']}"), 404, "not_found")
    problem(bob.delete(f"{TOKENS}/{mine['id']}"), 404, "not_found")
    root = empty_site.client("root", superuser=True)
    assert [one["name"] for one in json_of(root.get(f"{TOKENS}?everybody=true"), 200)["items"]] == ["b", "a"]
    json_of(root.delete(f"{TOKENS}/{mine['id']}"), 204)
    assert [one["name"] for one in json_of(root.get(f"{TOKENS}?everybody=true&usable=true"), 200)["items"]] == ["b"]
    assert [one["name"] for one in json_of(root.get(f"{TOKENS}?everybody=true&usable=false"), 200)["items"]] == ["a"]


def test_token_cannot_create_a_token_with_more_scopes(empty_site):
    program = bearer(empty_site, "ada", "operator", scopes=("tokens", "read"))
    assert problem(send(program, TOKENS, {"name": "x", "scopes": ["read", "backup"]}), 403, "scope")["scopes"] == ["backup"]
    json_of(send(program, TOKENS, {"name": "x", "scopes": ["read"]}), 201)


def test_tokens_of_a_changed_account_are_invalid(empty_site):
    program = bearer(empty_site, "ada", "operator")
    json_of(program.get(BACKUPS), 200)
    user = ApiToken.objects.get().username
    from django.contrib.auth import get_user_model

    get_user_model().objects.filter(username=user).update(username="eve")  # as a restore that reuses the id does
    problem(program.get(BACKUPS), 401, "bad_token")
    get_user_model().objects.filter(username="eve").update(username="ada", is_active=False)
    problem(program.get(BACKUPS), 401, "bad_token")
    get_user_model().objects.filter(username="ada").update(is_active=True)
    ApiToken.objects.update(expires=timezone.now() - timedelta(seconds=1))
    problem(program.get(BACKUPS), 401, "bad_token")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "scopes": ["read"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": ["read"], "days": 0},
        {"name": "x", "scopes": "read"},
    ],
)
def test_invalid_token_request_is_refused(empty_site, body):
    problem(send(empty_site.client("ada", "operator"), TOKENS, body), 400, "invalid")
    assert not ApiToken.objects.exists()


def test_documented_commands_make_an_account_and_its_token(empty_site):
    """No password is ever right for the account, and its groups cover the scopes."""
    made, token = (block.text for block in blocks(ROOT / "docs/how-to/use-the-api.md") if "manage.py" in block.text)
    call_command(*shlex.split(made)[2:])
    robot = User.objects.get(username="robot")
    assert not robot.has_usable_password()
    out, err = io.StringIO(), io.StringIO()
    call_command(*shlex.split(token.split("$(")[1].rpartition(")")[0])[2:], stdout=out, stderr=err)
    assert "no permission" not in err.getvalue() and out.getvalue().startswith("rsb_")


def test_command_prints_the_secret_once(empty_site):
    empty_site.person("robot", "operator")
    out, err = io.StringIO(), io.StringIO()
    call_command("backup_token", "robot", "--scope", "read", "--scope", "restore", stdout=out, stderr=err)
    secret = out.getvalue().strip()
    json_of(with_token(secret).get(BACKUPS), 200)
    assert "not shown again" in err.getvalue() and "restore. Add it to a group" in err.getvalue()
    out = io.StringIO()
    call_command("backup_token", "robot", "--scope", "read", "--no-expiry", "--json", stdout=out, stderr=err)
    json_of(with_token(json.loads(out.getvalue())["secret"]).get(BACKUPS), 200)
    assert ApiToken.objects.get(expires=None).name == "read"
    entry = AuditEntry.objects.filter(action="token.issued").first()
    assert (entry.who, entry.via, entry.after["account"]) == ("manage.py", "command", "robot")
    with pytest.raises(CommandError, match="--days must be from 1"):
        call_command("backup_token", "robot", "--scope", "read", "--days", "0")
    with pytest.raises(CommandError, match="no account 'nobody'"):
        call_command("backup_token", "nobody", "--scope", "read")
