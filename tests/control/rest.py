"""Send requests to the REST interface and check the responses."""

from __future__ import annotations

import json
from typing import Any

from django.core.cache import cache
from django.test import Client

from backups.identity import permissions, tokens
from tests.control.conftest import Site

EVERY_SCOPE = tuple(permissions.SCOPES)
BACKUPS = "/api/v1/backups"
JOBS = "/api/v1/jobs"


def bearer(site: Site, name: str, *groups: str, scopes: tuple[str, ...] = EVERY_SCOPE, superuser: bool = False) -> Client:
    """A client with a token of the new account *name*. Resets the rates."""
    cache.clear()
    return with_token(tokens.issue(site.person(name, *groups, superuser=superuser), f"{name}'s", scopes, None).secret)


def with_token(secret: str) -> Client:
    """A client that sends *secret*."""
    return Client(headers={"Authorization": f"Bearer {secret}"})


def json_of(response: Any, status: int) -> Any:
    """The JSON of a response, whose status must be *status*."""
    assert response.status_code == status, response.content
    if status == 204:
        assert response.content == b""
        return None
    wanted = "application/problem+json" if status >= 400 else "application/json"
    assert response.headers["Content-Type"] == wanted
    return response.json()


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem of a response, whose status and code must be these."""
    found = json_of(response, status)
    assert (found["code"], found["status"], found["type"]) == (code, status, f"urn:refserver-backups:problem:{code}")
    assert found["title"] and found["detail"]
    return found


def send(client: Client, path: str, body: Any = None, method: str = "POST", **headers: str) -> Any:
    """Send *body* as JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    return client.generic(method, path, content, content_type="application/json", headers=named)
