"""What was noticed in repositories that somebody changed without the key. Each change of it is an entry in the audit.

Only a host with a key can tell, so each host keeps its own list: the newest of its entries.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

from backups import moments
from backups.conf import configuration
from backups.engine.evidence.keys import lost_key
from backups.engine.repository.folder import Repository
from backups.engine.repository.suspicion import VANISHED, suspicions
from backups.identity import audit
from backups.models import AuditEntry

KEY_LOST = "key_lost"
"""Code: the signing key is gone, with which this host signed in the repository."""

UNSIGNED = "unsigned"
"""Code: there is a signing key, and it vouches for nothing in the repository yet."""

_ACTION = "evidence.noticed"
_MOST, _LONGEST, _MOST_ENTRIES = 200, 300, 50
_looked: dict[str, str] = {}
"""By repository: the state in which nothing has changed since this process looked for notices."""


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """Something noticed: its code (those of `suspicion`, or one above), set, backup where it is about one, and a sentence."""

    code: str
    set: str
    backup: str
    text: str


def noticed(names: Collection[str]) -> dict[str, list[Notice]]:
    """What the hosts with a key noticed in each of these repositories, as of their last look."""
    found: dict[str, list[Notice]] = {name: [] for name in names}
    for (name, _), notices in _last(names).items():
        found[name].extend(one for one in notices if one not in found[name])
    return found


def _last(names: Collection[str]) -> dict[tuple[str, str], list[Notice]]:
    """The newest notices by repository and host."""
    targets = {f"repository:{name}": name for name in names}
    entries = AuditEntry.objects.filter(target__in=targets, action=_ACTION).order_by("-number")
    found: dict[tuple[str, str], list[Notice]] = {}
    for target, after in entries.values_list("target", "after")[: _MOST_ENTRIES * len(targets)]:
        assert after is not None
        found.setdefault((targets[target], after["host"]), [Notice(**one) for one in after["noticed"]])
    return found


def look(name: str, repository: Repository, seen: Mapping[tuple[str, str], str]) -> None:
    """Note what there is to notice now, unless nothing changed: *seen* is `Repository.seen` of every backup by set and id.

    A file that was changed without a change of its folder is found within the hour.
    """
    config = configuration()
    lost = lost_key(config.repositories[name], config.signing_key)
    evidence = repository.evidence
    if evidence is None and not lost:
        return
    sets = repository.sets()
    journals = [evidence.journal(one) for one in sets] if evidence is not None else []
    ends = [(one.head, one.problem, one.warning) for one in journals]
    state = hashlib.sha256(repr((lost, sets, ends, sorted(seen.items()), f"{moments.now():%d %H}")).encode()).hexdigest()
    if _looked.get(name) == state:
        return
    last = _last([name]).get((name, config.host), [])
    now = sorted({*_of_key(lost, last), *_in(repository, sets)})[:_MOST]
    if now != last:
        after = {"host": config.host, "noticed": [asdict(one) for one in now]}
        audit.record(
            audit.SYSTEM, _ACTION, f"repository:{name}", before={"noticed": [asdict(one) for one in last]}, after=after
        )
    _looked[name] = state


def _of_key(lost: str, last: list[Notice]) -> list[Notice]:
    """That the key is gone; nothing is known then about what was noticed before, so that it stays."""
    if not lost:
        return []
    return [Notice(KEY_LOST, "", "", f"{lost[0].upper()}{lost[1:]}."), *(one for one in last if one.code != KEY_LOST)]


def _in(repository: Repository, sets: list[str]) -> Iterator[Notice]:
    evidence = repository.evidence
    if evidence is None:
        return
    signed = [one for one in sets if evidence.kept(one)]
    if sets and not signed and evidence.keys.private is not None:
        yield Notice(UNSIGNED, "", "", "No key vouches for the backups of this repository.")
    for set_name in signed:
        problems = [one for one in suspicions(repository, set_name) if one.code != VANISHED]  # the index has the vanished ones
        for problem in problems[:_MOST]:
            yield Notice(problem.code, set_name, problem.lies_in or "", problem.message[:_LONGEST])
