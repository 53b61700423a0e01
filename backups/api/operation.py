"""What a route declares about a method. Checks and the OpenAPI description both follow from it, so that they cannot disagree.

::

    class Backups(Resource):
        @operation("list_backups", "backups.view_backup", query=BackupQuery, answers={200: Page[BackupShape]})
        def get(self, request: Request, *, query: BackupQuery) -> Response:
            \"""List backups, newest first.\"""
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpResponseBase
from pydantic import BaseModel, TypeAdapter, ValidationError
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from . import idempotency, problems
from .authentication import AdminSession, Bearer
from .openapi import Describer
from .permissions import Permitted
from .problems import Refused
from .throttling import AnonymousRate, CallerRate, ChangesRate


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a route.

    ``permission`` is what the account, and one of the token's scopes, must have; empty for whoever is signed in, and
    ``depends`` says in words what more it takes. ``answers`` gives the shape of each good status, None where there is no body.
    ``problems`` are statuses beside those that every route may answer. ``once``: it makes something, and takes an
    ``Idempotency-Key``.
    """

    name: str
    permission: str = ""
    depends: str = ""
    public: bool = False
    query: type[BaseModel] | None = None
    body: Any = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    problems: frozenset[int] = frozenset()
    once: bool = False
    headers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def operation(
    name: str,
    permission: str = "",
    *,
    depends: str = "",
    public: bool = False,
    query: type[BaseModel] | None = None,
    body: Any = None,
    answers: Mapping[int, Any],
    problems: tuple[int, ...] = (),
    once: bool = False,
    headers: Mapping[int, tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., HttpResponseBase]], Callable[..., HttpResponseBase]]:
    """Declare a method; it is called with what was sent as ``query`` and ``body``, read and valid. See `Operation`."""
    declared = Operation(
        name=name,
        permission=permission,
        depends=depends,
        public=public,
        query=query,
        body=body,
        answers=answers,
        problems=frozenset(problems),
        once=once,
        headers=headers or {},
    )
    return lambda method: _declare(declared, method)


def _declare(declared: Operation, method: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    reader = TypeAdapter(declared.body) if declared.body is not None else None

    @functools.wraps(method)
    def called(view: Resource, request: Request, **path: Any) -> HttpResponseBase:
        given: dict[str, Any] = {}
        if declared.query is not None:
            given["query"] = _query(request, declared.query)
        if reader is not None:
            given["body"] = _body(request, reader)
        if not declared.once:
            return method(view, request, **path, **given)
        return idempotency.answered(request, lambda: method(view, request, **path, **given))

    called.operation = declared  # type: ignore[attr-defined]
    return called


class AnyAccept(BaseContentNegotiation):
    """For routes that have one representation, whatever is asked for."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The first."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """The first."""
        return renderers[0], renderers[0].media_type


class Resource(APIView):
    """A route: its methods are declared with `operation`."""

    http_method_names = ["get", "head", "post", "patch", "delete"]  # noqa: RUF012  # Django's own
    authentication_classes = (Bearer, AdminSession)
    permission_classes = (Permitted,)
    throttle_classes: Any = (AnonymousRate, CallerRate, ChangesRate)
    parser_classes = (JSONParser,)
    renderer_classes = (JSONRenderer,)
    schema = Describer()
    tag = ""
    """The heading under which the description has it."""

    def get_exception_handler(self) -> Callable[..., Response]:
        """Problems, whatever the project's settings say."""
        return problems.answer

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Who asks, how often, and whether they may: in this order, so that nobody in particular is slowed down too."""
        self.format_kwarg = None
        request.accepted_renderer, request.accepted_media_type = self.perform_content_negotiation(request)
        request.version = request.versioning_scheme = None
        self.perform_authentication(request)
        self.check_throttles(request)
        self.check_permissions(request)

    def get_throttles(self) -> list[BaseThrottle]:
        """The rates of this method."""
        return [rate() for rate in self.throttle_classes]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Nothing of this is kept by a cache."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response


def reply(shape: BaseModel | None, status: int = 200, **headers: str) -> Response:
    """An answer; names of *headers* have underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(None if shape is None else shape.model_dump(mode="json"), status=status, headers=named)


def _query(request: Request, shape: type[BaseModel]) -> BaseModel:
    given: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if any("\0" in value for value in values):
            raise _nul()
        given[name] = values[0] if len(values) == 1 else values
    try:
        return shape.model_validate(given)
    except ValidationError as problem:
        raise _invalid(problem, "parameter") from None


def _body(request: Request, reader: TypeAdapter[Any]) -> Any:
    if request.headers.get("Transfer-Encoding") and not request.headers.get("Content-Length"):
        raise Refused(
            411, "length", "The request has a body and does not say how long it is. Nothing was done.", "Send Content-Length."
        )
    content = request._request.body
    if content.strip() and request.content_type.partition(";")[0].strip().lower() != JSONParser.media_type:
        raise UnsupportedMediaType(request.content_type or "")
    content = content.strip() or b"{}"
    try:
        # The reader below lets NaN and the like pass where anything may stand
        sent = json.loads(content, parse_constant=_no_number)
        if b"\\u0000" in content and "\0" in _texts(sent):
            raise _nul()
    except (ValueError, RecursionError) as problem:
        raise Refused(400, "json", f"The body is not JSON: {problem}. Nothing was done.") from None
    try:
        return reader.validate_json(content, strict=True)
    except ValidationError as problem:
        raise _invalid(problem, "pointer") from None


def _texts(value: Any) -> str:
    """Every text in *value*, of JSON, names included."""
    if isinstance(value, dict):
        return "".join(map(_texts, (*value, *value.values())))
    return "".join(map(_texts, value)) if isinstance(value, list) else value if isinstance(value, str) else ""


def _nul() -> Refused:
    """PostgreSQL takes it in no text and no JSON, and no argument of a process can hold it."""
    return Refused(400, "invalid", "A text holds the character NUL. Nothing was done.", "Leave it out.")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _invalid(problem: ValidationError, where: str) -> Refused:
    errors = []
    for error in problem.errors(include_url=False, include_context=False, include_input=False):
        path = [str(part) for part in error["loc"]]
        place = "#" + "".join(f"/{part}" for part in path) if where == "pointer" else ".".join(path)
        errors.append({where: place, "detail": error["msg"]})
    told = "; ".join(f"{error[where]}: {error['detail']}" for error in errors[:5])
    return Refused(400, "invalid", f"{told}. Nothing was done.", "Correct them and try again.", more={"errors": errors})
