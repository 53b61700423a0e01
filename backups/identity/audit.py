"""The audit: entries in a hash chain, each written in the transaction of what it records.

Each entry's hash is the SHA-256 of the hash before it and of the entry as canonical JSON (keys sorted, no spaces), so that a
changed, removed or inserted entry breaks the chain from there on (Haber and Stornetta, "How to Time-Stamp a Digital Document",
1991). Someone who can rewrite the whole table can rewrite the chain too: keep its newest hash (`head`) elsewhere.
"""

from __future__ import annotations

import getpass
import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, transaction
from django.db.models import F, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast, Concat
from django.utils import timezone

from backups import moments
from backups.conf import configuration
from backups.models import AuditEntry, Job
from backups.models.listing import Filter, Keyset

FIRST = "0" * 64
"""The ``previous`` hash of the first entry."""

_HASHED = ("number", "time", "who", "who_id", "via", "token", "address", "action", "target", "before", "after")
_BATCH = 1000
_LOCK = 0x7265_6661_7564_6974  # "refaudit": PostgreSQL's advisory lock for adding an entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """On whose behalf something is done: an account, possibly through a token; a plan; or the system."""

    name: str
    via: Job.Via
    id: str = ""
    token: str = ""
    address: str = ""

    @classmethod
    def of(cls, job: Job) -> Actor:
        return cls(name=job.by, id=job.by_id, via=Job.Via(job.via))


SYSTEM = Actor(name="system", via=Job.Via.SYSTEM)


def at_the_shell() -> Actor:
    """The actor of a command, by the name of the operating system's user."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        name = f"uid {os.getuid()}"
    return Actor(name=name, via=Job.Via.COMMAND)


def record(actor: Actor, action: str, target: str = "", *, before: Any = None, after: Any = None) -> AuditEntry:
    """Add an entry; inside a transaction of the control database it is committed with it."""
    alias = configuration().database
    with transaction.atomic(using=alias):
        if connections[alias].vendor == "postgresql":
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        # On SQLite the transaction has held the write lock since it began (transaction_mode IMMEDIATE).
        last = AuditEntry.objects.using(alias).order_by("-number").values_list("number", "hash").first() or (0, FIRST)
        entry = AuditEntry(
            number=last[0] + 1,
            time=moments.now(),
            who=actor.name[:150],
            who_id=actor.id,
            via=actor.via,
            token=actor.token[:140],
            address=actor.address,
            action=action,
            target=target[:200],
            before=_plain(before),
            after=_plain(after),
            previous=last[1],
        )
        entry.hash = digest(entry)
        entry.save(using=alias, force_insert=True)
    return entry


def digest(entry: AuditEntry) -> str:
    """The correct hash of an entry, in hexadecimal."""
    return _digest(entry.previous, {name: getattr(entry, name) for name in _HASHED})


def _digest(previous: str, facts: dict[str, Any]) -> str:
    values = {**facts, "time": _moment(facts["time"]), "via": str(facts["via"])}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}\n{text}".encode("ascii")).hexdigest()


def head() -> tuple[int, str]:
    """Number and hash of the newest entry; ``(0, FIRST)`` when there is none."""
    return AuditEntry.objects.order_by("-number").values_list("number", "hash").first() or (0, FIRST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first broken link of the chain."""

    number: int
    why: str


def verify_chain(known: tuple[int, str] | None = None) -> tuple[int, Broken | None]:
    """The number of valid entries, and the first broken link. *known* is an earlier `head` that was kept elsewhere.

    Entries removed from the end are noticed only with *known*. A million entries take a minute.
    """
    previous, expected = FIRST, 1
    try:
        for row in AuditEntry.objects.order_by("number").values(*_HASHED, "previous", "hash").iterator(chunk_size=_BATCH):
            why = _broken(row, expected, previous, known)
            if why:
                return expected - 1, Broken(number=expected, why=why)
            previous, expected = row["hash"], expected + 1
    except (ValueError, TypeError, AttributeError) as problem:  # a value that the database should not have accepted
        return expected - 1, Broken(number=expected, why=f"it or one soon after it cannot be read: {problem}")
    if known and known[0] >= expected:
        return expected - 1, Broken(number=expected, why=f"entries up to {known[0]} were recorded elsewhere and are missing")
    return expected - 1, None


