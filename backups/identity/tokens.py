"""Tokens of the API: issue, revoke, and find the account of a secret."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.db import transaction

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.models import ApiToken

from . import audit, known_accounts
from .audit import Actor
from .permissions import SCOPES

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new token, and its secret, which is not stored."""

    token: ApiToken
    secret: str


def issue(user: AbstractUser, name: str, scopes: Iterable[str], expires: datetime | None) -> Issued:
    """Create a token for *user*, without an audit entry. Raises `UsageError` for an unknown scope, or none."""
    chosen = sorted(set(scopes))
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        wrong = f", not {', '.join(unknown)}." if unknown else "."
        raise UsageError(f"Choose scopes among {', '.join(SCOPES)}{wrong}", hint="No token was created.")
    secret = "rsb_" + secrets.token_urlsafe(SECRET_BYTES)
    token = ApiToken.objects.create(
        name=name,
        user_id=str(user.pk),
        username=user.get_username(),
        nonce=known_accounts.nonce_of(user),
        digest=digest(secret),
        hint=secret[:8],
        scopes=chosen,
        expires=expires,
    )
    return Issued(token=token, secret=secret)


def digest(secret: str) -> str:
    """The stored hash of a secret; as the secret is long and random, a plain SHA-256 cannot be reversed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def owner_of(secret: str, address: str) -> tuple[AbstractUser, ApiToken] | None:
    """The account and token of a secret, if both are valid; records the use, to the minute."""
    token = ApiToken.objects.filter(digest=digest(secret)).first()
    if token is None or not token.usable:
        return None
    user: Any = get_user_model()._default_manager.filter(pk=token.user_id, is_active=True).first()
    if user is None or user.get_username() != token.username or not known_accounts.is_bound(token):
        return None
    now = moments.now().replace(second=0, microsecond=0)
    if token.used != now or token.used_from != address:
        ApiToken.objects.filter(pk=token.pk).update(used=now, used_from=address or None)
    return user, token


def issue_token(actor: Actor, user: AbstractUser, name: str, scopes: Sequence[str], expires: datetime | None) -> Issued:
    """`issue` a token, and audit it."""
    with transaction.atomic(using=configuration().database):
        issued = issue(user, name, scopes, expires)
        audit.record(actor, "token.issued", f"token:{issued.token.pk}", after=_described(issued.token))
    return issued


def revoke_token(actor: Actor, token: ApiToken) -> ApiToken:
    """Revoke a token."""
    with transaction.atomic(using=configuration().database):
        if ApiToken.objects.filter(pk=token.pk, revoked=None).update(revoked=moments.now()):
            audit.record(actor, "token.revoked", f"token:{token.pk}", before=_described(token))
    token.refresh_from_db()
    return token


def resume_token(actor: Actor, token: ApiToken) -> ApiToken:
    """Let a token be used again that a restore suspended."""
    with transaction.atomic(using=configuration().database):
        if ApiToken.objects.filter(pk=token.pk, revoked=None).exclude(suspended=None).update(suspended=None):
            audit.record(actor, "token.resumed", f"token:{token.pk}", after=_described(token))
    token.refresh_from_db()
    return token


def _described(token: ApiToken) -> dict[str, Any]:
    return {
        "name": token.name,
        "hint": token.hint,
        "account": token.username,
        "scopes": token.scopes,
        "expires": token.expires.isoformat() if token.expires else None,
    }
