"""API tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from backups.api.paging import PageQuery
from backups.identity.permissions import SCOPES

from .base import RequestModel, ResponseModel


def _check_scope(name: str) -> str:
    if name not in SCOPES:
        raise ValueError(f"unknown scope; choose from {', '.join(SCOPES)}")
    return name


Scope = Annotated[str, AfterValidator(_check_scope), Field(json_schema_extra={"enum": [*SCOPES]})]


class TokenQuery(PageQuery):
    """Filters of the list of tokens."""

    everybody: Annotated[bool, Field(description="Tokens of all accounts; needs the permission `backups.view_token`.")] = False
    usable: Annotated[bool | None, Field(description="Usable tokens, or revoked and expired ones.")] = None


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
