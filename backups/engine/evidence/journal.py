"""The journal of a set: signed lines, each with the hash of the line before.

::

    {"n": 7, "previous": SHA256, "do": "backup", "repository": ..., "set": ..., "id": ..., "sha256": ..., "time": ...,
     "key": ..., "signature": ...}

======= ==================================================================================================
do      meaning
======= ==================================================================================================
state   all that counted before: ``backups`` and ``newest``. The first line, and the only one that may be
backup  ``sha256`` is that of the manifest, which has the hashes of everything else
proof   ``sha256`` is that of the proof's file; ``dropped`` has those of older proofs that it replaces
hold    ``sha256`` is that of ``hold.json``
release the hold was released
remove  the backup was deleted or pruned
======= ==================================================================================================

The signature of the last line vouches for all lines, because each has the hash of the line before. This module is pure: no
file, no clock.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .keys import Head, Keys

MOST_JOURNAL_BYTES = 32 << 20
"""A journal that is larger is not read. A state of 100,000 backups takes about 24 MiB."""

LEAST_BEFORE_STATE = 128 << 10
"""Bytes of lines after the state, at least, before it is written again; else a quarter of the state's."""

_MOST_UNSIGNED = 1000
"""Lines at the end that are looked at for a signature."""

MOST_LINE_BYTES = 64 << 10
"""Only a state is longer. Others are not parsed: JSON takes thirty times its size in memory."""

_MOST_LINES = 1 << 17
"""More do not fit into the largest journal."""

_TAIL = 1 << 10
_KEY = re.compile(rb'"key":"([0-9a-f]{16})"')
_SIGNATURE = re.compile(rb',"signature":"([A-Za-z0-9+/=]{1,100})"')

_START = "0" * 64
_LINE, _STATEMENT = b"refbackup journal 1\n", b"refbackup backup 1\n"
"""What a signature begins with, so that one kind is never taken for the other."""

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading JSON raises that others wrote, and that is not what it should be."""


class Do(StrEnum):
    """What a line records."""

    STATE = "state"
    BACKUP = "backup"
    PROOF = "proof"
    HOLD = "hold"
    RELEASE = "release"
    REMOVE = "remove"


@dataclass(slots=True)
class Vouched:
    """What is vouched for of one backup: SHA-256 of its manifest, its hold, and its proofs, the oldest first."""

    manifest: str
    hold: str = ""
    proofs: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """What the lines of a set say.

    ``newest`` is the newest id there ever was. ``problem`` says why nothing in the journal counts, ``warning`` what is wrong
    although it does. ``contested`` means that lines which no trusted key signed continue it, as another host's would.
    """

    backups: dict[str, Vouched] = field(default_factory=dict)
    newest: str = ""
    head: Head = field(default_factory=lambda: Head(0, _START))
    first: int = 1
    hashes: list[str] = field(default_factory=list)
    size: int = 0
    state_size: int = 0
    problem: str = ""
    warning: str = ""
    contested: bool = False

    def hash_of(self, n: int) -> str | None:
        """The hash of line *n*; None if it is not in the journal any more, or not yet."""
        return self.hashes[n - self.first] if self.first <= n < self.first + len(self.hashes) else None

    def is_long(self) -> bool:
        """Whether the next line should be a state that replaces all lines."""
        return self.size - self.state_size > max(LEAST_BEFORE_STATE, self.state_size // 4)

    def add(self, line: bytes) -> None:
        """Take the next line, without its end. Raises one of `UNREADABLE` if it does not continue the journal."""
        entry = json.loads(line)
        n, do = int(entry["n"]), Do(entry["do"])
        if self.hashes and (n != self.head.n + 1 or entry["previous"] != self.head.sha256 or do is Do.STATE):
            raise ValueError("it does not continue the line before")
        if not self.hashes:
            if do is not Do.STATE and (n != 1 or entry["previous"] != _START):
                raise ValueError("it is not the first line of a journal")
            self.first = n
        self._apply(do, entry)
        self.head = Head(n, hashlib.sha256(line).hexdigest())
        self.hashes.append(self.head.sha256)
        self.size += len(line) + 1
        if do is Do.STATE:
            self.state_size = self.size

    def _apply(self, do: Do, entry: Mapping[str, Any]) -> None:
        if do is Do.STATE:
            self.newest = str(entry["newest"])
            self.backups = {
                str(backup_id): Vouched(str(one["manifest"]), str(one.get("hold", "")), list(map(str, one.get("proofs", ()))))
                for backup_id, one in entry["backups"].items()
            }
            return
        backup_id = str(entry["id"])
        if do is Do.BACKUP:
            self.backups[backup_id] = Vouched(str(entry["sha256"]))
            self.newest = max(self.newest, backup_id)
        elif do is Do.REMOVE:
            self.backups.pop(backup_id, None)
        elif (one := self.backups.get(backup_id)) is not None:
            if do is Do.PROOF:
                dropped = set(entry.get("dropped", ()))
                one.proofs = [*(old for old in one.proofs if old not in dropped), str(entry["sha256"])]
            else:
                one.hold = str(entry["sha256"]) if do is Do.HOLD else ""

    def state(self) -> dict[str, Any]:
        """What a state says of the backups."""
        backups = {}
        for backup_id, one in self.backups.items():
            backups[backup_id] = {"manifest": one.manifest}
            backups[backup_id] |= {"hold": one.hold} if one.hold else {}
            backups[backup_id] |= {"proofs": one.proofs} if one.proofs else {}  # type: ignore[dict-item]
        return {"newest": self.newest, "backups": backups}


def sign_line(keys: Keys, after: Head, do: Do, about: Mapping[str, Any]) -> bytes:
    """The line that records *about* after the line *after*, without its end."""
    entry = {"n": after.n + 1, "previous": after.sha256, "do": str(do), **about, "key": keys.own}
    return _canonical({**entry, "signature": keys.sign(_LINE + _canonical(entry))})


def sign_statement(keys: Keys, about: Mapping[str, Any]) -> bytes:
    """The signed statement that a backup's folder carries."""
    entry = {**about, "key": keys.own}
    return _canonical({**entry, "signature": keys.sign(_STATEMENT + _canonical(entry))}) + b"\n"


