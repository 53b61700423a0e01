"""Who may do what here: the account's permissions, and a token's scopes.

Like `callers` and `rates` it may stand in the project's ``REST_FRAMEWORK``, and so knows no view.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from backups.identity import permissions as access

from .authentication import token_of
from .problems import Refused

if TYPE_CHECKING:
    from rest_framework.views import APIView

    from .operation import Operation


def operation_of(view: APIView, method: str | None) -> Operation | None:
    """What *view* declares about an HTTP method."""
    name = (method or "").lower()
    found = getattr(view, "get" if name == "head" else name, None)
    return getattr(found, "operation", None)


class Permitted(BasePermission):
    """The permission that the method declares, of the account and through the token (`access.may`).

    Views of other apps, which do not know this one, say it in a plain attribute: ``permissions = {"GET": "app.codename"}``.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """True, or raises what is to be answered."""
        declared = operation_of(view, request.method)
        if declared is not None and declared.public:
            return True
        if not request.user or not request.user.is_authenticated:
            raise NotAuthenticated("This needs a token or a session.")
        if declared is None:
            named: Mapping[str, str] = getattr(view, "permissions", {})
            method = "GET" if request.method == "HEAD" else str(request.method)
            if method not in named:
                raise MethodNotAllowed(method)
            require(request, named[method])
        elif declared.permission:
            require(request, declared.permission)
        return True


def require(request: Request, permission: str) -> None:
    """Raises `Refused` with 403 unless the account has the permission, and the token, where there is one, lets it through."""
    if allowed(request, permission):
        return
    token = token_of(request)
    if token is None or not access.may(request.user, permission):
        raise Refused(
            403,
            "not_allowed",
            f"The account {request.user.get_username()} lacks the permission {permission}. Nothing was done.",
            "An administrator gives it, best by a group: viewer, operator, restorer.",
            more={"permission": permission},
        )
    scopes = scopes_of(permission)
    raise Refused(
        403,
        "scope",
        f"The token {token.name} has no scope for that. Nothing was done.",
        f"Make a token with the scope {' or '.join(scopes)}." if scopes else "No scope of a token allows it: sign in instead.",
        headers={"WWW-Authenticate": f'Bearer realm="api", error="insufficient_scope", scope="{" ".join(scopes)}"'},
        more={"permission": permission, "scopes": scopes},
    )


def allowed(request: Request, permission: str) -> bool:
    """Whether who asks has the permission."""
    return access.may(request.user, permission, token_of(request))


def scopes_of(permission: str) -> list[str]:
    """The scopes that let a permission through."""
    return [scope for scope, permissions in access.SCOPES.items() if permission in permissions]
