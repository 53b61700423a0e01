"""Django-Q's Redis broker with timeouts, which survives an outage of the server.

``BACKUPS["QUEUE"]`` is ``{"url": "redis://host:6379/0"}``. The password is a setting of its own, ``BACKUPS_QUEUE_PASSWORD``:
the address and ``BACKUPS`` may be logged. Needs the extra ``hosts``.
"""

import logging
import time
from typing import Any

import redis
from django.conf import settings
from django_q.brokers.redis_broker import Redis

from backups.conf import configuration

_log = logging.getLogger(__name__)

_CONNECT_WITHIN = 3.0
_ANSWER_WITHIN = 10.0
_PAUSE = 2.0


class QueueUnreachable(ConnectionError):
    """Redis does not answer. Requested jobs are in the control database; workers look there every minute."""


class RedisBroker(Redis):  # type: ignore[misc]  # django-q has no types
    """One list per host. Redis forgets delivered messages; jobs are in the control database."""

    _down = False

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """A client, which connects at its first command."""
        return redis.Redis.from_url(
            configuration().queue["url"],
            password=getattr(settings, "BACKUPS_QUEUE_PASSWORD", "") or None,
            socket_connect_timeout=_CONNECT_WITHIN,
            socket_timeout=_ANSWER_WITHIN,
        )

    def enqueue(self, task: Any) -> Any:
        """Add a message. Raises `QueueUnreachable`."""
        try:
            return super().enqueue(task)
        except redis.RedisError as problem:
            raise QueueUnreachable(f"Redis cannot be reached: {problem}") from problem

    def dequeue(self) -> Any:
        """The next message, or None after a second. Logs an outage of Redis once, and keeps trying."""
        try:
            message = super().dequeue()
        except redis.RedisError as problem:
            if not self._down:
                _log.warning("Redis cannot be reached: %s. Jobs wait in the control database", problem)
            self._down = True
            time.sleep(_PAUSE)
            return None
        if self._down:
            _log.warning("Redis can be reached again")
            self._down = False
        return message

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Drop Django-Q's statistics: `heartbeat` replaces them."""
