"""``Idempotency-Key``: a request that is sent twice is done once, and answered twice with the same.

1. The key is noted, in a transaction of its own: who sends it too meanwhile is told to wait (409).
2. What is asked for is done in one transaction with noting the answer: a crash leaves both or neither.
3. A key that was noted longer ago than `GIVEN_UP` without an answer is taken over: its request went down with the server.

What was refused is not noted, and may be sent again with the same key. Kept for a day (`housekeeping.tidy`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponseBase
from django.utils import timezone
from django.utils.crypto import salted_hmac
from rest_framework.request import Request
from rest_framework.response import Response

from backups.conf import configuration
from backups.models import IdempotencyKey

from .problems import Refused
from .throttling import caller

LONGEST_KEY = 200
GIVEN_UP = timedelta(seconds=60)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEPT_HEADERS = ("Location",)
SECRETS = ("secret",)
"""Members of an answer that are told once and never kept."""


def answered(request: Request, do: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    """The answer of *do*, or the one that the same request got before. Raises `Refused`: 400, 409 or 422."""
    key = request.headers.get(HEADER)
    if key is None:
        return do()
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise Refused(400, "idempotency_key", f"{HEADER} must have 1 to {LONGEST_KEY} printable characters. Nothing was done.")
    row, mine = _note(caller(request)[:80], key, _fingerprint(request))
    return _do(row, do) if mine else _again(row)


def _note(owner: str, key: str, fingerprint: str) -> tuple[IdempotencyKey, bool]:
    """The row of a key, and whether it is for this request to be done."""
    now = timezone.now()
    try:
        with transaction.atomic(using=configuration().database):
            return IdempotencyKey.objects.create(owner=owner, key=key, fingerprint=fingerprint, created=now), True
    except IntegrityError:
        row = IdempotencyKey.objects.filter(owner=owner, key=key).first()
    if row is None:
        raise _in_flight()  # it was refused just now
    if row.fingerprint != fingerprint:
        raise Refused(
            422,
            "idempotency_key_used",
            f"This {HEADER} came with another request before. Nothing was done.",
            "Use a new key for each thing that you want done.",
        )
    if row.status is None and row.created < now - GIVEN_UP:
        taken = IdempotencyKey.objects.filter(pk=row.pk, status=None, created=row.created).update(created=now)
        if taken:
            row.created = now
            return row, True
    return row, False


def _do(row: IdempotencyKey, do: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    mine = IdempotencyKey.objects.filter(pk=row.pk, status=None, created=row.created)
    try:
        with transaction.atomic(using=configuration().database):
            response = do()
            assert isinstance(response, Response)
            headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
            if not mine.update(status=response.status_code, body=_without_secrets(response.data), headers=headers):
                raise _in_flight()  # it took so long that another took over: what was done here is undone
    except BaseException:
        mine.delete()
        raise
    return response


def _again(row: IdempotencyKey) -> Response:
    if row.status is None:
        raise _in_flight()
    return Response(row.body, status=row.status, headers={**row.headers, REPLAYED: "true"})


def _in_flight() -> Refused:
    return Refused(
        409,
        "idempotency_key_in_use",
        f"A request with this {HEADER} is being answered. Nothing more was done.",
        "Send it again shortly: it gets the same answer.",
        headers={"Retry-After": "1"},
    )


def _fingerprint(request: Request) -> str:
    """Of who, what and where to. Keyed, because a body may hold a password."""
    parts = (str(request.method), request.get_full_path(), request.user.get_username())
    text = b"\0".join([*(part.encode("utf-8", "surrogatepass") for part in parts), request._request.body])
    return salted_hmac("backups.api.idempotency", text, algorithm="sha256").hexdigest()


def _without_secrets(data: Any) -> Any:
    return {name: None if name in SECRETS else value for name, value in data.items()} if isinstance(data, dict) else data
