"""The OpenAPI description of a route, generated from its `Operation`. Views of other apps are described by drf-spectacular."""

from collections.abc import Iterable
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from pydantic import BaseModel, TypeAdapter

from backups.catalog.downloads import FILES
from backups.engine.names import BACKUP_ID, NAME
from backups.identity.permissions import SCOPES
from backups.identity.step_up import always

from .operation import Operation, operation_of
from .permissions import scopes_of
from .problems import MEDIA_TYPE

SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token from the page Tokens or `manage.py backup_token`. Its scopes: "
        + ", ".join(f"`{scope}`" for scope in SCOPES)
        + ".",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "The admin's session. Requests that change something also need the header X-CSRFToken.",
    },
}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "backup_id": {
        "schema": {"type": "string", "pattern": rf"^(latest|{BACKUP_ID.pattern})$"},
        "description": "Id of a backup, or `latest`: the newest undamaged backup of the default set.",
    },
    "job_id": {"schema": {"type": "string", "format": "uuid"}},
    "token_id": {"schema": _NUMBER},
    "approval_id": {"schema": {"type": "string", "format": "uuid"}},
    "number": {"schema": _NUMBER},
    "name": {"schema": {"type": "string", "pattern": rf"^{NAME.pattern}$"}, "description": "Name of the repository or plan."},
    "file_name": {"schema": {"type": "string", "enum": [*FILES]}},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A unique value of your choice. A repeated request with the same key is executed once and gets the same "
    "response.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}
_DESCRIPTIONS = {
    200: "Success.",
    201: "Created.",
    202: "A job was queued; Location is its address.",
    204: "Success.",
    206: "A part of the file.",
    304: "The client's copy is current.",
    400: "The request is invalid; `errors` lists the faults.",
    401: "No token and no session, or an invalid token.",
    403: "The account or the token lacks a permission; or a session must be confirmed first (`step_up`), "
    "or a second person has to approve (`approval`).",
    404: "Not found.",
    406: "Only application/json is available.",
    409: "Not possible now: see `code` and `hint`.",
    411: "A body without Content-Length.",
    412: "A precondition such as If-Match failed.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    416: "The range is outside the file.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests; Retry-After is the time to wait.",
    503: "A required service is not available.",
    507: "No space left.",
}
_HEADERS: dict[str, dict[str, Any]] = {
    "Location": {"description": "Address of the job or the new object.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "ETag": {"description": "Identifies the content, for If-Range and If-None-Match.", "schema": {"type": "string"}},
    "Content-Range": {"description": "The part of the file in this response.", "schema": {"type": "string"}},
}
_COMPONENTS = "#/components/schemas/"


class Problem(BaseModel):
    """An error (RFC 9457). Further members depend on the code."""

    model_config = {"extra": "allow"}

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


class Describer(AutoSchema):
    """Describes methods with an `Operation`. To other methods, described by drf-spectacular, it adds security and errors."""

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> dict[str, Any] | None:
        """The description of a method; None if it is excluded."""
        operation = operation_of(self.view, method)
        if operation is not None:
            return self._describe(operation, path, method, registry)
        described = super().get_operation(path, path_regex, path_prefix, method, registry)
        if described is not None:
            self._add_security(described, registry, getattr(self.view, "permissions", {}).get(method.upper(), ""))
            for status in (401, 403, 404, 406, 429):
                described["responses"].setdefault(str(status), _problem_response(registry, status))
        return described

    def _describe(self, operation: Operation, path: str, method: str, registry: Any) -> dict[str, Any]:
        summary, *lines = (getattr(self.view, method.lower()).__doc__ or "").strip().split("\n")
        details = "\n".join(line.strip() for line in lines).strip()
        parameters = _path_parameters(path)
        problems = {406, 429, *operation.problems}
        described: dict[str, Any] = {
            "operationId": operation.name,
            "summary": summary.rstrip("."),
            "tags": [getattr(self.view, "tag", "")],
            "description": f"{details}\n\n{_needs(operation)}{_takes(operation)}".strip(),
            "parameters": parameters,
        }
        if "{" in path:
            problems.add(404)
        if operation.query is not None:
            parameters += _query_parameters(registry, operation.query)
            problems.add(400)
        if operation.body is not None:
            described["requestBody"] = {
                "content": {"application/json": {"schema": _component(registry, operation.body, "validation")}},
                "required": _is_required(operation.body),
            }
            problems |= {400, 411, 413, 415}
        if operation.idempotency_key:
            parameters.append(_IDEMPOTENCY_KEY)
            problems |= {400, 409, 422}
        if operation.public:
            described["security"] = [{}]
        else:
            problems |= {401, 403}
            self._add_security(described, registry, operation.permission)
        described["responses"] = {
            str(status): _response(registry, status, content, operation.headers.get(status, ()))
            for status, content in operation.responses.items()
        }
        for status in sorted(problems - operation.responses.keys()):
            described["responses"][str(status)] = _problem_response(registry, status)
        return described

    def _add_security(self, described: dict[str, Any], registry: Any, permission: str) -> None:
        for name, scheme in SECURITY.items():
            component = ResolvedComponent(name, ResolvedComponent.SECURITY_SCHEMA, scheme, name)  # type: ignore[no-untyped-call]
            registry.register_on_missing(component)
        described["security"] = [{"token": scopes_of(permission)}, {"session": []}]
        if permission:
            described["x-permission"] = permission


def _needs(operation: Operation) -> str:
    if operation.public:
        return "Needs neither a token nor a session."
    if operation.needs:
        return operation.needs
    if not operation.permission:
        return "Needs a token with any scope, or a session."
    scopes = " or ".join(f"`{scope}`" for scope in scopes_of(operation.permission))
    return f"Needs the permission `{operation.permission}`; a token needs the scope {scopes}."


def _takes(operation: Operation) -> str:
    if operation.dangerous is None:
        return ""
    more = " Where two people are required, it takes an approval (`approval`)." if operation.second is not None else ""
    which = "" if operation.dangerous is always else " some of these requests only when"
    return f" With a session, it accepts{which or ' requests only when'} the account was confirmed lately (`step_up`).{more}"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]} for name in names]


