"""Sessions that a copy of their table does not give away, and that end when nobody uses them.

::

    SESSION_ENGINE = "backups.identity.sessions"
    MIDDLEWARE = [..., "django.contrib.sessions.middleware.SessionMiddleware", "backups.identity.sessions.IdleLimit", ...]

The browser has a session's key; the table has a hash of it. So a copy of the database, such as a backup, continues nobody's
session.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends import cached_db, db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import router
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from backups import moments

_USED = "_used"
_STEP = timedelta(minutes=5)
"""How exactly the last use is known: each request would otherwise write the session."""


def stored_key(key: str) -> str:
    """What the table has for the session key *key*: 160 bits of its SHA-256, as the column has 40 characters."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]


class SessionStore(db.SessionStore):
    """Django's sessions in the database, stored under `stored_key`. Those of another engine end when this one is set."""

    def exists(self, session_key: str) -> bool:
        """Whether there is a session with this key."""
        return super().exists(stored_key(session_key))

    async def aexists(self, session_key: str) -> bool:
        """`exists`, without blocking."""
        return await super().aexists(stored_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        """The row to write."""
        row = super().create_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    async def acreate_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        """`create_model_instance`, without blocking."""
        row = await super().acreate_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        """Delete a session; by default this one."""
        key = session_key or self.session_key
        if key is not None:
            super().delete(stored_key(key))

    async def adelete(self, session_key: str | None = None) -> None:
        """`delete`, without blocking."""
        await sync_to_async(self.delete)(session_key)

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        now, key = timezone.now(), stored_key(self.session_key or "")
        row: AbstractBaseSession | None = self.model.objects.filter(session_key=key, expire_date__gt=now).first()
        if row is None:
            self._session_key = None
        return row

    async def _aget_session_from_db(self) -> AbstractBaseSession | None:
        return await sync_to_async(self._get_session_from_db)()


class IdleLimit:
    """Middleware, after ``SessionMiddleware``: signs out sessions that were idle for ``BACKUPS_SESSION_IDLE_HOURS`` (12).

    0 sets no limit. Pages that reload parts of themselves do not count as use.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer *request*, without its session when that is over."""
        limit = timedelta(hours=float(getattr(settings, "BACKUPS_SESSION_IDLE_HOURS", 12)))
        if limit and SESSION_KEY in request.session:
            now = moments.now()
            idle = now - _last_use(request, now)
            if idle > limit:
                request.session.flush()
            elif idle >= _STEP and not _is_automatic(request):
                request.session[_USED] = now.timestamp()
        return self._get_response(request)


@receiver(user_logged_in)
def _used(sender: Any, request: HttpRequest | None, **_: Any) -> None:
    if request is not None and hasattr(request, "session"):
        request.session[_USED] = moments.now().timestamp()


def end_all() -> int:
    """Sign everybody out. Returns the number of sessions; those of another engine than the database's are not ended."""
    if not apps.is_installed("django.contrib.sessions"):
        return 0
    return int(apps.get_model("sessions", "Session")._default_manager.all().delete()[0])


def can_be_ended() -> bool:
    """Whether `end_all` ends every session: those of the engines in the cache, in files and in cookies it cannot reach."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    return issubclass(store, db.SessionStore) and not issubclass(store, cached_db.SessionStore)


def are_restored() -> bool:
    """Whether a restore of the accounts' database also brings back sessions, including ones that were signed out."""
    if not apps.is_installed("django.contrib.sessions"):
        return False
    return router.db_for_write(apps.get_model("sessions", "Session")) == router.db_for_write(get_user_model())


def _last_use(request: HttpRequest, now: datetime) -> datetime:
    used = request.session.get(_USED)
    return (
        datetime.fromtimestamp(used, tz=now.tzinfo)
        if isinstance(used, int | float)
        else datetime.min.replace(tzinfo=now.tzinfo)
    )


def _is_automatic(request: HttpRequest) -> bool:
    return request.method == "GET" and "HX-Request" in request.headers
