"""What a prune would remove now, according to the index; pages do not read the repository.

The prune itself reads the repository and decides again. Where the index knows less (when damage was found), the preview treats
the newest good proof as void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backups.conf import configuration
from backups.engine.repository.retention import Candidate, Policy, PolicyError, Rule, decide, parse_duration
from backups.jobs.arguments import PruneArguments
from backups.models import IndexedBackup

MOST = 3_000
"""Sets with more backups than this are not previewed; queue a dry run instead."""

_RULES = ("hourly", "daily", "weekly", "monthly", "yearly")
_FIELDS = (
    *("backup_id", "time", "kind", "parent_id", "held", "hold_note", "verification", "verified_at", "safety"),
    *("bytes_stored", "sources"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Backups kept and removed, or a ``problem``. ``kept_by`` counts each backup under every rule that keeps it."""

    total: int = 0
    kept_by: tuple[tuple[str, int], ...] = ()
    going: tuple[Going, ...] = ()
    bytes_going: int = 0
    too_many: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A backup that would be removed, and why."""

    backup_id: str
    set: str
    time: datetime
    bytes_stored: int
    reason: str


def preview(arguments: PruneArguments, now: datetime) -> Preview:
    """What a prune with *arguments* would do at *now*; reads the index only."""
    repository, name = arguments.target(configuration())
    try:
        policy = policy_of(arguments)
        if policy.is_empty:
            return Preview(problem="Give at least one rule.")
    except PolicyError as problem:
        return Preview(problem=f"{str(problem).capitalize()}.")
    rows = IndexedBackup.objects.filter(repository=repository).exclude(verification=IndexedBackup.Verification.MISSING)
    names = [name] if name else sorted(set(rows.order_by().values_list("set", flat=True).distinct()))
    total, kept, going, too_many = 0, Counter[Rule](), list[Going](), list[str]()
    for one in names:
        backups = list(rows.filter(set=one).values(*_FIELDS)[: MOST + 1])
        if len(backups) > MOST:
            too_many.append(one)
            continue
        total += len(backups)
        by_id = {row["backup_id"]: row for row in backups}
        for decision in decide(candidates(backups), policy, now):
            row = by_id[decision.id]
            kept.update(decision.rules - {Rule.SAFETY, Rule.NEEDED} or decision.rules)
            if not decision.keep:
                size, why = row["bytes_stored"], decision.reasons[0]
                going.append(Going(backup_id=decision.id, set=one, time=row["time"], bytes_stored=size, reason=why))
    return Preview(
        total=total,
        kept_by=tuple((str(rule), kept[rule]) for rule in Rule if kept[rule]),
        going=tuple(sorted(going, key=lambda item: item.time)),
        bytes_going=sum(item.bytes_stored for item in going),
        too_many=tuple(too_many),
    )


def policy_of(arguments: PruneArguments) -> Policy:
    """The retention policy in a prune job's arguments. Raises `PolicyError`."""
    counts = {name: getattr(arguments, name) for name in ("keep_last", *(f"keep_{rule}" for rule in _RULES))}
    within = parse_duration(arguments.keep_within) if arguments.keep_within else None
    return Policy(**counts, keep_within=within, verified_floor=arguments.verified_floor)


def candidates(rows: Sequence[dict[str, Any]]) -> list[Candidate]:
    """Retention candidates from rows of the index (`engine.prune.candidates` makes the same from a repository)."""
    restored = any(row["verification"] == "restore" for row in rows)
    damaged: set[str] = set()
    for row in sorted(rows, key=lambda row: str(row["backup_id"])):
        if row["verification"] == "damaged" or row["parent_id"] in damaged:
            damaged.add(row["backup_id"])
    proofs = {"restore"} if restored else {"restore", "hashes"}
    return [
        Candidate(
            id=row["backup_id"],
            time=row["time"],
            kind="snapshot" if row["safety"] else row["kind"],
            needs=frozenset(filter(None, [row["parent_id"]])),
            hold=(row["hold_note"] or "no reason given") if row["held"] else None,
            damaged=row["verification"] == "damaged",
            verified=row["verification"] in proofs and row["verified_at"] is not None and row["backup_id"] not in damaged,
            incomplete=any(source.get("missing") for source in row["sources"]),
        )
        for row in rows
    ]
