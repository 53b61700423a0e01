"""A plan as somebody writes it: checked whole before it is kept, with all that is wrong told at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils import timezone

from backups.engine.errors import EngineError, UsageError
from backups.jobs.types import DELETE, PREVIEW, RESTORE, RESTORE_IN_PLACE, job_type
from backups.models import Plan

from .cron import in_words, slots_after

WRITABLE = (
    *("title", "kind", "arguments", "cron", "time_zone", "host", "attempts", "limit_minutes"),
    *("alert_to", "alert_after"),
)
"""What may be changed of a plan; its name stays, and `services.pause_plan` and `resume_plan` switch it."""

MOST_ADDRESSES = 50
"""Addresses that a plan may name beside the alerts' own."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

NEVER_PLANNED = frozenset({RESTORE_IN_PLACE.name, RESTORE.name, PREVIEW.name, DELETE.name})
"""Kinds that a person asks for each time: each is about one backup."""


def check(plan: Plan) -> None:
    """Raises one `UsageError` that names all that is wrong with *plan*, which need not be saved."""
    found = list(_problems(plan))
    if found:
        raise UsageError(" ".join(found), hint="Nothing was changed. Correct them and try again.", problems=found)


def described(plan: Plan) -> dict[str, Any]:
    """What a person wrote of a plan, for the audit."""
    return {name: getattr(plan, name) for name in WRITABLE}


def _problems(plan: Plan) -> Iterator[str]:
    try:
        plan.clean_fields(exclude=["arguments", "alert_to"])
    except ValidationError as problem:
        for field, messages in problem.message_dict.items():
            yield from (f"{field}: {message}" for message in messages)
    for field in ("title", "host"):
        if _CONTROL.search(getattr(plan, field)):
            yield f"{field}: it holds a line break or another control character; write it in one line."
    yield from _about_time(plan)
    yield from _about_kind(plan)
    if isinstance(plan.alert_to, list) and len(plan.alert_to) > MOST_ADDRESSES:
        yield f"alert_to: these are {len(plan.alert_to)} addresses; {MOST_ADDRESSES} are the most."
        return
    for address in plan.alert_to if isinstance(plan.alert_to, list) else [plan.alert_to]:
        try:
            validate_email(address)
        except ValidationError:
            yield f"alert_to: {address!r} is no address."


def _about_time(plan: Plan) -> Iterator[str]:
    if plan.time_zone not in available_timezones():
        yield f"time_zone: {plan.time_zone!r} is not known; use a name such as UTC or Europe/Berlin."
        return
    if len(plan.cron.split()) != 5:
        yield "cron: write five fields: minute, hour, day of month, month, day of week, such as 0 3 * * *."
        return
    try:
        in_words(plan.cron)
        if not slots_after(plan.cron, plan.time_zone, timezone.now(), 1):
            yield f"cron: {plan.cron!r} is never due."
    except ValueError as problem:
        yield f"cron: {problem}."


def _about_kind(plan: Plan) -> Iterator[str]:
    if plan.kind in NEVER_PLANNED:
        yield f"kind: {plan.kind} is not done by a plan; a person asks for it each time."
        return
    if not isinstance(plan.arguments, dict):
        yield "arguments: they are not an object of names and values."
        return
    try:
        kind = job_type(plan.kind)
        if not kind.planned:
            yield f"kind: {plan.kind} is not done by a plan; a person asks for it each time."
        kind.command(kind.parse(plan.arguments), "")
    except EngineError as problem:
        yield f"{'kind' if problem.message.startswith('There is no kind') else 'arguments'}: {problem.message}"
