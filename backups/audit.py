"""The audit: entries in a hash chain, written together with what they tell of.

Each entry's hash is the SHA-256 of the hash before it and of the entry as canonical JSON (keys sorted, no spaces), so that a
changed, removed or inserted entry breaks the chain from there on (Haber and Stornetta, "How to Time-Stamp a Digital Document",
1991). Whoever can rewrite the whole table can also rewrite the chain: keep its newest hash elsewhere (`head`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, transaction
from django.utils import timezone

from .conf import configuration
from .models import AuditEntry, Job

FIRST = "0" * 64
"""What stands for the hash before the first entry."""

_BATCH = 1000
_LOCK = 0x7265_6661_7564_6974  # "refaudit": PostgreSQL's advisory lock for adding an entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """On whose behalf something is done: an account, by way of a token where one was used; a plan; or the system itself."""

    name: str
    via: Job.Via
    id: str = ""
    token: str = ""
    address: str = ""


SYSTEM = Actor(name="system", via=Job.Via.SYSTEM)


def record(actor: Actor, action: str, target: str = "", *, before: Any = None, after: Any = None) -> AuditEntry:
    """Add an entry. Inside a transaction of the control database it stands or falls with it."""
    alias = configuration().database
    with transaction.atomic(using=alias):
        if connections[alias].vendor == "postgresql":
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        # On SQLite the transaction has held the write lock since it began (transaction_mode IMMEDIATE).
        last = AuditEntry.objects.using(alias).order_by("-number").values_list("number", "hash").first() or (0, FIRST)
        entry = AuditEntry(
            number=last[0] + 1,
            time=timezone.now(),
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
    """The hash that belongs to an entry, in hexadecimal."""
    facts = {
        "number": entry.number,
        "time": _moment(entry.time),
        "who": entry.who,
        "who_id": entry.who_id,
        "via": str(entry.via),
        "token": entry.token,
        "address": entry.address,
        "action": entry.action,
        "target": entry.target,
        "before": entry.before,
        "after": entry.after,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{entry.previous}\n{text}".encode("ascii")).hexdigest()


def head() -> tuple[int, str]:
    """Number and hash of the newest entry; ``(0, FIRST)`` when there is none."""
    return AuditEntry.objects.order_by("-number").values_list("number", "hash").first() or (0, FIRST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first place where the chain does not hold."""

    number: int
    why: str


def verify_chain(known: tuple[int, str] | None = None) -> tuple[int, Broken | None]:
    """How many entries hold, and the first that does not. *known* is an earlier `head`, kept elsewhere."""
    previous, expected = FIRST, 1
    for entry in _all():
        if entry.number != expected:
            return expected - 1, Broken(number=expected, why=f"entry {expected} is missing; {entry.number} follows")
        if entry.previous != previous:
            return expected - 1, Broken(number=expected, why="it does not follow the entry before it")
        if entry.hash != digest(entry):
            return expected - 1, Broken(number=expected, why="it is not what was written")
        if known and known[0] == entry.number and known[1] != entry.hash:
            return expected - 1, Broken(number=expected, why="its hash is another than the one that was noted")
        previous, expected = entry.hash, expected + 1
    if known and known[0] >= expected:
        return expected - 1, Broken(number=expected, why=f"entries up to {known[0]} were noted, and are gone")
    return expected - 1, None


def _all() -> Iterator[AuditEntry]:
    return AuditEntry.objects.order_by("number").iterator(chunk_size=_BATCH)


def _moment(time: datetime) -> str:
    return time.astimezone(tz=None if time.tzinfo is None else timezone.get_fixed_timezone(0)).isoformat()


def _plain(value: Any) -> Any:
    """*value* as it comes back from the database: through JSON once."""
    return json.loads(json.dumps(value, cls=DjangoJSONEncoder))
