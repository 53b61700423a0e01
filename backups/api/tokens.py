"""Tokens: who may use this interface."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db.models import Q
from django.http import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.identity import tokens
from backups.models import ApiToken

from . import schemas
from .authentication import actor, token_of
from .operation import Resource, operation, reply
from .paging import Page, page
from .permissions import allowed, require
from .problems import Refused
from .schemas import IssuedToken, NewToken, TokenQuery, TokenShape

VIEW, ISSUE, REVOKE = "backups.view_token", "backups.issue_token", "backups.revoke_token"
_OTHERS = "Needs the permission `backups.issue_token` (scope `tokens`); for those of others also "


def _own(request: Request) -> Q:
    return Q(user_id=str(request.user.pk), username=request.user.get_username())


def _found(request: Request, token_id: int, permission: str) -> ApiToken:
    """The token of an address: one's own, or with *permission* anybody's. Raises `NotFound`."""
    rows = ApiToken.objects.filter(pk=token_id)
    row = (rows if allowed(request, permission) else rows.filter(_own(request))).first()
    if row is None:
        raise NotFound(f"There is no token {token_id} that you may see.")
    return row


class Tokens(Resource):
    """All of them."""

    tag = "Tokens"

    @operation(
        "list_tokens", ISSUE, depends=f"{_OTHERS}`backups.view_token`.", query=TokenQuery, answers={200: Page[TokenShape]}
    )
    def get(self, request: Request, *, query: TokenQuery) -> HttpResponseBase:
        """List tokens, newest first: your own, or everybody's."""
        rows = ApiToken.objects.all()
        if query.everybody:
            require(request, VIEW)
        else:
            rows = rows.filter(_own(request))
        if query.usable is not None:
            good = Q(revoked=None) & (Q(expires=None) | Q(expires__gt=timezone.now()))
            rows = rows.filter(good if query.usable else ~good)
        items, following = page(rows, ("created", "pk"), query, request.path)
        return reply(Page[TokenShape](items=[schemas.token(row) for row in items], next=following))

    @operation("create_token", ISSUE, body=NewToken, answers={201: IssuedToken}, once=True, headers={201: ("Location",)})
    def post(self, request: Request, *, body: NewToken) -> HttpResponseBase:
        """Make a token for yourself. Its secret is in this answer and nowhere else.

        A token makes only tokens whose scopes it has itself.
        """
        mine = token_of(request)
        scopes: list[str] = list(body.scopes)
        beyond = sorted(set(scopes) - set(mine.scopes)) if mine is not None else []
        if beyond:
            raise Refused(
                403,
                "scope",
                f"The token {mine.name if mine else ''} has not the scopes {', '.join(beyond)} itself. No token was made.",
                "Ask for fewer, or make it while signed in.",
                more={"scopes": beyond},
            )
        user: Any = request.user
        assert isinstance(user, AbstractUser)
        expires = timezone.now() + timedelta(days=body.days) if body.days is not None else None
        issued = tokens.issue_token(actor(request), user, body.name, scopes, expires)
        shape = IssuedToken(**schemas.token(issued.token).model_dump(), secret=issued.secret)
        return reply(shape, 201, Location=reverse("backups-api:token", args=[issued.token.pk]))


class Token(Resource):
    """One of them."""

    tag = "Tokens"

    @operation("show_token", ISSUE, depends=f"{_OTHERS}`backups.view_token`.", answers={200: TokenShape})
    def get(self, request: Request, token_id: int) -> HttpResponseBase:
        """Show a token."""
        return reply(schemas.token(_found(request, token_id, VIEW)))

    @operation("revoke_token", ISSUE, depends=f"{_OTHERS}`backups.revoke_token`.", answers={204: None})
    def delete(self, request: Request, token_id: int) -> HttpResponseBase:
        """Revoke a token: it is good for nothing from now on."""
        tokens.revoke_token(actor(request), _found(request, token_id, REVOKE))
        return reply(None, 204)
