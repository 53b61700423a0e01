"""Log lines for programs."""

from __future__ import annotations

import json
import logging

import pytest

from backups.jobs import submit
from backups.jobs.logs import JobFilter, JsonFormatter, about


def line(**values: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "backups", "levelname": "INFO", "msg": "one\n%s", "args": ("two",), **values})
    assert JobFilter().filter(record)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_each_line_is_a_json_object_with_its_job():
    assert line()["message"] == "one\ntwo" and "job" not in line()
    with about("a1"):
        with about("b2"):
            assert line()["job"] == "b2"
        assert line()["job"] == "a1"


def test_errors_and_extra_values_are_logged_but_not_objects():
    try:
        raise ValueError("broken")
    except ValueError as problem:
        found = line(exc_info=(type(problem), problem, problem.__traceback__), backup="x", request=object())
    assert "ValueError: broken" in str(found["error"]) and found["backup"] == "x" and "request" not in found


@pytest.mark.slow
def test_worker_log_names_the_job(site, caplog):
    caplog.handler.addFilter(JobFilter())
    with caplog.at_level(logging.INFO, logger="backups.jobs.runner"):
        job = site.done(submit.back_up(site.actor, backup="snapshot"))
    assert {record.job for record in caplog.records if record.name == "backups.jobs.runner"} == {str(job.pk)}