def _broken(row: dict[str, Any], expected: int, previous: str, known: tuple[int, str] | None) -> str:
    if row["number"] != expected:
        return f"entry {expected} is missing; {row['number']} follows"
    if row["previous"] != previous:
        return "it does not follow the entry before it"
    if row["hash"] != _digest(previous, {name: row[name] for name in _HASHED}):
        return "it is not what was written"
    if known and known[0] == expected and known[1] != row["hash"]:
        return "its hash differs from the one recorded elsewhere"
    return ""


def verified() -> AuditEntry | None:
    """The entry of the newest `verify_and_record`."""
    return AuditEntry.objects.filter(action="audit.verified").order_by("-number").first()


def verify_and_record(actor: Actor, known: tuple[int, str] | None = None) -> dict[str, Any]:
    """`verify_chain`, and an entry that says what came of it. Returns the same: entries, their newest hash, what is broken."""
    number, newest = head()
    count, broken = verify_chain(known)
    found = {
        "entries": count,
        "head": {"number": number, "hash": newest},
        "broken": {"number": broken.number, "why": broken.why} if broken else None,
    }
    record(actor, "audit.verified", "audit", after=found)
    return found


# Looking for entries

WINDOW = 20_000
"""Entries that one search reads when no single index answers it, which bounds its time."""

ENTRIES = Keyset(AuditEntry, "number")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter(Filter):
    """Which entries. An ``action`` that ends in a dot matches all actions that begin with it."""

    who: str = ""
    action: str = ""
    target: str = ""
    via: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Entries, newest first. The next page begins below ``below``, None at the end; ``searched_to`` is the oldest one read."""

    entries: list[AuditEntry]
    below: int | None
    searched_to: int


def search(wanted: EntryFilter, *, below: int | None = None, count: int = 50) -> Found:
    """The newest *count* entries that match and have numbers less than *below*. Searches at most `WINDOW` entries."""
    top = head()[0] if below is None else below - 1
    if wanted.until is not None:  # numbers follow times, but for clocks that were put back
        last = AuditEntry.objects.filter(time__lte=wanted.until).order_by("-time").values_list("number", flat=True).first()
        top = min(top, last or 0)
    bottom = 0 if _is_quick(wanted) else max(0, top - WINDOW)
    part = ENTRIES.part(matching(wanted).filter(number__lte=top, number__gt=bottom), count)
    if part.older is not None:
        return Found(entries=part.rows, below=part.older[0], searched_to=part.older[0])
    return Found(entries=part.rows, below=bottom + 1 if bottom else None, searched_to=bottom + 1)


def matching(wanted: EntryFilter) -> QuerySet[AuditEntry]:
    """All entries that match, in no order."""
    same = {name: getattr(wanted, name) for name in ("who", "target", "via") if getattr(wanted, name)}
    rows = AuditEntry.objects.filter(**same)
    if wanted.action.endswith("."):
        rows = rows.filter(action__gte=wanted.action, action__lt=wanted.action[:-1] + "/")
    elif wanted.action:
        rows = rows.filter(action=wanted.action)
    if wanted.since is not None:
        rows = rows.filter(time__gte=wanted.since)
    if wanted.until is not None:
        rows = rows.filter(time__lte=wanted.until)
    words = wanted.text.split()[:8]
    if words:
        parts = [F(name) for name in ("who", "action", "target", "token", "address")]
        sides = [Cast(name, TextField()) for name in ("before", "after")]
        spaced = itertools.chain(*((part, Value(" ")) for part in (*parts, *sides)))
        rows = rows.annotate(everything=Concat(*spaced, output_field=TextField()))
    for word in words:
        escaped = json.dumps(word)[1:-1]  # as JSON columns have it
        fits = Q(everything__icontains=word)
        rows = rows.filter(fits if escaped == word else fits | Q(everything__icontains=escaped))
    return rows


def _is_quick(wanted: EntryFilter) -> bool:
    """Whether one index alone finds and orders the matches."""
    if wanted.text or wanted.via or wanted.since or wanted.action.endswith("."):
        return False
    return sum(bool(value) for value in (wanted.who, wanted.action, wanted.target)) <= 1


def _moment(time: datetime) -> str:
    return time.astimezone(tz=None if time.tzinfo is None else timezone.get_fixed_timezone(0)).isoformat()


def _plain(value: Any) -> Any:
    """*value* as it comes back from the database: through JSON once."""
    return json.loads(json.dumps(value, cls=DjangoJSONEncoder))