def _query_parameters(registry: Any, model: type[BaseModel]) -> Iterable[dict[str, Any]]:
    schema = _inline(registry, model, "validation")
    required = schema.get("required", [])
    for name, definition in schema["properties"].items():
        content = {key: value for key, value in definition.items() if key != "description"}
        if "anyOf" in content:  # null means that the parameter is left out
            [content] = [choice for choice in content["anyOf"] if choice.get("type") != "null"]
        parameter = {"name": name, "in": "query", "required": name in required, "schema": content}
        if "description" in definition:
            parameter["description"] = definition["description"]
        yield parameter


def _is_required(body: Any) -> bool:
    schema = TypeAdapter(body).json_schema()
    return bool(schema.get("required")) or "oneOf" in schema or "anyOf" in schema


def _response(registry: Any, status: int, content: Any, headers: tuple[str, ...]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _DESCRIPTIONS[status]}
    if isinstance(content, dict):
        described["content"] = {media_type: {"schema": schema} for media_type, schema in content.items()}
    elif content is not None:
        described["content"] = {"application/json": {"schema": _component(registry, content, "serialization")}}
    if headers:
        described["headers"] = {name: _HEADERS[name] for name in headers}
    return described


def _problem_response(registry: Any, status: int) -> dict[str, Any]:
    return {
        "description": _DESCRIPTIONS[status],
        "content": {MEDIA_TYPE: {"schema": _component(registry, Problem, "serialization")}},
        **({"headers": {"Retry-After": _HEADERS["Retry-After"]}} if status in (429, 503) else {}),
    }


def _component(registry: Any, model: Any, mode: Any) -> dict[str, Any]:
    """A reference to *model*, which is added to the components. A type that is not a model, such as a union, is inlined."""
    schema = _inline(registry, model, mode)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return schema
    name = model.model_config.get("title") or model.__name__
    _register(registry, name, schema)
    return {"$ref": _COMPONENTS + name}


def _inline(registry: Any, model: Any, mode: Any) -> dict[str, Any]:
    schema: dict[str, Any] = TypeAdapter(model).json_schema(ref_template=_COMPONENTS + "{model}", mode=mode)
    parts = schema.pop("$defs", {})
    references = {_COMPONENTS + name: _COMPONENTS + part["title"] for name, part in parts.items()}
    for part in parts.values():
        _register(registry, part["title"], _published(part, references))
    return dict(_published(schema, references))


def _published(schema: Any, references: dict[str, str]) -> Any:
    """*schema* with published component names, and without titles, which only repeat names."""
    if isinstance(schema, str):
        return references.get(schema, schema)
    if isinstance(schema, list):
        return [_published(part, references) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _published(value, references)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))  # a property may be called title too
    }


def _register(registry: Any, name: str, schema: dict[str, Any]) -> None:
    """Add a component. Raises `ValueError` if another one has its name."""
    component = ResolvedComponent(name, ResolvedComponent.SCHEMA, schema, name)  # type: ignore[no-untyped-call]
    if component in registry and registry[component].schema != schema:
        raise ValueError(f"Two models are published as the component {name}.")
    registry.register_on_missing(component)
