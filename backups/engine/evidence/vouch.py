"""What a repository's signatures vouch for, and the recording of what this host does there.

A backup is vouched for by the journal of its set or, between its publication and the next line of the journal, by the signed
statement in its folder. Proofs and holds are vouched for by the journal alone. While a journal cannot be used (it is missing,
changed or was rolled back), statements still tell real backups from forged ones, and no proof counts.

============================== ==========================================================================
a crash between                leaves
============================== ==========================================================================
publishing and the line        a backup with its statement; the next line is preceded by the missing one
writing a proof and the line   a proof that does not count
writing a hold and the line    a hold that holds, and that nothing vouches for
the line and releasing         the same
the line and removing          a backup that nothing vouches for
the line and the memory        nothing: the memory says how the journal went on at least
============================== ==========================================================================
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from ..archive.locate import read_manifest
from ..errors import NO_SPACE, EngineError
from ..names import BACKUP_ID
from ..runtime import durable
from ..runtime.enclosure import Enclosure
from .journal import MOST_JOURNAL_BYTES, Do, Journal, Vouched, parse, says, sign_line, sign_statement
from .keys import Head, Keys

STATEMENT = "signature.json"
MOST_STATEMENT_BYTES = 1 << 12


def sha256(content: bytes) -> str:
    """The SHA-256 of *content* in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def journal_file(set_name: str) -> str:
    """Where a repository keeps the journal of a set."""
    return f"backups/{set_name}/journal.jsonl"


