"""The OpenAPI description of a route, from what it declares (`operation`). Views of other apps are described as usual."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from pydantic import BaseModel, TypeAdapter

from backups.engine.names import BACKUP_ID, NAME
from backups.identity import permissions as access

from .problems import MEDIA_TYPE

SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the page Tokens or of `manage.py create_token`. Its scopes: "
        + ", ".join(f"`{scope}`" for scope in access.SCOPES)
        + ".",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "The admin's session. What changes something also takes the header X-CSRFToken.",
    },
}
IDS = {
    "backup_id": {"type": "string", "pattern": rf"^(latest|{BACKUP_ID.pattern})$"},
    "job_id": {"type": "string", "format": "uuid"},
    "token_id": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "number": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "name": {"type": "string", "pattern": rf"^{NAME.pattern}$"},
    "file_name": {"type": "string", "enum": ["data.tar.zst", "manifest.json", "SHA256SUMS"]},
}
"""Parts of addresses, by their names."""

_EXPLAINED = {
    "backup_id": "A backup's id, or `latest`: the newest undamaged backup of the default set.",
    "name": "Its name.",
}
_PROBLEMS = {
    400: "Something is wrong with what was sent; `errors` says what.",
    401: "No token and no session, or a token that is not good.",
    403: "The account, or the token, may not do that.",
    404: "It is not there.",
    406: "There is only application/json.",
    409: "It cannot be done now: `code` and `hint` say why, and what to do.",
    411: "A body without Content-Length.",
    412: "A header such as If-Match does not hold.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    416: "The range lies outside of the file.",
    422: "The Idempotency-Key came with another request before.",
    429: "Too many requests; Retry-After says how long to wait.",
    503: "What this needs is not available.",
    507: "No space is left.",
}
_GOOD = {
    200: "Done.",
    201: "It was made.",
    202: "A job was queued; Location is its address.",
    204: "It was done.",
    206: "A part of the file.",
    304: "The client has it.",
}
_HEADERS: dict[str, dict[str, Any]] = {
    "Location": {"description": "Address of the job, or of what was made.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "Link": {"description": 'The next page, as `rel="next"`.', "schema": {"type": "string"}},
    "ETag": {"description": "Tells the content apart, for If-Range and If-None-Match.", "schema": {"type": "string"}},
    "Content-Range": {"description": "Which part it is.", "schema": {"type": "string"}},
}


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
    """Describes methods that are declared with `operation`; any other as drf-spectacular does, with the errors added."""

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> dict[str, Any] | None:
        """The description of a method; None when it is not told of."""
        declared = getattr(getattr(self.view, method.lower(), None), "operation", None)
        if declared is None:
            described = super().get_operation(path, path_regex, path_prefix, method, registry)
            if described is not None:
                self._secure(described, registry, getattr(self.view, "permissions", {}).get(method.upper(), ""))
                for status in (401, 403, 404, 406, 429):
                    described["responses"].setdefault(str(status), self._problem(registry, status))
            return described
        return self._described(declared, path, method, registry)

    def _described(self, declared: Any, path: str, method: str, registry: Any) -> dict[str, Any]:
        lines = (getattr(self.view, method.lower()).__doc__ or "").strip().split("\n")
        text = "\n".join(line.strip() for line in lines[1:]).strip()
        described: dict[str, Any] = {
            "operationId": declared.name,
            "summary": lines[0].rstrip("."),
            "tags": [getattr(self.view, "tag", "")],
        }
        needs = _needs(declared)
        described["description"] = f"{text}\n\n{needs}".strip()
        statuses = {406, 429, *declared.problems}
        described["parameters"] = _path_parameters(path)
        if "{" in path:
            statuses.add(404)
        if declared.query is not None:
            described["parameters"] += _query_parameters(declared.query)
            statuses.add(400)
        if declared.body is not None:
            schema = _component(registry, declared.body, "validation")
            described["requestBody"] = {
                "content": {"application/json": {"schema": schema}},
                "required": _required(declared.body),
            }
            statuses |= {400, 411, 413, 415}
        if declared.once:
            described["parameters"].append(_KEY_PARAMETER)
            statuses |= {400, 409, 422}
        if declared.public:
            described["security"] = [{}]
        else:
            statuses |= {401, 403}
            self._secure(described, registry, declared.permission)
        described["responses"] = {
            **{
                str(status): _good(registry, status, shape, declared.headers.get(status, ()))
                for status, shape in declared.answers.items()
            },
            **{str(status): self._problem(registry, status) for status in sorted(statuses - declared.answers.keys())},
        }
        return described

    def _secure(self, described: dict[str, Any], registry: Any, permission: str) -> None:
        for name, scheme in SECURITY.items():
            component = ResolvedComponent(name, ResolvedComponent.SECURITY_SCHEMA, scheme, name)  # type: ignore[no-untyped-call]
            registry.register_on_missing(component)
        scopes = [scope for scope, permissions in access.SCOPES.items() if permission in permissions]
        described["security"] = [{"token": scopes}, {"session": []}]
        if permission:
            described["x-permission"] = permission

    @staticmethod
    def _problem(registry: Any, status: int) -> dict[str, Any]:
        return {
            "description": _PROBLEMS[status],
            "content": {MEDIA_TYPE: {"schema": _component(registry, Problem, "serialization")}},
            **({"headers": {"Retry-After": _HEADERS["Retry-After"]}} if status in (429, 503) else {}),
        }


_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A name of your choice for this request: sent twice, it is done once and answered twice with the same.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def _needs(declared: Any) -> str:
    if declared.public:
        return "Needs no token and no session."
    if declared.depends:
        return str(declared.depends)
    if not declared.permission:
        return "Needs a token with any scope, or a session."
    scopes = [f"`{scope}`" for scope, permissions in access.SCOPES.items() if declared.permission in permissions]
    return f"Needs the permission `{declared.permission}`, and of a token the scope {' or '.join(scopes)}."


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": IDS[name],
            **({"description": _EXPLAINED[name]} if name in _EXPLAINED else {}),
        }
        for name in names
    ]


def _query_parameters(shape: type[BaseModel]) -> Iterable[dict[str, Any]]:
    schema = _renamed(shape.model_json_schema())
    needed = schema.get("required", [])
    for name, found in schema["properties"].items():
        known = {key: value for key, value in found.items() if key != "description"}
        if "anyOf" in known:  # an absent one is told by leaving it away
            [known] = [one for one in known["anyOf"] if one.get("type") != "null"]
        parameter = {"name": name, "in": "query", "required": name in needed, "schema": known}
        if "description" in found:
            parameter["description"] = found["description"]
        yield parameter


def _required(body: Any) -> bool:
    schema = TypeAdapter(body).json_schema()
    return bool(schema.get("required")) or "oneOf" in schema or "anyOf" in schema


def _good(registry: Any, status: int, shape: Any, headers: tuple[str, ...]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _GOOD.get(status) or _PROBLEMS[status]}
    if isinstance(shape, dict):  # media type -> schema
        described["content"] = {kind: {"schema": schema} for kind, schema in shape.items()}
    elif shape is not None:
        described["content"] = {"application/json": {"schema": _component(registry, shape, "serialization")}}
    if headers:
        described["headers"] = {name: _HEADERS[name] for name in headers}
    return described


def _component(registry: Any, shape: Any, mode: Any) -> dict[str, Any]:
    """A reference to *shape* among the components, where it and what it consists of are put."""
    schema: dict[str, Any] = _renamed(TypeAdapter(shape).json_schema(ref_template="#/components/schemas/{model}", mode=mode))
    for name, part in schema.pop("$defs", {}).items():
        _register(registry, _public(name), part)
    if "$ref" in schema or not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        return schema
    name = _public(shape.__name__)
    _register(registry, name, schema)
    return {"$ref": f"#/components/schemas/{name}"}


def _public(name: str) -> str:
    """What a shape is called outside: the class is `BackupShape` because there is a `Backup` already."""
    return name.replace("Shape", "")


def _renamed(schema: Any) -> Any:
    """*schema* without titles, which only repeat names, and with public names in its references."""
    if isinstance(schema, list):
        return [_renamed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return {key: _public(value) if key == "$ref" else _renamed(value) for key, value in kept.items()}


def _register(registry: Any, name: str, schema: dict[str, Any]) -> None:
    """Put a part among the components. Raises `ValueError` when another part has its name."""
    component = ResolvedComponent(name, ResolvedComponent.SCHEMA, schema, name)  # type: ignore[no-untyped-call]
    if component in registry and registry[component].schema != schema:
        raise ValueError(f"Two shapes of the description are called {name}.")
    registry.register_on_missing(component)
