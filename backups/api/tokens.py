"""API tokens: list, create, show and revoke them."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from django.db.models import Q
from django.http import HttpResponseBase
from django.urls import reverse
from pydantic import AfterValidator, Field, StringConstraints
from rest_framework.request import Request

from backups import moments
from backups.identity import tokens
from backups.identity.permissions import SCOPES
from backups.identity.step_up import always
from backups.models import ApiToken

from .authentication import actor, token_of
from .operation import Operation, reply
from .paging import Page, PageQuery, page
from .permissions import allowed, require
from .problems import Refused, unknown
from .schemas import RequestModel, ResponseModel


def _check_scope(name: str) -> str:
    if name not in SCOPES:
        raise ValueError(f"unknown scope; choose from {', '.join(SCOPES)}")
    return name


Scope = Annotated[str, AfterValidator(_check_scope), Field(json_schema_extra={"enum": [*SCOPES]})]


class TokenQuery(PageQuery):
    """Filters of the list of tokens."""

    everybody: Annotated[bool, Field(description="Tokens of all accounts; needs the permission `backups.view_token`.")] = False
    usable: Annotated[bool | None, Field(description="Usable tokens, or revoked, suspended and expired ones.")] = None


class TokenSchema(ResponseModel, title="Token"):
    """A token. Its secret is not stored; `hint` is how it begins."""

    id: int
    name: str
    username: str
    hint: str
    scopes: list[str]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    suspended: Annotated[
        datetime | None, Field(description="When a restore in place changed its account. It is refused until it is resumed.")
    ]
    used: datetime | None
    used_from: str | None
    usable: bool


class IssuedToken(TokenSchema, title="IssuedToken"):
    """A new token with its secret, which is sent only once: null when the response is repeated (`Idempotency-Key`)."""

    secret: str | None


class NewToken(RequestModel):
    """A token to create for your own account."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))]
    days: Annotated[int | None, Field(ge=1, le=3650, description="Days until it expires; null for never.")] = 90


VIEW, ISSUE, REVOKE = "backups.view_token", "backups.issue_token", "backups.revoke_token"
_NEEDS = "Needs the permission `backups.issue_token` (scope `tokens`); tokens of other accounts also need "


def _own(request: Request) -> Q:
    return Q(user_id=str(request.user.pk), username=request.user.get_username())


def _find_token(request: Request, token_id: int, permission: str) -> ApiToken:
    rows = ApiToken.objects.filter(pk=token_id)
    row = (rows if allowed(request, permission) else rows.filter(_own(request))).first()
    if row is None:
        raise unknown("token", f"{token_id} that you may see", "tokens")
    return row


@Operation(ISSUE, needs=f"{_NEEDS}`backups.view_token`.", query=TokenQuery, responses={200: Page[TokenSchema]})
def list_tokens(request: Request, *, query: TokenQuery) -> Page[TokenSchema]:
    """List tokens, newest first: your own, or those of all accounts."""
    rows = ApiToken.objects.all()
    if query.everybody:
        require(request, VIEW)
    else:
        rows = rows.filter(_own(request))
    if query.usable is not None:
        usable = Q(revoked=None, suspended=None) & (Q(expires=None) | Q(expires__gt=moments.now()))
        rows = rows.filter(usable if query.usable else ~usable)
    return page(request, query, rows, ("created", "pk"), TokenSchema.model_validate)


@Operation(
    ISSUE, dangerous=always, body=NewToken, responses={201: IssuedToken}, idempotency_key=True, headers={201: ("Location",)}
)
def create_token(request: Request, *, body: NewToken) -> HttpResponseBase:
    """Create a token for your own account.

    Its secret is in this response only. A token can create only tokens with scopes that it has itself.
    """
    parent = token_of(request)
    scopes: list[str] = list(body.scopes)
    missing = sorted(set(scopes) - set(parent.scopes)) if parent is not None else []
    if parent is not None and missing:
        raise Refused(
            403,
            "scope",
            f"The token {parent.name} lacks the scopes {', '.join(missing)} itself. No token was created.",
            "Request fewer scopes, or create the token with a session.",
            more={"scopes": missing},
        )
    user: Any = request.user
    expires = moments.now() + timedelta(days=body.days) if body.days is not None else None
    issued = tokens.issue_token(actor(request), user, body.name, scopes, expires)
    model = IssuedToken(**TokenSchema.model_validate(issued.token).model_dump(), secret=issued.secret)
    return reply(model, 201, location=reverse("backups-api:token", args=[issued.token.pk]))


@Operation(ISSUE, needs=f"{_NEEDS}`backups.view_token`.", responses={200: TokenSchema})
def show_token(request: Request, token_id: int) -> TokenSchema:
    """Show a token."""
    return TokenSchema.model_validate(_find_token(request, token_id, VIEW))


@Operation(ISSUE, needs=f"{_NEEDS}`backups.revoke_token`.", responses={204: None})
def revoke_token(request: Request, token_id: int) -> None:
    """Revoke a token.

    It is invalid from now on.
    """
    tokens.revoke_token(actor(request), _find_token(request, token_id, REVOKE))
