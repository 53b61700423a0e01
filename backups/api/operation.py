"""Declares what one method of a route needs and returns. Its checks and its OpenAPI description follow from the declaration::

    @Operation("backups.view_backup", query=BackupQuery, responses={200: Page[BackupSchema]})
    def list_backups(request: Request, *, query: BackupQuery) -> Page[BackupSchema]:
        \"""List backups, newest first.\"""

Imports no REST framework view: `permissions`, which the project's ``REST_FRAMEWORK`` setting names, depends on it.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from django.http import HttpResponseBase
from pydantic import BaseModel, TypeAdapter
from rest_framework.request import Request
from rest_framework.response import Response

from . import idempotency
from .request_data import read_body, read_query

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
            if declared.query is not None:
                arguments["query"] = read_query(request, declared.query)
            if body is not None:
                arguments["body"] = read_body(request, body)

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
