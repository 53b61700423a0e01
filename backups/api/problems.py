"""Every error as ``application/problem+json`` (RFC 9457).

``code`` is stable, and the same as on the command line; ``type`` is the same as a URI. Further members depend on the code.
"""

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404, JsonResponse, UnreadablePostError
from django.urls import NoReverseMatch, reverse
from rest_framework import exceptions
from rest_framework.response import Response

from backups.engine.errors import HTTP_STATUS, EngineError

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER = {"repository_locked": 10, "source_busy": 10, "database": 5}
"""Seconds after which a repetition may succeed, by code."""

_TITLES = {
    400: "Invalid request",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Not possible now",
    411: "Content-Length required",
    412: "Precondition failed",
    413: "Too large",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Idempotency-Key already used",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service not available",
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
    401: "Send `Authorization: Bearer TOKEN` with a token from the page Tokens or `manage.py backup_token`, or sign in.",
    405: "The header Allow lists the supported methods.",
    406: "Accept application/json.",
    415: "Send JSON, with Content-Type: application/json.",
    429: "Wait for the number of seconds in the header Retry-After.",
}
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code", "hint"})

_log = logging.getLogger(__name__)


class Refused(exceptions.APIException):
    """An error with its HTTP status, code, detail and hint; *more* are further members of the problem."""

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


def unknown(what: str, name: object, listed: str, *, code: str = "not_found") -> Refused:
    """404: there is no *what* with this name. *listed* is the address that lists them, below that of the interface."""
    return Refused(404, code, f"There is no {what} {name}.", f"GET {top()}{listed} lists them.")


def hint_of(status: int) -> str:
    """What to do about an error that has no hint of its own."""
    return f"See {top()}schema for the addresses." if status == 404 else HINTS.get(status, "")


def top() -> str:
    """The address of the interface; empty where the project has it under a namespace of its own."""
    try:
        return reverse("backups-api:schema").removesuffix("schema")
    except NoReverseMatch:
        return ""


def body(status: int, code: str, detail: str, hint: str = "", more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a problem. Members of *more* never replace the standard ones."""
    standard = {
        "type": f"urn:refserver-backups:problem:{code}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
    }
    return standard | {name: value for name, value in (more or {}).items() if name not in _RESERVED}


def plain(status: int, code: str, detail: str, hint: str = "") -> JsonResponse:
    """A problem as a plain Django response."""
    return JsonResponse(body(status, code, detail, hint), status=status, content_type=MEDIA_TYPE)


def answer(problem: Exception, context: Mapping[str, Any]) -> Response:
    """The REST framework's ``EXCEPTION_HANDLER``: any exception as a problem. Unexpected exceptions are logged."""
    refused = _refused(problem)
    if refused is None:
        request = getattr(context.get("request"), "_request", None)
        _log.error("API request failed: %s", getattr(request, "path", "?"), exc_info=problem)
        got_request_exception.send(sender=type(context.get("view")), request=request)
        refused = Refused(500, "failed", "An unexpected error occurred.", "See the server's log.")
    headers = dict(refused.headers)
    wait = RETRY_AFTER.get(refused.code)
    if wait is not None:
        headers.setdefault("Retry-After", str(wait))
    data = body(refused.status_code, refused.code, str(refused.detail), refused.hint, refused.more)
    return Response(data, status=refused.status_code, headers=headers, content_type=MEDIA_TYPE)


def _refused(problem: Exception) -> Refused | None:
    """The exception as `Refused`; None for an unexpected one."""
    if isinstance(problem, Refused):
        return problem
    if isinstance(problem, EngineError):
        status = HTTP_STATUS.get(problem.code, 500)
        if status >= 500:
            _log.error("API request failed: %s %s", problem.message, problem.hint)
        return Refused(status, problem.code, problem.message, problem.hint, more=problem.details)
    if isinstance(problem, exceptions.APIException):
        return _from_framework(problem)
    if isinstance(problem, Http404):
        return Refused(404, "not_found", str(problem) or "Nothing exists at this address.", hint_of(404))
    if isinstance(problem, DjangoDenied):
        return Refused(403, "not_allowed", str(problem) or "The account lacks the permission.")
    if isinstance(problem, RequestDataTooBig):
        return Refused(413, "too_large", "The request body is too large. Nothing was done.")
    if isinstance(problem, UnreadablePostError | SuspiciousOperation):
        return Refused(400, "invalid", "The request could not be read. Nothing was done.")
    if isinstance(problem, OperationalError):
        _log.error("The database is not available", exc_info=problem)
        return Refused(503, "database", "The database is not available. Nothing was changed.", "Try again shortly.")
    return None


def _from_framework(problem: exceptions.APIException) -> Refused:
    status = problem.status_code
    headers = {}
    if (scheme := getattr(problem, "auth_header", None)) is not None:
        headers["WWW-Authenticate"] = scheme
    if (wait := getattr(problem, "wait", None)) is not None:
        headers["Retry-After"] = str(max(1, int(wait)))
    return Refused(status, CODES.get(status, "failed"), _as_text(problem.detail), hint_of(status), headers=headers)


def _as_text(detail: Any) -> str:
    if isinstance(detail, dict):
        return " ".join(f"{name}: {_as_text(value)}" for name, value in detail.items())
    if isinstance(detail, list):
        return " ".join(map(_as_text, detail))
    return str(detail)
