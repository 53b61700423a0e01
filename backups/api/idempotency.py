"""``Idempotency-Key``: a repeated request is executed once, and gets the same response again.

1. The key is recorded in a transaction of its own. A repetition meanwhile gets 409.
2. The request is executed in the same transaction that records its response: a crash leaves both or neither.
3. A key older than `ABANDONED_AFTER` without a response is taken over: the server stopped during its request.

The key of a refused request is deleted: the corrected request may use it. Keys are kept for a day.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponseBase
from django.utils.crypto import salted_hmac
from rest_framework.request import Request
from rest_framework.response import Response

from backups import moments
from backups.conf import configuration
from backups.models import IdempotencyKey

from .problems import Refused
from .throttling import caller

LONGEST_KEY = 200
ABANDONED_AFTER = timedelta(seconds=60)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
SECRETS = ("secret",)
"""Members of a response that are sent once and not stored."""
_STORED_HEADERS = ("Location",)


def run_once(request: Request, respond: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    """The response of *respond*, or the stored one of the same request. Raises `Refused`: 400, 409 or 422."""
    key = request.headers.get(HEADER)
    if key is None:
        return respond()
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise Refused(400, "idempotency_key", f"{HEADER} must have 1 to {LONGEST_KEY} printable characters. Nothing was done.")
    row, execute = _record(caller(request)[:80], key, _fingerprint(request))
    if execute:
        return _execute(row, respond)
    if row.status is None:
        raise _in_use()
    return Response(row.body, status=row.status, headers={**row.headers, REPLAYED: "true"})


def _record(owner: str, key: str, fingerprint: str) -> tuple[IdempotencyKey, bool]:
    """The row of a key, and whether this request is to be executed."""
    now = moments.now()
    try:
        with transaction.atomic(using=configuration().database):
            return IdempotencyKey.objects.create(owner=owner, key=key, fingerprint=fingerprint, created=now), True
    except IntegrityError:
        row = IdempotencyKey.objects.filter(owner=owner, key=key).first()
    if row is None:
        raise _in_use()  # the other request was refused a moment ago, and its key deleted
    if row.fingerprint != fingerprint:
        raise Refused(
            422,
            "idempotency_key_used",
            f"This {HEADER} was used for another request. Nothing was done.",
            "Use a new key for each request.",
        )
    if row.status is None and row.created < now - ABANDONED_AFTER:
        taken_over = IdempotencyKey.objects.filter(pk=row.pk, status=None, created=row.created).update(created=now)
        if taken_over:
            row.created = now
            return row, True
    return row, False


def _execute(row: IdempotencyKey, respond: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    own = IdempotencyKey.objects.filter(pk=row.pk, status=None, created=row.created)
    try:
        with transaction.atomic(using=configuration().database):
            response = respond()
            assert isinstance(response, Response)
            headers = {name: response.headers[name] for name in _STORED_HEADERS if name in response.headers}
            body: Any = response.data
            if isinstance(body, dict):
                body = {name: None if name in SECRETS else value for name, value in body.items()}
            if not own.update(status=response.status_code, body=body, headers=headers):
                raise _in_use()  # another request took the key over: roll back this one
    except BaseException:
        own.delete()
        raise
    return response


def _in_use() -> Refused:
    return Refused(
        409,
        "idempotency_key_in_use",
        f"Another request with this {HEADER} is in progress. Nothing was done.",
        "Repeat the request shortly to get the same response.",
        headers={"Retry-After": "1"},
    )


def _fingerprint(request: Request) -> str:
    """An HMAC of account, method, address and body. It has a key because a body may contain a password."""
    parts = (str(request.method), request.get_full_path(), request.user.get_username())
    text = b"\0".join([*(part.encode("utf-8", "surrogatepass") for part in parts), request._request.body])
    return salted_hmac("backups.api.idempotency", text, algorithm="sha256").hexdigest()
