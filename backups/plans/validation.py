"""Validation of a whole plan, which reports every problem at once."""

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from backups import moments
from backups.engine.errors import EngineError, UsageError
from backups.engine.names import ONE_LINE
from backups.jobs.types import job_type
from backups.models import Plan

from .cron import slots_after
from .cron_words import in_words

WRITABLE = (
    *("title", "kind", "arguments", "cron", "time_zone", "host", "attempts", "limit_minutes"),
    *("alert_to", "alert_after"),
)
"""Fields of a plan that can be changed; `editing.pause_plan` and `resume_plan` change ``enabled``."""

MOST_ADDRESSES = 50
"""Addresses that a plan may name in addition to the recipients of alerts."""


def check(plan: Plan) -> None:
    """Raise one `UsageError` that names every problem of *plan*, which need not be saved."""
    problems = list(_problems(plan))
    if problems:
        raise UsageError(" ".join(problems), hint="Nothing was changed. Correct the plan and try again.", problems=problems)


def described(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that people write, for the audit."""
    return {name: getattr(plan, name) for name in WRITABLE}


def _problems(plan: Plan) -> Iterator[str]:
    try:
        plan.clean_fields(exclude=["arguments", "alert_to"])
    except ValidationError as problem:
        for field, messages in problem.message_dict.items():
            yield from (f"{field}: {message}" for message in messages)
    for field in ("title", "host"):
        if not re.fullmatch(ONE_LINE, getattr(plan, field)):
            yield f"{field}: it contains a line break or another control character."
    yield from _about_time(plan)
    yield from _about_kind(plan)
    if isinstance(plan.alert_to, list) and len(plan.alert_to) > MOST_ADDRESSES:
        yield f"alert_to: {len(plan.alert_to)} addresses are too many; at most {MOST_ADDRESSES} are allowed."
        return
    for address in plan.alert_to if isinstance(plan.alert_to, list) else [plan.alert_to]:
        try:
            validate_email(address)
        except ValidationError:
            yield f"alert_to: {address!r} is not a mail address."


def _about_time(plan: Plan) -> Iterator[str]:
    if plan.time_zone not in available_timezones():
        yield f"time_zone: {plan.time_zone!r} is not a time zone; use a name such as UTC or Europe/Berlin."
        return
    if len(plan.cron.split()) != 5:
        yield "cron: write five fields: minute, hour, day of month, month, day of week, such as 0 3 * * *."
        return
    try:
        in_words(plan.cron)
        if not slots_after(plan.cron, plan.time_zone, moments.now(), 1):
            yield f"cron: {plan.cron!r} is never due."
    except ValueError as problem:
        yield f"cron: {problem}."


def _about_kind(plan: Plan) -> Iterator[str]:
    try:
        kind = job_type(plan.kind)
    except EngineError as problem:
        yield f"kind: {problem.message}"
        return
    if not kind.planned:
        yield f"kind: {plan.kind} cannot be planned; it must be requested each time."
    elif not isinstance(plan.arguments, dict):
        yield "arguments: give an object of names and values."
    else:
        try:
            kind.command(kind.parse(plan.arguments), "")
        except EngineError as problem:
            yield f"arguments: {problem.message}"
