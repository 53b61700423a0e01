"""Conditions of signed evidence: changes to a repository without the key, and the key itself."""

from collections.abc import Iterator

from backups.catalog.notices import KEY_LOST, UNSIGNED
from backups.engine.progress import counted
from backups.engine.repository.suspicion import JOURNAL, LOST_PROOFS, TAMPERED_HOLD
from backups.models import Severity
from backups.monitoring.facts import Facts, NoticeFact

from .condition import Observation, condition, of

_LOOK = "Find out who can write to the repository. "
_ADOPT = "when it is explained, run refbackup adopt on this host: it signs the repository as it is."
_NAMED = 3


def _subjects(facts: Facts, code: str) -> Iterator[tuple[str, list[NoticeFact]]]:
    """What was noticed under a code, together for each set of each repository."""
    found: dict[str, list[NoticeFact]] = {}
    for one in facts.noticed:
        if one.code == code:
            found.setdefault("/".join(filter(None, (one.repository, one.set))), []).append(one)
    yield from found.items()


def _backups(members: list[NoticeFact], facts: Facts) -> str:
    """The first backups, and of which set."""
    rest = len(members) - _NAMED
    named = ", ".join(one.backup for one in members[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
    return f"in the set {members[0].set}{of(f'the repository {members[0].repository}', facts.repositories)}: {named}"


@condition(
    "journal_changed",
    "The journal of a set was changed",
    todo=f"{_LOOK}Compare the list of backups with what you expect; {_ADOPT} Until then no new proof counts.",
    link="backups:backups",
    severity=Severity.CRITICAL,
    check="repositories",
)
def journal_changed(facts: Facts, threshold: float) -> Iterator[Observation]:
    for subject, members in _subjects(facts, JOURNAL):
        yield Observation(subject=subject, text=members[0].text)


@condition(
    "holds_changed",
    "Holds were planted, changed or removed",
    todo=f"{_LOOK}Hold or release each of these backups again: that is signed.",
    link="backups:backups",
    query="mark=held",
    check="repositories",
)
def holds_changed(facts: Facts, threshold: float) -> Iterator[Observation]:
    for subject, members in _subjects(facts, TAMPERED_HOLD):
        text = f"Nothing vouches for {counted(len(members), 'hold')} {_backups(members, facts)}."
        yield Observation(subject=subject, text=text)


@condition(
    "proofs_lost",
    "Signed proofs are gone",
    todo=f"{_LOOK}Verify these backups again; {_ADOPT}",
    link="backups:backups",
    check="repositories",
)
def proofs_lost(facts: Facts, threshold: float) -> Iterator[Observation]:
    for subject, members in _subjects(facts, LOST_PROOFS):
        text = f"Signed proofs of {counted(len(members), 'backup')} are gone {_backups(members, facts)}."
        yield Observation(subject=subject, text=text)


@condition(
    "key_lost",
    "The signing key is gone",
    todo="Bring it back from where you keep a copy of it. If there is none, run refbackup adopt on this host: it makes a new "
    "key, and signs the repository as it is.",
    link="backups:backups",
    severity=Severity.CRITICAL,
    check="repositories",
)
def key_lost(facts: Facts, threshold: float) -> Iterator[Observation]:
    for subject, members in _subjects(facts, KEY_LOST):
        yield Observation(subject=subject, text=members[0].text)


@condition(
    "unsigned",
    "A repository is not signed",
    todo="Run refbackup adopt on this host: from then on, forged and removed backups are noticed.",
    link="backups:backups",
    severity=Severity.INFO,
    check="repositories",
)
def unsigned(facts: Facts, threshold: float) -> Iterator[Observation]:
    for subject, members in _subjects(facts, UNSIGNED):
        yield Observation(subject=subject, text=members[0].text)