def says(keys: Keys, content: bytes, about: Mapping[str, Any]) -> bool:
    """Whether *content* is a signed statement of a trusted key that says *about*."""
    entry = _signed(keys, _STATEMENT, content)
    return entry is not None and all(entry.get(name) == value for name, value in about.items())


def repository_in(keys: Keys | None, content: bytes) -> tuple[str, bool] | None:
    """The id of the repository that a line of a journal or a statement names, and whether a trusted key signed it."""
    try:
        named = str(json.loads(content)["repository"])
    except UNREADABLE:
        return None
    return named, keys is not None and any(_signed(keys, purpose, content) is not None for purpose in (_LINE, _STATEMENT))


def _signed(keys: Keys, purpose: bytes, content: bytes) -> dict[str, Any] | None:
    """The JSON object *content* without its signature, if a trusted key signed it for *purpose*."""
    if not _may_be_signed(keys, purpose, content):
        return None
    try:
        entry = json.loads(content)
        signature = entry.pop("signature")
        trusted = keys.is_signed(str(entry["key"]), purpose + _canonical(entry), str(signature))
    except UNREADABLE:
        return None
    return entry if trusted else None


def _may_be_signed(keys: Keys, purpose: bytes, content: bytes) -> bool:
    """Whether it is worth the memory to parse *content*: of a long line, the signature is checked on the bytes as they are."""
    if len(content) <= MOST_LINE_BYTES:
        return True
    tail = max(0, len(content) - _TAIL)
    key, signature = _KEY.search(content, tail), _SIGNATURE.search(content, tail)
    if key is None or signature is None:
        return False
    signed = b"".join((purpose, content[: signature.start()], content[signature.end() :]))
    return keys.is_signed(key[1].decode(), signed, signature[1].decode())


def _follows(line: bytes, head: Head) -> bool:
    try:
        return len(line) <= MOST_LINE_BYTES and bool(json.loads(line)["previous"] == head.sha256)
    except UNREADABLE:
        return False


def _canonical(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _broken_link(lines: list[bytes]) -> int:
    """The number of the last line that is not the one whose hash the next has; 0 if there is none. *lines* end signed.

    Read from the end, so that no line is parsed which nothing vouches for, and the first, which may be long, not at all.
    """
    expected = ""
    for number in range(len(lines), 0, -1):
        line = lines[number - 1]
        if expected and hashlib.sha256(line).hexdigest() != expected:
            return number
        if number > 1:
            if len(line) > MOST_LINE_BYTES:
                return number
            try:
                expected = str(json.loads(line)["previous"])
            except UNREADABLE:
                return number
    return 0


def parse(content: bytes, keys: Keys, belongs: Callable[[Mapping[str, Any]], bool]) -> Journal:
    """Read a journal. *belongs* says whether a line is of this repository and set.

    An incomplete last line, as a crash leaves it, is ignored; lines that no trusted key signed are a ``warning`` at the end
    and a ``problem`` elsewhere.
    """
    if content.count(b"\n") > _MOST_LINES:
        return Journal(problem="it has more lines than any journal")
    lines = content.split(b"\n")[:-1]
    end = len(lines)
    while end and end > len(lines) - _MOST_UNSIGNED:
        entry = _signed(keys, _LINE, lines[end - 1])
        if entry is not None and belongs(entry):
            break
        end -= 1
    else:
        problem = "no trusted key signed its last lines" if lines else "it is empty"
        return Journal(problem=problem)
    if number := _broken_link(lines[:end]):
        return Journal(problem=f"line {number} was changed, or a line before it was removed")
    journal = Journal()
    for number, line in enumerate(lines[:end], 1):
        try:
            journal.add(line)
        except UNREADABLE:
            return Journal(problem=f"line {number} was changed, or a line before it was removed")
    if end < len(lines):
        journal.warning = f"its last {len(lines) - end} lines are not signed by a trusted key"
        journal.contested = _follows(lines[end], journal.head)
    return journal
