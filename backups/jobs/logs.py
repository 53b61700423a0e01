"""Log filter and formatters: the job of each record, one line per record, JSON.

::

    LOGGING = {
        "filters": {"job": {"()": "backups.jobs.logs.JobFilter"}},
        "formatters": {"json": {"()": "backups.jobs.logs.JsonFormatter"}},
        ...
    }
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from backups.engine.names import in_one_line

_job: ContextVar[str] = ContextVar("job", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "job", "taskName"}
"""Attributes of every record; others were given with ``extra``."""


@contextmanager
def about(job: object) -> Iterator[None]:
    """Attribute records logged in the block to *job*."""
    token = _job.set(str(job))
    try:
        yield
    finally:
        _job.reset(token)


class JobFilter(logging.Filter):
    """Gives each record the attribute ``job``: the id of its job, or an empty string."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.job = _job.get()
        return True


class LineFormatter(logging.Formatter):
    """Python's formatter with each message on one line; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return in_one_line(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, process, and if present job, error and ``extra`` values."""

    def format(self, record: logging.LogRecord) -> str:
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
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        # Other objects, such as a request, are left out: they may hold secrets
        line |= {name: value for name, value in extra.items() if isinstance(value, str | int | float | bool | None)}
        return json.dumps(line, ensure_ascii=False)
