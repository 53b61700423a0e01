"""Log lines for programs: one JSON object a line, with the job that they belong to.

::

    LOGGING = {
        "filters": {"job": {"()": "backups.jobs.logs.JobFilter"}},
        "formatters": {"json": {"()": "backups.jobs.logs.JsonFormatter"}},
        ...
    }
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_job: ContextVar[str] = ContextVar("job", default="")

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "job", "taskName"}
"""What every record has; anything else was given with ``extra``."""


_BREAKS = re.compile(r"[\x01-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What could begin a line of its own, move a terminal's cursor, or turn the order of letters around."""


def in_one_line(text: str) -> str:
    """*text* with such characters written out (``\\n``): a file's name may hold them, and must not forge a line of a log."""
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


@contextmanager
def about(job: object) -> Iterator[None]:
    """Whatever is logged inside belongs to *job*."""
    token = _job.set(str(job))
    try:
        yield
    finally:
        _job.reset(token)


class JobFilter(logging.Filter):
    """Gives each record the attribute ``job``: the id of the job that it belongs to, or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every record."""
        record.job = _job.get()
        return True


class LineFormatter(logging.Formatter):
    """As Python's own, with each message in one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return in_one_line(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message"}``, and where there are any ``job``, ``error`` and what ``extra`` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if job := getattr(record, "job", "") or _job.get():
            line["job"] = job
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in record.__dict__.items() if name not in _OWN}
        # A request or another object that somebody attached is named, not dumped: it may hold secrets
        line |= {name: value for name, value in extra.items() if isinstance(value, str | int | float | bool | None)}
        return json.dumps(line, ensure_ascii=False)
