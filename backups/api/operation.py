"""Declares what one method of a route needs and returns. Its checks and its OpenAPI description follow from the declaration::

    @Operation("backups.view_backup", query=BackupQuery, responses={200: Page[BackupSchema]})
    def list_backups(request: Request, *, query: BackupQuery) -> Page[BackupSchema]:
        \"""List backups, newest first.\"""

Imports no REST framework view: `permissions`, which the project's ``REST_FRAMEWORK`` setting names, depends on it.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from django.http import HttpResponseBase
from django.urls import reverse
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from backups.engine.errors import UsageError
from backups.identity import four_eyes, step_up
from backups.jobs.job_type import contains_nul

from . import idempotency
from .authentication import actor, token_of
from .problems import Refused

Handler = Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True)
class Operation:
    """A decorator for the function that handles a method of a route.

    The function gets the request, the parts of the address, and the validated ``query`` and ``body`` where declared. It returns
    a response, or the model (or None) to send with the first status of ``responses``.
    """

    permission: str = ""
    """Required of the account and of the token's scopes; empty: any signed-in account."""
    _: KW_ONLY
    name: str = ""
    """The ``operationId``; by default the name of the function."""
    needs: str = ""
    """Replaces the generated sentence about permissions in the description."""
    public: bool = False
    dangerous: step_up.Condition | None = None
    """For which requests a session must have been confirmed lately (403, ``step_up``); called with the handler's arguments."""
    second: four_eyes.Subject | None = None
    """Dangerous requests also take the approval of a second person, where the project requires that (403, ``approval``)."""
    query: type[BaseModel] | None = None
    body: Any = None
    responses: Mapping[int, Any] = field(default_factory=dict)
    """The model of each successful status, None for no body."""
    problems: tuple[int, ...] = ()
    """Error statuses that not every route may return."""
    idempotency_key: bool = False
    """Accepts an ``Idempotency-Key``."""
    headers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Response headers by status."""

    def __call__(self, function: Callable[..., Any]) -> Handler:
        """The handler of the method; the declaration is its attribute ``operation``."""
        declared = replace(self, name=self.name or function.__name__)
        body = TypeAdapter(declared.body) if declared.body is not None else None

        @functools.wraps(function)
        def handle(request: Request, **arguments: Any) -> HttpResponseBase:
            route = dict(arguments)
            if declared.query is not None:
                arguments["query"] = _read_query(request, declared.query)
            if body is not None:
                arguments["body"] = _read_body(request, body)

            if declared.dangerous is not None and declared.dangerous(request, **arguments):
                _require_confirmed(request)
                if declared.second is not None and four_eyes.is_required():
                    _require_approval(request, declared.second, route)

            def respond() -> HttpResponseBase:
                result = function(request, **arguments)
                return result if isinstance(result, HttpResponseBase) else reply(result, next(iter(declared.responses)))

            return idempotency.run_once(request, respond) if declared.idempotency_key else respond()

        handle.operation = declared  # type: ignore[attr-defined]
        return handle


def operation_of(view: object, method: str | None) -> Operation | None:
    """The operation that *view* declares for an HTTP method; None if it does not declare one."""
    name = (method or "").lower()
    return getattr(getattr(view, "get" if name == "head" else name, None), "operation", None)


def renamed(handler: Handler, name: str) -> Handler:
    """The same operation for a second address, which needs another ``operationId``."""

    @functools.wraps(handler)
    def handle(*args: Any, **kwargs: Any) -> HttpResponseBase:
        return handler(*args, **kwargs)

    handle.operation = replace(handle.operation, name=name)  # type: ignore[attr-defined]
    return handle


def reply(model: BaseModel | None, status: int = 200, *, location: str = "") -> Response:
    """A response with *model* as JSON; *location* is the header Location."""
    headers = {"Location": location} if location else {}
    return Response(None if model is None else model.model_dump(mode="json"), status=status, headers=headers)


def _require_confirmed(request: Request) -> None:
    if token_of(request) is None and not step_up.admit(request._request):
        given = step_up.method_for(request._request).value
        raise Refused(
            403,
            "step_up",
            "Some time has passed since this session was confirmed. Nothing was done.",
            f"Send your {given} as `{given}` to POST {reverse('backups-api:confirm_session')}, or confirm on the page "
            f"{reverse('backups:confirm')}; then repeat the request.",
            more={"by": given},
        )


APPROVAL, REASON = "Approval", "Approval-Reason"
"""Headers: the id of an approved request, which this one repeats; why a request that is not approved yet is needed."""


def _require_approval(request: Request, subject: four_eyes.Subject, route: Mapping[str, Any]) -> None:
    """Return for a request that was approved, and use the approval up. Raises `Refused`, and `EngineError`."""
    if route.get("backup_id") == "latest":  # another one by the time it is approved
        raise UsageError("An approval is for one backup. Nothing was done.", hint="Name it by its id instead of `latest`.")
    django_request = request._request
    content = (("body", django_request.body.decode("utf-8", "replace")),)
    sent = four_eyes.Sent(subject, str(request.method), django_request.get_full_path(), content, route)
    by = actor(request)
    if key := request.headers.get(APPROVAL, ""):
        four_eyes.admit(by, key, sent)
        return
    if reason := request.headers.get(REASON, ""):
        row = four_eyes.ask(by, sent, reason)
        hint = f"Once somebody else has approved it, repeat the request with the header {APPROVAL}: {row.pk}."
        raise Refused(
            403, "approval", "The request waits for a second person. Nothing was done.", hint, more={"id": str(row.pk)}
        )
    hint = f"Send it with the header {REASON}, which says why it is needed."
    raise Refused(403, "approval", "This takes the approval of a second person. Nothing was done.", hint)


# Reading query and body: every fault is a `Refused` with 4xx


def _read_query(request: Request, model: type[BaseModel]) -> BaseModel:
    """The query parameters as a *model*."""
    values: dict[str, Any] = {}
    for name in request.query_params:
        given = request.query_params.getlist(name)
        if any("\0" in value for value in given):
            raise _nul_character()
        values[name] = given[0] if len(given) == 1 else given
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        raise _invalid([{"parameter": ".".join(path), "detail": text} for path, text in _faults(problem)]) from None


def _read_body(request: Request, body: TypeAdapter[Any]) -> Any:
    """The body, validated as *body*; an empty one counts as ``{}``."""
    if request.headers.get("Transfer-Encoding") and not request.headers.get("Content-Length"):
        raise Refused(411, "length", "The request has a body without Content-Length. Nothing was done.", "Send Content-Length.")
    content = request._request.body.strip()
    if content and request.content_type.partition(";")[0].strip().lower() != JSONParser.media_type:
        raise UnsupportedMediaType(request.content_type or "")
    content = content or b"{}"
    try:
        # Pydantic's parser accepts NaN and Infinity where any value is allowed
        value = json.loads(content, parse_constant=_refuse_constant)
        if b"\\u0000" in content and contains_nul(value):
            raise _nul_character()
    except (ValueError, RecursionError) as problem:
        raise Refused(400, "json", f"The body is not valid JSON: {problem}. Nothing was done.") from None
    try:
        return body.validate_json(content, strict=True)
    except ValidationError as problem:
        tagged = body.core_schema["type"] == "tagged-union"  # the path then begins with the tag, which the body does not have
        faults = [
            {"pointer": "#" + "".join(f"/{part}" for part in path[tagged:]), "detail": text} for path, text in _faults(problem)
        ]
        raise _invalid(faults) from None


def _faults(problem: ValidationError) -> list[tuple[list[str], str]]:
    errors = problem.errors(include_url=False, include_input=False)
    return [([str(part) for part in error["loc"]], _sentence(error)) for error in errors]


def _sentence(error: ErrorDetails) -> str:
    """Pydantic's message, except for a body whose kind cannot be told."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_not_found":
        return f"The field {context['discriminator']} is missing, which says what kind of request this is"
    if error["type"] == "union_tag_invalid":
        return f"The field {context['discriminator']} must be one of {context['expected_tags']}"
    return error["msg"]


def _invalid(faults: list[dict[str, str]]) -> Refused:
    text = "; ".join(": ".join(fault.values()) for fault in faults[:5])
    return Refused(
        400, "invalid", f"{text}. Nothing was done.", "Correct the request and send it again.", more={"errors": faults}
    )


def _nul_character() -> Refused:
    """PostgreSQL stores NUL in neither text nor JSON, and no process argument can contain it."""
    return Refused(400, "invalid", "The request contains the character NUL. Nothing was done.", "Remove it.")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
