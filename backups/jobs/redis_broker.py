"""Django-Q's Redis broker, which gives up on a server that does not answer, and goes on when it is back.

``Q_CLUSTER["redis"]`` is ``{"url": "redis://host:6379/0", "password": ""}``: the password stays out of the address, and so out
of whatever prints it. Needs the extra ``hosts``.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from django_q.brokers.redis_broker import Redis
from django_q.conf import Conf

_log = logging.getLogger(__name__)

_CONNECT_WITHIN = 3.0
_ANSWER_WITHIN = 10.0
_PAUSE = 2.0


class QueueUnreachable(ConnectionError):
    """Redis does not answer. What was asked for is in the control database, and is looked for there within a minute."""


class RedisBroker(Redis):  # type: ignore[misc]  # django-q has no types
    """A list a host. Redis forgets what it handed out; the jobs do not."""

    _down = False

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """A connection that is made at the first command."""
        return redis.Redis.from_url(
            Conf.REDIS["url"],
            password=Conf.REDIS.get("password") or None,
            socket_connect_timeout=_CONNECT_WITHIN,
            socket_timeout=_ANSWER_WITHIN,
        )

    def enqueue(self, task: Any) -> Any:
        """Add a delivery. Raises `QueueUnreachable`."""
        try:
            return super().enqueue(task)
        except redis.RedisError as problem:
            raise QueueUnreachable(f"Redis cannot be reached: {problem}") from problem

    def dequeue(self) -> Any:
        """Wait a second for a delivery. While Redis is away, say so once and go on asking."""
        try:
            found = super().dequeue()
        except redis.RedisError as problem:
            if not self._down:
                _log.warning("Redis cannot be reached: %s. Jobs wait in the control database", problem)
            self._down = True
            time.sleep(_PAUSE)
            return None
        if self._down:
            _log.warning("Redis is back")
            self._down = False
        return found

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Nobody reads Django-Q's own statistics: `watch` has the signs of life."""
