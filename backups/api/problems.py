"""Every error as ``application/problem+json`` (RFC 9457): what happened, what was left untouched, and what to do.

``code`` is stable and for programs, as on the command line; ``type`` is the same as a URI. Further members depend on the code.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404, JsonResponse, UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response

from backups.engine.errors import EngineError

MEDIA_TYPE = "application/problem+json"

STATUS: dict[str, int] = {
    "usage": 400,
    "no_backup": 404,
    "target_occupied": 409,
    "in_use": 409,
    "repository_locked": 409,
    "source_busy": 409,
    "restore_refused": 409,
    "cancelled": 409,
    "no_repository": 503,
    "source_broken": 503,
    "no_space": 507,
}
"""HTTP status of an `EngineError` by its code. All others are 500: something here is broken; the request was not at fault."""

RETRY_AFTER = {"repository_locked": 10, "source_busy": 10, "database": 5}
"""Seconds after which it may be otherwise."""

_TITLES = {
    400: "The request is wrong",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Not a method of this address",
    406: "No such representation",
    409: "Not possible now",
    411: "Length missing",
    412: "A precondition does not hold",
    413: "Too large",
    415: "Not a media type that is read here",
    416: "No such part",
    422: "The key was used for another request",
    429: "Too many requests",
    500: "An error on this server",
    503: "Not available",
    507: "No space left",
}
CODES = {
    400: "invalid",
    401: "not_signed_in",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    412: "precondition",
    413: "too_large",
    415: "media_type",
    416: "range",
    429: "too_many_requests",
}
HINTS = {
    401: "Send `Authorization: Bearer TOKEN`, with a token from the page Tokens or from `manage.py create_token`; or sign in.",
    404: "The addresses are in the description at /api/v1/schema.",
    405: "The header Allow names the methods there are.",
    406: "Ask for application/json.",
    415: "Send JSON, with Content-Type: application/json.",
    429: "Wait as many seconds as the header Retry-After says.",
}
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code", "hint"})

_log = logging.getLogger(__name__)


class Refused(exceptions.APIException):
    """An error of the API's own: status, code, what happened, what to do, and further members."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        hint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, code)
        self.status_code = status
        self.code = code
        self.hint = hint
        self.headers = dict(headers or {})
        self.more = more or {}


def body(status: int, code: str, detail: str, hint: str = "", more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a problem."""
    kept = {name: value for name, value in (more or {}).items() if name not in _RESERVED}
    return {
        "type": f"urn:refserver-backups:problem:{code}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        **kept,
    }


def plain(status: int, code: str, detail: str, hint: str = "") -> JsonResponse:
    """A problem outside of the REST framework."""
    return JsonResponse(body(status, code, detail, hint), status=status, content_type=MEDIA_TYPE)


def answer(problem: Exception, context: Mapping[str, Any]) -> Response:
    """The REST framework's ``EXCEPTION_HANDLER``: whatever a view raised, as a problem. What nobody foresaw is logged."""
    told = _told(problem)
    if told is None:
        request = getattr(context.get("request"), "_request", None)
        _log.error("A request to the API failed: %s", getattr(request, "path", "?"), exc_info=problem)
        got_request_exception.send(sender=type(context.get("view")), request=request)
        told = Refused(500, "failed", "Something failed that was not foreseen.", "The server's log says what it was.")
    headers = dict(told.headers)
    wait = RETRY_AFTER.get(told.code)
    if wait is not None:
        headers.setdefault("Retry-After", str(wait))
    data = body(told.status_code, told.code, str(told.detail), told.hint, told.more)
    return Response(data, status=told.status_code, headers=headers, content_type=MEDIA_TYPE)


def of_engine(problem: EngineError) -> Refused:
    """The engine's error with its code, hint and details."""
    status = STATUS.get(problem.code, 500)
    return Refused(status, problem.code, problem.message, problem.hint, more=problem.details)


def _told(problem: Exception) -> Refused | None:
    if isinstance(problem, Refused):
        return problem
    if isinstance(problem, EngineError):
        found = of_engine(problem)
        if found.status_code >= 500:
            _log.error("A request to the API met an error: %s %s", problem.message, problem.hint)
        return found
    if isinstance(problem, exceptions.APIException):
        return _framework(problem)
    if isinstance(problem, Http404):
        return Refused(404, "not_found", str(problem) or "There is nothing at this address.", HINTS[404])
    if isinstance(problem, DjangoDenied):
        return Refused(403, "not_allowed", str(problem) or "This account may not do that.")
    if isinstance(problem, RequestDataTooBig):
        return Refused(413, "too_large", "The body of the request is too large. Nothing was done.")
    if isinstance(problem, UnreadablePostError | SuspiciousOperation):
        return Refused(400, "invalid", "The request could not be read. Nothing was done.")
    if isinstance(problem, OperationalError):
        _log.error("The database did not answer", exc_info=problem)
        return Refused(503, "database", "The database does not answer. Nothing was changed.", "Try again shortly.")
    return None


def _framework(problem: exceptions.APIException) -> Refused:
    status = problem.status_code
    headers = {}
    if (scheme := getattr(problem, "auth_header", None)) is not None:
        headers["WWW-Authenticate"] = scheme
    if (wait := getattr(problem, "wait", None)) is not None:
        headers["Retry-After"] = str(max(1, int(wait)))
    return Refused(status, CODES.get(status, "failed"), _flat(problem.detail), HINTS.get(status, ""), headers=headers)


def _flat(detail: Any) -> str:
    if isinstance(detail, dict):
        return " ".join(f"{name}: {_flat(value)}" for name, value in detail.items())
    if isinstance(detail, list):
        return " ".join(_flat(value) for value in detail)
    return str(detail)
