"""Plans as a YAML file, to be kept in version control, compared, and imported elsewhere.

::

    version: 1
    plans:
      - name: daily-full
        title: Daily full
        kind: backup
        arguments: {backup: full}
        cron: 0 3 * * *
        time_zone: UTC
        enabled: true

A file is imported completely or not at all. Every problem is reported, with its line.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from django.db import transaction
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import Plan

from . import editing
from .validation import WRITABLE, check

LONGEST_FILE = 1 << 20
_DEEPEST = 20
_MOST_PARTS = 100_000
_LONGEST_VALUE = 10_000
_VALUES = (*WRITABLE, "enabled")
_HEADER = "# Plans, as `manage.py backup_plans_export` writes them. Import them with `manage.py backup_plans_import FILE`.\n"
_ALWAYS = ("title", "kind", "arguments", "cron", "time_zone", "enabled")

Where = tuple[str | int, ...]


class Entry(BaseModel):
    """A plan in a file; missing fields have the defaults of a new plan."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, StringConstraints(max_length=64)]
    title: Annotated[str, StringConstraints(max_length=120)] = ""
    kind: str
    arguments: dict[str, JsonValue] = {}
    cron: str
    time_zone: str = "UTC"
    enabled: bool = True
    host: Annotated[str, StringConstraints(max_length=255)] = ""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    limit_minutes: Annotated[int, Field(ge=1, le=40_000)] = 1440
    alert_to: list[str] = []
    alert_after: Annotated[int, Field(ge=1, le=1000)] = 1

    def values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _VALUES}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1]
    plans: Annotated[list[Entry], Field(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one plan by a file. ``before`` is None for a new plan, ``after`` for a removed one."""

    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def what(self) -> Literal["added", "changed", "removed", "same"]:
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "same" if self.before == self.after else "changed"

    @property
    def kinds(self) -> set[str]:
        """The job types concerned; importing needs the permission of each."""
        if self.before and self.after and all(self.before[name] == self.after[name] for name in WRITABLE):
            return set()
        return {str(side["kind"]) for side in (self.before, self.after) if side}

    @property
    def lines(self) -> list[str]:
        """The difference by lines, each prefixed with ``+``, ``-`` or a space."""
        old, new = (_dump(_plain(self.name, side)).splitlines() if side else [] for side in (self.before, self.after))
        return [line for line in difflib.ndiff(old, new) if not line.startswith("?")]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "change": self.what, "before": self.before, "after": self.after}


def write(plans: Iterable[Plan]) -> str:
    """The text of a file with *plans*; most fields with default values are left out."""
    entries = [_plain(plan.name, {name: getattr(plan, name) for name in _VALUES}) for plan in plans]
    return _HEADER + _dump({"version": 1, "plans": entries})


def read(text: str) -> list[Entry]:
    """The plans in a file. Raises one `UsageError` whose ``problems`` lists every problem with its line."""
    data, lines = _parse(text)
    try:
        entries = _File.model_validate(data).plans
    except ValidationError as problem:
        raise _refused([(tuple(error["loc"]), _say(error)) for error in problem.errors()], lines) from None
    problems: list[tuple[Where, str]] = []
    for number, entry in enumerate(entries):
        problems += _about(entry, ("plans", number))
        if entry.name in [other.name for other in entries[:number]]:
            problems.append((("plans", number, "name"), f"the name {entry.name!r} is used twice"))
    if problems:
        raise _refused(problems, lines)
    return list(entries)


def compare(entries: Sequence[Entry], *, replace: bool = False) -> list[Change]:
    """The changes that importing *entries* would make, by name. With *replace*, other plans are removed."""
    present = {plan.name: {name: getattr(plan, name) for name in _VALUES} for plan in Plan.objects.all()}
    changes = [Change(name=entry.name, before=present.get(entry.name), after=entry.values()) for entry in entries]
    if replace:
        named = {entry.name for entry in entries}
        changes += [Change(name=name, before=values, after=None) for name, values in present.items() if name not in named]
    return sorted(changes, key=lambda change: change.name)


def import_entries(actor: Actor, entries: Sequence[Entry], *, replace: bool = False) -> list[Change]:
    """Import *entries* in one transaction, and audit each change. Returns the changes."""
    with transaction.atomic(using=configuration().database):
        list(Plan.objects.select_for_update())
        changes = [change for change in compare(entries, replace=replace) if change.what != "same"]
        for change in changes:
            _apply(actor, change)
        if changes:
            audit.record(actor, "plans.imported", "plans", after={change.name: change.what for change in changes})
    return changes


def _apply(actor: Actor, change: Change) -> None:
    if change.after is None:
        editing.remove_plan(actor, Plan.objects.get(name=change.name))
        return
    if change.before is None:
        editing.make_plan(actor, change.name, **change.after)
        return
    values = {name: value for name, value in change.after.items() if name != "enabled"}
    plan = editing.change_plan(actor, Plan.objects.get(name=change.name), **values)
    (editing.resume_plan if change.after["enabled"] else editing.pause_plan)(actor, plan)


def _plain(name: str, values: dict[str, Any]) -> dict[str, Any]:
    default = Entry(name=name, kind="", cron="").values()
    return {"name": name, **{key: values[key] for key in _VALUES if key in _ALWAYS or values[key] != default[key]}}


def _dump(data: Any) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


# Problems and their lines


def _parse(text: str) -> tuple[Any, dict[Where, int]]:
    """The data of a file, and the line of each value. Raises `UsageError`."""
    if len(text) > LONGEST_FILE:
        raise _refused([((), f"it is longer than {LONGEST_FILE:,} characters")], {})
    try:
        _refuse_unsafe(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise _refused([((), "it is empty")], {})
        lines: dict[Where, int] = {}
        twice = list(_walk(node, (), lines))
        if twice:
            raise _refused(twice, lines)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        raise _refused([((), str(problem.problem or problem))], {(): mark.line + 1} if mark else {}) from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as problem:
        raise _refused([((), str(problem).splitlines()[0])], {}) from None


def _refuse_unsafe(text: str) -> None:
    """Raise `UsageError` for references, deep nesting, and more or longer values than plans have.

    References can make a small file expand to a huge one, and parsing a million digits in base 60 takes minutes.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused([((), "references (& and *) are not allowed")], {(): line})
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _refused([((), "it is nested too deeply")], {(): line})
        if number > _MOST_PARTS or (isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_VALUE):
            raise _refused([((), "it is larger than plans can be")], {(): line})


def _walk(node: yaml.Node, where: Where, lines: dict[Where, int]) -> Iterator[tuple[Where, str]]:
    """Record the line of every value below *node*; yield duplicate keys, of which YAML would silently keep the last."""
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _walk(item, (*where, number), lines)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, item in node.value:
            below = (*where, str(key.value))
            yield from _walk(item, below, lines)
            lines[below] = key.start_mark.line + 1
            if below in seen:
                yield below, "the key is repeated"
            seen.add(below)


def _about(entry: Entry, where: Where) -> Iterator[tuple[Where, str]]:
    try:
        check(Plan(name=entry.name, **entry.values()))
    except UsageError as problem:
        for text in problem.details["problems"]:
            field, separator, rest = text.partition(": ")
            yield ((*where, field), rest) if separator and field in Entry.model_fields else (where, text)


def _say(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such setting"
    return str(error["msg"]).removeprefix("Value error, ")


def _refused(problems: Iterable[tuple[Where, str]], lines: dict[Where, int]) -> UsageError:
    located = []
    for where, text in problems:
        line = next((lines[where[:end]] for end in range(len(where), -1, -1) if where[:end] in lines), 0)
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
        before = [f"line {line}"] * bool(line) + [path] * bool(path)
        located.append((line, ": ".join([*before, f"{text.rstrip('.')}."])))
    texts = [text for _, text in sorted(located, key=lambda item: item[0])]
    return UsageError(
        "The file was not imported: " + " ".join(texts),
        hint="No plan was changed. Correct the file and try again.",
        problems=texts,
    )
