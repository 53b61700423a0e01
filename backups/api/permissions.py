"""Authorises a request: by the permissions of the account and the scopes of the token.

Like `authentication` and `throttling` it may be named in the project's ``REST_FRAMEWORK`` setting, and so imports no view.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from backups.identity import permissions

from .authentication import token_of
from .operation import operation_of
from .problems import Refused

if TYPE_CHECKING:
    from rest_framework.views import APIView


class Permitted(BasePermission):
    """Requires the permission that the `Operation` of the method declares.

    Views of other apps declare it in a plain attribute: ``permissions = {"GET": "app.codename"}``.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """True. Raises `NotAuthenticated`, `MethodNotAllowed`, or `Refused` with 403."""
        operation = operation_of(view, request.method)
        if operation is not None and operation.public:
            return True
        if not request.user or not request.user.is_authenticated:
            raise NotAuthenticated("Authentication is required.")
        if operation is None:
            declared: Mapping[str, str] = getattr(view, "permissions", {})
            method = "GET" if request.method == "HEAD" else str(request.method)
            if method not in declared:
                raise MethodNotAllowed(method)
            require(request, declared[method])
        elif operation.permission:
            require(request, operation.permission)
        return True


def require(request: Request, permission: str) -> None:
    """Raises `Refused` with 403 unless the account has *permission* and a scope of the token, if there is one, includes it."""
    if allowed(request, permission):
        return
    token = token_of(request)
    if token is None or not permissions.may(request.user, permission):
        raise Refused(
            403,
            "not_allowed",
            f"The account {request.user.get_username()} lacks the permission {permission}. Nothing was done.",
            "An administrator can grant it, preferably by a group: viewer, operator, restorer.",
            more={"permission": permission},
        )
    scopes = scopes_of(permission)
    raise Refused(
        403,
        "scope",
        f"The token {token.name} lacks the required scope. Nothing was done.",
        f"Create a token with the scope {' or '.join(scopes)}." if scopes else "No token scope includes this: sign in instead.",
        headers={"WWW-Authenticate": f'Bearer realm="api", error="insufficient_scope", scope="{" ".join(scopes)}"'},
        more={"permission": permission, "scopes": scopes},
    )


def allowed(request: Request, permission: str) -> bool:
    """Whether the account of the request, limited by its token, has *permission*."""
    return permissions.may(request.user, permission, token_of(request))


def scopes_of(permission: str) -> list[str]:
    """The token scopes that include *permission*."""
    return [scope for scope, included in permissions.SCOPES.items() if permission in included]
