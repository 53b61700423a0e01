"""Backups that are being copied into a repository.

``arriving/<set>.<id>.<digits>/`` keeps what has arrived of one, also when a copy is cut short: the next goes on from there. The
digits are the beginning of its manifest's SHA-256. The file ``<set>.<id>``, written before it is published, says that something
is left to do, until the copy is signed and has its proof.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from ..archive.locate import MAX_MANIFEST_BYTES
from ..evidence.journal import Do
from ..evidence.vouch import STATEMENT, Evidence, sha256
from ..names import BACKUP_ID, MANIFEST, NAME
from ..runtime import durable
from ..runtime.enclosure import Enclosure
from ..runtime.space import need_space
from . import leases

ARRIVING = "arriving"
HOLD, MOST_HOLD_BYTES = "hold.json", 1 << 16
ORIGIN = "origin.json"
"""What `STATEMENT` was in the repository where a backup was made."""

_ARRIVAL = re.compile(rf"(?P<set>{NAME.pattern})\.(?P<id>{BACKUP_ID.pattern})(\.(?P<digits>[0-9a-f]{{16}}))?")
_PIECE = 1 << 20


class Arrival:
    """What has arrived of one backup, file by file. Methods raise ``OSError``."""

    def __init__(self, content: Enclosure, name: str) -> None:
        self.path = f"{ARRIVING}/{name}"
        self.files: set[str] = set()
        """What this process wrote or went on with."""
        self._content = content

    def size(self, name: str) -> int:
        """How many bytes of a file have arrived."""
        status = self._content.status(f"{self.path}/{name}")
        return status.st_size if status is not None else 0

    @contextmanager
    def appending(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """A function that adds to a file. What it was given is synced at the end, and after an error as far as possible."""
        self._content.make_folder(self.path)
        self.files.add(name)
        descriptor = self._content.open_lock(f"{self.path}/{name}")
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            begun = end

            def append(piece: bytes) -> None:
                nonlocal begun, end
                durable.reach("arrive")
                view = memoryview(piece)
                while view:
                    written = os.write(descriptor, view)
                    view, end = view[written:], end + written
                if end - begun >= durable.WRITEBACK_BYTES:
                    durable.begin_writeback(descriptor, begun, end - begun)
                    begun = end

            try:
                yield append
            except BaseException:
                with contextlib.suppress(OSError):
                    os.fsync(descriptor)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def put(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._content.make_folder(self.path)
        self.files.add(name)
        self._content.write_file(f"{self.path}/{name}", content)

    def read_back(self, name: str) -> Iterator[bytes]:
        """The content of a synced file, in pieces, from the disk as far as the kernel can be asked for that."""
        with os.fdopen(self._content.open_file(f"{self.path}/{name}"), "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(_PIECE):
                yield piece

    def discard(self) -> None:
        """Forget what has arrived."""
        self._content.remove_tree(self.path)


class Arrivals:
    """The copies into one repository. *evidence* signs them. Methods raise ``OSError``."""

    def __init__(self, content: Enclosure, evidence: Evidence | None) -> None:
        self._content = content
        self._evidence = evidence

    def receiving(self, wait: float) -> AbstractContextManager[None]:
        """Be the only one that copies into the repository. Raises `RepositoryLocked` after *wait* seconds."""
        return leases.receiving(self._content, wait)

    def need_space(self, size: int) -> None:
        """Raise `NoSpace` unless *size* bytes can arrive."""
        need_space(self._content.root, size, "receive the next backup")

    def of(self, set_name: str, backup_id: str, manifest: bytes) -> Arrival:
        """What has arrived of a backup with this manifest."""
        return Arrival(self._content, f"{set_name}.{backup_id}.{sha256(manifest)[:16]}")

    def keep_only(self, set_name: str, arriving: Set[str], noted: Set[str]) -> None:
        """Remove what arrived of backups of a set other than *arriving*, and the notes about others than *noted*."""
        for name in self._content.names(ARRIVING):
            found = _ARRIVAL.fullmatch(name)
            unneeded = found and found["set"] == set_name and found["id"] not in (arriving if found["digits"] else noted)
            if unneeded or name.startswith("."):
                self._content.remove_tree(f"{ARRIVING}/{name}")

    def publish(self, arrival: Arrival, set_name: str, backup_id: str, now: datetime) -> None:
        """Make a backup of what arrived, in one step. The caller is the writer."""
        if self._evidence is not None:
            content = self._content.read(f"{arrival.path}/{MANIFEST}", MAX_MANIFEST_BYTES)
            if (signed := self._evidence.statement(set_name, backup_id, content, now)) is not None:
                arrival.put(STATEMENT, signed)
        for name in self._content.names(arrival.path):
            if name not in arrival.files:  # of a copy that was killed
                self._content.remove_tree(f"{arrival.path}/{name}")
        self._content.write_file(f"{ARRIVING}/{set_name}.{backup_id}", b"")
        self._content.publish(arrival.path, f"backups/{set_name}/{backup_id}")

    def unfinished(self, set_name: str) -> set[str]:
        """The ids of the backups of a set that were published and not signed, or have no proof yet."""
        found = [one for name in self._content.names(ARRIVING) if (one := _ARRIVAL.fullmatch(name))]
        return {one["id"] for one in found if one["set"] == set_name and not one["digits"]}

    def sign(self, set_name: str, backup_id: str, now: datetime) -> str:
        """Sign a published copy and its hold. Returns why the journal does not have them, "" if it has, or none is kept.

        Raises `RepositoryLocked`.
        """
        if self._evidence is None:
            return ""
        folder = self._content.inside(f"backups/{set_name}/{backup_id}")
        content = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
        why = self._evidence.record(set_name, Do.BACKUP, backup_id, now, sha256=sha256(content))
        if not why and folder.status(HOLD) is not None:
            hold = folder.read(HOLD, MOST_HOLD_BYTES)
            why = self._evidence.record(set_name, Do.HOLD, backup_id, now, sha256=sha256(hold))
        return why

    def done(self, set_name: str, backup_id: str) -> None:
        """Note that a published copy is signed and has its proof."""
        self._content.unlink(f"{ARRIVING}/{set_name}.{backup_id}")
