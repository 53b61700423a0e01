"""Reading and validating the query and the JSON body of a request. Every fault is a `Refused` with 4xx."""

import json
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from backups.jobs.job_type import contains_nul

from .problems import Refused


def read_query(request: Request, model: type[BaseModel]) -> BaseModel:
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


def read_body(request: Request, body: TypeAdapter[Any]) -> Any:
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
        faults = [{"pointer": "#" + "".join(f"/{part}" for part in path), "detail": text} for path, text in _faults(problem)]
        raise _invalid(faults) from None


def _faults(problem: ValidationError) -> list[tuple[list[str], str]]:
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return [([str(part) for part in error["loc"]], error["msg"]) for error in errors]


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
