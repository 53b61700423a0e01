"""``repository.json``, and how it is made again when it is lost.

The id in it ties signatures to the repository: under another id, all that was signed there counts as forged. So the id is taken
from where it can be found, and the one who asks is told where that was::

    memory beside the signing key       what this host opened when it last signed there
    signatures of trusted keys          in the journals of the sets, and in each backup's folder
    other signatures there              anybody who can write to the repository may have made them
    none of them                        nothing there is signed: a new id
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import RepositoryMissing, RepositoryTooNew, UsageError, from_os_error
from ..evidence.journal import MOST_JOURNAL_BYTES, repository_in
from ..evidence.keys import Keys
from ..evidence.vouch import MOST_STATEMENT_BYTES, STATEMENT, journal_file
from ..names import BACKUP_ID, NAME
from ..runtime.enclosure import Enclosure
from . import leases
from .base import FORMAT

ABOUT = "repository.json"
_UNREADABLE = "repository.json.damaged"
_MOST_BYTES = 1 << 16
_MOST_LINES = 1000
"""Lines at the end of a journal that are looked at for the id."""

_UNUSED = frozenset({"backups", "trash", "writer"})
"""What is in a repository before anything was stored in it."""

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class IdFrom(StrEnum):
    """Where the id of a repository that had lost it was found."""

    MEMORY = "memory"
    SIGNED = "signed"
    UNSIGNED = "unsigned"
    NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a repository without its ``repository.json`` holds, and the id that it has again."""

    id: str
    id_from: IdFrom
    sets: int
    backups: int


def read_about(folder: Path) -> str:
    """The id of the repository in *folder*. Raises `RepositoryMissing` and `RepositoryTooNew`."""
    content = Enclosure(folder)
    try:
        about = json.loads(content.read(ABOUT, _MOST_BYTES))
        version, repository_id = about["format"], str(about.get("id", ""))
    except FileNotFoundError:
        raise RepositoryMissing(f"There is no repository in {folder}.", hint=_how_to_recover(folder, "missing")) from None
    except NotADirectoryError:
        raise RepositoryMissing(f"{folder} is not a folder.") from None
    except OSError as problem:
        raise from_os_error(problem, f"Opening the repository {folder}") from problem
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RepositoryMissing(
            f"{folder}/{ABOUT} cannot be read.", hint=_how_to_recover(folder, "damaged") or "Bring that file back."
        ) from None
    if not isinstance(version, int) or version > FORMAT:
        raise RepositoryTooNew(f"{folder} has format {version}; this version reads up to {FORMAT}.")
    return repository_id


def write_about(content: Enclosure, now: datetime, repository_id: str = "") -> str:
    """Make the folder a repository, with a new id if none is given. Returns the id. Raises ``OSError``."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "id": repository_id or str(uuid.uuid4()),
        "created": now.isoformat(timespec="seconds"),
    }
    content.write_file(ABOUT, json.dumps(about).encode() + b"\n")
    return str(about["id"])


def is_unused(content: Enclosure) -> bool:
    """Whether a folder holds nothing, or only what a repository has before its first backup. Raises ``OSError``."""
    staged = re.compile(rf"\.{re.escape(ABOUT)}\.[0-9a-f]+\.tmp")
    names = [name for name in content.names() if not staged.fullmatch(name)]
    return _UNUSED.issuperset(names) and not any(content.names(name) for name in ("backups", "trash"))


def lost_about(folder: Path) -> bool:
    """Whether *folder* holds backups, or journals of them, without a ``repository.json`` that can be read."""
    try:
        read_about(folder)
    except RepositoryTooNew:
        return False
    except RepositoryMissing:
        return _holds_backups(folder)
    return False


def recover_about(folder: Path, now: datetime, keys: Keys | None) -> Recovered:
    """Write the ``repository.json`` again that `lost_about` misses in *folder*; a damaged one is kept beside it.

    Nothing else is changed, and nothing is signed. Raises `UsageError` if several ids are found, and `RepositoryLocked`.
    """
    content = Enclosure(folder)
    try:
        with leases.writing(content, "init", now.isoformat(timespec="seconds")):
            if not lost_about(folder):
                raise UsageError(f"{folder} is already a repository.", hint="Nothing was changed.")
            repository_id, id_from = _find_id(content, keys)
            places = list(_backups(content))
            if content.status(ABOUT) is not None:
                content.rename(ABOUT, _UNREADABLE)
            written = write_about(content, now, repository_id)
    except OSError as problem:
        raise from_os_error(problem, f"Writing {folder}/{ABOUT} again") from problem
    return Recovered(id=written, id_from=id_from, sets=len({name for name, _ in places}), backups=len(places))


def _how_to_recover(folder: Path, what: str) -> str | None:
    if not _holds_backups(folder):
        return None
    return f"It holds backups, and only its {ABOUT} is {what}: `refbackup init --repo {folder}` writes that file again."


def _holds_backups(folder: Path) -> bool:
    content = Enclosure(folder)
    try:
        sets = list(_sets(content))
        return any(content.status(journal_file(name)) is not None for name in sets) or any(_backups(content))
    except OSError:
        return False


def _sets(content: Enclosure) -> Iterator[str]:
    return (name for name in content.names("backups") if NAME.fullmatch(name) and content.is_folder(f"backups/{name}"))


def _backups(content: Enclosure) -> Iterator[tuple[str, str]]:
    for set_name in _sets(content):
        for name in content.names(f"backups/{set_name}"):
            if BACKUP_ID.fullmatch(name):
                yield set_name, name


def _find_id(content: Enclosure, keys: Keys | None) -> tuple[str, IdFrom]:
    """The id, and where it was found; "" for none. Raises `UsageError` for several."""
    if keys is not None and (remembered := keys.remembered_id(content.root)):
        return remembered, IdFrom.MEMORY
    named = {found for line in _signatures(content) if (found := repository_in(keys, line)) is not None}
    for id_from, trusted in ((IdFrom.SIGNED, True), (IdFrom.UNSIGNED, False)):
        ids = sorted({name for name, is_trusted in named if is_trusted is trusted and _ID.fullmatch(name)})
        if len(ids) > 1:
            raise UsageError(
                f"The signatures in {content.root} name {len(ids)} repositories: {', '.join(ids[:3])}.",
                hint=f'Nothing was changed. Write the file with the right one: {{"format": {FORMAT}, "id": ID, "created": ""}}',
            )
        if ids:
            return ids[0], id_from
    return "", IdFrom.NEW


def _signatures(content: Enclosure) -> Iterator[bytes]:
    """The last lines of each journal, and the statement of each backup. What cannot be read is left out."""
    for set_name in _sets(content):
        yield from _read(content, journal_file(set_name), MOST_JOURNAL_BYTES).splitlines()[-_MOST_LINES:]
    for set_name, backup_id in _backups(content):
        yield _read(content, f"backups/{set_name}/{backup_id}/{STATEMENT}", MOST_STATEMENT_BYTES)


def _read(content: Enclosure, path: str, most: int) -> bytes:
    try:
        return content.read(path, most)
    except OSError:
        return b""