class Evidence:
    """The signatures in one repository. *locked* gives the lock under which journals are written."""

    def __init__(
        self, content: Enclosure, repository: str, keys: Keys, locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.keys = keys
        self._content = content
        self._repository = repository
        self._locked = locked
        self._read: dict[str, tuple[tuple[int, int, int], Journal]] = {}
        self._memory = keys.remembered(content.root)

    def _about(self, set_name: str) -> dict[str, Any]:
        return {"repository": self._repository, "set": set_name}

    # Reading

    def kept(self, set_name: str) -> bool:
        """Whether evidence is kept: this host signed in the repository before, or a trusted key signed the set's journal.

        A repository that nobody here ever signed is judged as if there were no key.
        """
        return self._memory is not None or not self.journal(set_name).problem

    def sets(self) -> Set[str]:
        """The sets whose journals this host remembers, whether or not they are there."""
        return (self._memory or {}).keys()

    def journal(self, set_name: str) -> Journal:
        """The journal of a set, compared with what this host remembers of it."""
        try:
            status = self._content.status(journal_file(set_name))
        except OSError as problem:
            return Journal(problem=f"it cannot be read: {problem}")
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else (0, 0, 0)
        if set_name not in self._read or self._read[set_name][0] != stamp:
            self._read[set_name] = stamp, self._parse(set_name)
        return self._read[set_name][1]

    def _parse(self, set_name: str) -> Journal:
        about = self._about(set_name)
        try:
            content = self._content.read(journal_file(set_name), MOST_JOURNAL_BYTES)
        except FileNotFoundError:
            head = (self._memory or {}).get(set_name)
            return Journal(problem="it is missing" if head is not None or self._memory is None else "")
        except OSError as problem:
            return Journal(problem=f"it cannot be read: {problem}")
        head = (self._memory or {}).get(set_name)
        if self._memory is not None and head is None and b"\n" not in content:
            return Journal()  # a crash ended the writing of the first line
        journal = parse(content, self.keys, lambda entry: all(entry.get(name) == value for name, value in about.items()))
        if journal.problem or head is None:
            return journal
        if journal.head.n < head.n:
            return Journal(problem=f"it ends at line {journal.head.n} and had {head.n} lines: it was rolled back")
        if journal.hash_of(head.n) not in (None, head.sha256):
            return Journal(problem=f"line {head.n} was replaced")
        return journal

    def why_not(self, set_name: str, backup_id: str, manifest: bytes) -> str:
        """Why nothing vouches for a backup with this manifest, without a full stop; "" if something does, or none is kept."""
        if not self.kept(set_name):
            return ""
        journal = self.journal(set_name)
        known = None if journal.problem else journal.backups.get(backup_id)
        if known is not None:
            return "" if known.manifest == sha256(manifest) else "its manifest is not the one that was signed"
        if not journal.problem and backup_id <= journal.newest:
            return "it was deleted, or never made here; if it is to count again, `refbackup adopt` signs it"
        return (
            ""
            if self._is_stated(set_name, backup_id, manifest)
            else "it is not signed; if it is yours, `refbackup adopt` signs it"
        )

    def _is_stated(self, set_name: str, backup_id: str, manifest: bytes) -> bool:
        try:
            content = self._content.read(f"backups/{set_name}/{backup_id}/{STATEMENT}", MOST_STATEMENT_BYTES)
        except OSError:
            return False
        return says(self.keys, content, {**self._about(set_name), "id": backup_id, "sha256": sha256(manifest)})

    def counted(self, set_name: str, backup_id: str, found: Set[str]) -> set[str]:
        """Of the proofs *found*, given by their SHA-256, the ones that count: signed, and later than every removed one."""
        known = self.journal(set_name).backups.get(backup_id)
        counted: set[str] = set()
        for one in known.proofs if known is not None else ():
            counted = counted | {one} if one in found else set()
        return counted

    def is_held(self, set_name: str, backup_id: str) -> bool:
        """Whether the journal says that a backup is held."""
        known = self.journal(set_name).backups.get(backup_id)
        return known is not None and bool(known.hold)

    def has_hold(self, set_name: str, backup_id: str, content: bytes) -> bool:
        """Whether a hold's file is the one that was signed."""
        known = self.journal(set_name).backups.get(backup_id)
        return known is not None and known.hold == sha256(content)

    def state_of(self, set_name: str, backup_id: str) -> str:
        """A short text that is another one whenever something else is vouched for of a backup."""
        if not self.kept(set_name):
            return ""
        journal = self.journal(set_name)
        return sha256(repr((journal.problem, journal.backups.get(backup_id), backup_id > journal.newest)).encode())[:8]

    def vanished(self, set_name: str, ids: Iterable[str]) -> list[str]:
        """The backups that the journal has and the set, with *ids*, has not, newest first."""
        return sorted(self.journal(set_name).backups.keys() - set(ids), reverse=True) if self.kept(set_name) else []

    def was_removed(self, set_name: str, backup_id: str) -> bool | None:
        """Whether a backup that is gone was deleted or pruned by someone with a key; None where no evidence is kept."""
        if not self.kept(set_name):
            return None
        journal = self.journal(set_name)
        return not journal.problem and backup_id not in journal.backups

    # Recording

    def statement(self, set_name: str, backup_id: str, manifest: bytes, now: datetime) -> bytes | None:
        """What the folder of a new backup carries; None where this host does not sign."""
        if self.keys.private is None or not self.kept(set_name):
            return None
        about = {**self._about(set_name), "id": backup_id, "sha256": sha256(manifest)}
        return sign_statement(self.keys, {**about, "time": now.isoformat(timespec="seconds")})

    def begin(self) -> None:
        """Sign in this repository from now on. Raises ``OSError`` and `RepositoryLocked`."""
        with self._locked():
            self._begin()

    def _begin(self) -> None:
        """Read again, under the lock, what other processes remembered since."""
        memory = self.keys.remembered(self._content.root)
        if memory is None:
            memory = {}
            self.keys.remember(self._content.root, memory, self._repository)
        if memory != self._memory:
            self._memory = memory
            self._read.clear()

    def record(self, set_name: str, do: Do, backup_id: str, now: datetime, **more: Any) -> str:
        """Append a line, after those of backups that a crash kept from it, and replace anything there that is not a line.

        Returns why the journal does not take it, without a full stop; "" if it did, or none is kept. Raises `RepositoryLocked`
        and ``OSError``; on a full disk only for what takes space: a removal then looks like a loss until `adopt`.
        """
        if not self.kept(set_name):
            return ""
        if self.keys.private is None:
            return "this host has no key"
        durable.reach("journal")
        try:
            with self._locked():
                self._begin()
                journal = self.journal(set_name)
                if journal.problem or journal.contested:
                    return f"the journal of the set {set_name} cannot be relied on: {journal.problem or journal.warning}"
                for pending, manifest in self._pending(set_name, journal):
                    journal = self._append(set_name, journal, Do.BACKUP, pending, now, sha256=sha256(manifest))
                if do is not Do.BACKUP or backup_id not in journal.backups:
                    self._append(set_name, journal, do, backup_id, now, **more)
        except OSError as problem:
            if do is Do.REMOVE and problem.errno in NO_SPACE:
                return str(problem)
            raise
        return ""

    def _pending(self, set_name: str, journal: Journal) -> list[tuple[str, bytes]]:
        """The backups later than all in the journal whose statement vouches for them, the oldest first."""
        found = []
        for backup_id in self._content.names(f"backups/{set_name}"):
            if BACKUP_ID.fullmatch(backup_id) and backup_id > journal.newest:
                try:
                    manifest = read_manifest(self._content.inside(f"backups/{set_name}/{backup_id}"))
                except OSError:
                    continue
                if self._is_stated(set_name, backup_id, manifest):
                    found.append((backup_id, manifest))
        return found

    def _append(self, set_name: str, journal: Journal, do: Do, backup_id: str, now: datetime, **more: Any) -> Journal:
        moment = now.isoformat(timespec="seconds")
        about = {**self._about(set_name), "id": backup_id, "time": moment, **more}
        line = sign_line(self.keys, journal.head, do, about)
        self._read.pop(set_name, None)
        end = journal.size
        journal.add(line)
        journal.warning = ""
        if journal.is_long():
            self._write_state(set_name, journal, now)
        else:
            self._write_line(set_name, line, end)
        return self._written(set_name, journal)

    def _write_line(self, set_name: str, line: bytes, end: int) -> None:
        """Write a line at *end*. It replaces what a crash left there, and any other bytes that are not a line."""
        self._content.make_folder(f"backups/{set_name}")
        descriptor = self._content.open_lock(journal_file(set_name))
        try:
            if os.fstat(descriptor).st_size > end:
                os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            durable.write_and_sync(descriptor, line + b"\n")
        finally:
            os.close(descriptor)

    def _write_state(self, set_name: str, journal: Journal, now: datetime) -> None:
        """Replace the lines by one with all that they say, and make *journal* that of the new file."""
        self._content.make_folder(f"backups/{set_name}")
        about = {**self._about(set_name), "time": now.isoformat(timespec="seconds"), **journal.state()}
        line = sign_line(self.keys, journal.head, Do.STATE, about)
        if len(line) >= MOST_JOURNAL_BYTES:
            raise EngineError(
                f"The journal of the set {set_name} would take {len(line) >> 20} MiB, and no more can be read than "
                f"{MOST_JOURNAL_BYTES >> 20} MiB.",
                hint="Prune the set, or divide it.",
            )
        self._content.write_file(journal_file(set_name), line + b"\n")
        journal.hashes, journal.size = [], 0
        journal.add(line)

    def _written(self, set_name: str, journal: Journal) -> Journal:
        """Keep *journal* as the current one, and remember its end."""
        status = self._content.status(journal_file(set_name))
        if status is not None:
            self._read[set_name] = (status.st_ino, status.st_size, status.st_mtime_ns), journal
        self._memory = {**(self.keys.remembered(self._content.root) or {}), set_name: journal.head}
        self.keys.remember(self._content.root, self._memory, self._repository)
        return journal

    def adopt(self, set_name: str, found: dict[str, Vouched], now: datetime) -> None:
        """Sign *found* as all that there is in a set, whatever was there before. Raises ``OSError``.

        The journal continues after the last line that this host or the repository knows of.
        """
        with self._locked():
            self._begin()
            known = (self._memory or {}).get(set_name, Head(0, Journal().head.sha256))
            before = self.journal(set_name)
            journal = Journal(backups=found, newest=max([*found, before.newest, f"{now:%Y%m%dT%H%M%SZ}"]))
            journal.head = max(before.head, known, key=lambda head: head.n)
            for backup_id, one in found.items():
                about = {**self._about(set_name), "id": backup_id, "sha256": one.manifest}
                statement = sign_statement(self.keys, {**about, "time": now.isoformat(timespec="seconds")})
                self._content.write_file(f"backups/{set_name}/{backup_id}/{STATEMENT}", statement)
            self._read.pop(set_name, None)
            if self._content.is_folder(journal_file(set_name)):
                self._content.remove_tree(journal_file(set_name))
            self._write_state(set_name, journal, now)
            self._written(set_name, journal)
