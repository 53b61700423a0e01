"""Keeps what a live folder contains and no backup holds: it is carried over into the folder's replacement.

The live folder is walked, and whatever the archive of its safety backup does not list is kept: links that point out of the
folder, pipes, sockets and devices, paths that are too long, and files that could not be read. So is what the restored backup
leaves out by a pattern, or names as left out although it belongs into it. Except for folders, the same inode gets a second
name, so that nothing is read or copied. Everything is reached through descriptors, since paths may be longer than a system call
takes.
"""

import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from ..archive.reader import Archives
from ..archive.table import Entry, EntryType
from ..capture.staging import LOGS
from ..chroma_files.tables import DATABASE
from ..errors import RestoreRefused
from ..left_out import Outside
from ..names import printable
from ..repository.folder import Repository
from ..runtime import durable, folders
from ..runtime.context import Context
from ..types import Backup, SourceKind
from .targets import Target, logs_of, old_in

_MOST_NAMED: Final = 20
_LONGEST_NAME: Final = 255


def entries_of(repository: Repository, backup: Backup) -> Mapping[str, Entry]:
    """Everything that *backup* holds, by its path in the archive. Raises `DamageFound`."""
    with Archives(repository.locate(backup.manifest.set)) as archives:
        return archives.tree(backup.id).entries


def keep_outside(target: Target, saved: Mapping[str, Entry], moment: datetime, ctx: Context) -> frozenset[str]:
    """Carry over into the replacement of a folder what neither it nor the safety backup, which holds *saved*, has.

    Returns the paths of what was carried over. Where the replacement has something else of the same name, the live one is kept
    as ``NAME.before-MOMENT``. It may be called again for the same replacement. Raises `RestoreRefused` for what cannot be kept.
    """
    outside = Outside(target.record.left_out, target.record.exclude)
    kept: dict[str, str] = {}
    with folders.opened(target.path) as live, folders.opened(target.staged) as staged:
        carrier = _Carrier(live, staged, moment)
        for path, status in _walk(target):
            is_folder = stat.S_ISDIR(status.st_mode)
            if _holds(saved.get(f"{target.record.prefix}/{path}"), status) and (
                not outside(path, is_folder=is_folder) or carrier.has(path)
            ):
                continue
            try:
                kept[path] = carrier.folder(path) if is_folder else carrier.carry(path, status)
            except OSError as problem:
                raise _refused(target.path / path, f"it cannot be kept: {problem.strerror}") from problem
        carrier.finish()
    for place in list(kept.values())[:_MOST_NAMED]:
        ctx.log(f"{target.record.prefix}: kept {printable(place)}, which no backup holds")
    if len(kept) > _MOST_NAMED:
        ctx.log(f"{target.record.prefix}: kept {len(kept) - _MOST_NAMED:,} more, which no backup holds")
    return frozenset(kept)


def keep_unsaved(target: Target, stage: Path, moment: datetime, ctx: Context) -> None:
    """After the exchange, keep what was in the place of a store of which there is no safety backup.

    That is a Chroma directory without its database, or the logs of a missing database, which the exchange left in *stage*. It
    stays beside the store, as ``NAME.before-MOMENT``. It may be called again, also for the folder of an interrupted exchange.
    """
    left: list[tuple[Path, Path]] = []
    if target.record.kind is SourceKind.SQLITE:
        asides = [(old, old_in(stage, old)) for old in logs_of(target.path) if not old.name.endswith("-shm")]
        left = [(old, aside) for old, aside in asides if aside.exists() and aside.stat().st_size]
    elif target.record.kind is SourceKind.CHROMA:
        aside = stage / target.record.prefix
        if aside.is_dir() and any(aside.iterdir()) and not (aside / DATABASE).exists():  # a replacement has one
            left = [(target.path, aside)]
    for old, aside in left:
        place = free_name(old.with_name(f"{old.name}.before-{moment:%Y%m%dT%H%M%SZ}"))
        aside.rename(place)
        durable.sync_folder(place.parent)
        ctx.log(f"{target.record.prefix}: {old.name}, which no backup holds, is kept as {place.name}")


def free_name(place: Path) -> Path:
    """*place*, or the first ``PLACE.2``, ``PLACE.3`` ... that nothing has."""
    names = itertools.chain([place], (place.with_name(f"{place.name}.{number}") for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _walk(target: Target) -> Iterator[tuple[str, os.stat_result]]:
    try:
        for path, status in folders.below(target.path, strict=True):
            if target.record.kind is not SourceKind.CHROMA or path not in LOGS:
                yield path, status
    except OSError as problem:
        place = target.path / problem.filename if isinstance(problem.filename, str) else target.path
        raise _refused(place, f"it cannot be read: {problem.strerror}") from problem


def _refused(place: Path, why: str) -> RestoreRefused:
    return RestoreRefused(
        f"{printable(str(place))} is in no backup, and {why}. Nothing was changed.",
        hint="Make it readable or move it away, or restore into a folder.",
    )


def _holds(entry: Entry | None, status: os.stat_result) -> bool:
    if entry is None:
        return False
    kind = {stat.S_IFREG: EntryType.FILE, stat.S_IFDIR: EntryType.FOLDER, stat.S_IFLNK: EntryType.LINK}
    return entry.kind is kind.get(stat.S_IFMT(status.st_mode))


class _Carrier:
    """Gives what is in the folder *live* a second name in the folder *staged*; both are descriptors.

    ``_places`` maps folders of *live* to their counterparts in *staged*; the others have the same path. ``_finish`` has
    what folders get at the end: a made one the status of the live one, an older one its own as it was.
    """

    def __init__(self, live: int, staged: int, moment: datetime) -> None:
        self._live = live
        self._staged = staged
        self._suffix = f".before-{moment:%Y%m%dT%H%M%SZ}"
        self._places: dict[str, str] = {"": ""}
        self._finish: dict[str, os.stat_result] = {}

    def has(self, path: str) -> bool:
        """Whether the replacement has something at *path*."""
        above, _, name = path.rpartition("/")
        try:
            with folders.opened(above, self._staged) as folder:
                return _status(name, folder) is not None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False
        except OSError:  # a link on the way
            return False

    def folder(self, path: str) -> str:
        """The folder that stands for the live folder *path*, made with those above it where there is none."""
        missing = []
        above = path
        while above not in self._places:
            missing.append(above)
            above = above.rpartition("/")[0]
        place = self._places[above]
        for one in reversed(missing):
            place = self._places[one] = self._make_folder(one, place)
        return place

    def _make_folder(self, path: str, above: str) -> str:
        with self._writable(above) as into:
            for name in self._names(path):
                found = _status(name, into)
                if found is None:
                    os.mkdir(name, 0o700, dir_fd=into)
                    self._finish[_join(above, name)] = self._live_status(path)
                if found is None or stat.S_ISDIR(found.st_mode):
                    return _join(above, name)
        raise AssertionError("there are names without end")

    def carry(self, path: str, status: os.stat_result) -> str:
        """Give the live *path*, which is not a folder, a second name; returns that name."""
        above = path.rpartition("/")[0]
        place = self.folder(above)
        with self._writable(place) as into, folders.opened(above, self._live) as source:
            live = path.rpartition("/")[2]
            for name in self._names(path):
                found = _status(name, into)
                if found is None:
                    _link(live, source, name, into, status)
                if found is None or _is_second_name(name, into, found, live, source, status):
                    return _join(place, name)
        raise AssertionError("there are names without end")

    def finish(self) -> None:
        """Give folders their status, what is in a folder before the folder."""
        for place, status in sorted(self._finish.items(), reverse=True):
            with folders.opened(place, self._staged) as folder:
                _set_status(folder, status)

    @contextmanager
    def _writable(self, place: str) -> Iterator[int]:
        with folders.opened(place, self._staged) as folder:
            status = os.fstat(folder)
            if place not in self._finish:
                self._finish[place] = status
            if stat.S_IMODE(status.st_mode) & 0o700 != 0o700 and status.st_uid == os.geteuid():
                os.fchmod(folder, 0o700)
            yield folder

    def _names(self, path: str) -> Iterator[str]:
        """The name of *path*, then those to take when something else has it."""
        name = path.rpartition("/")[2]
        yield name
        number = 1
        while True:
            suffix = self._suffix + (f".{number}" if number > 1 else "")
            cut = os.fsencode(name)[: _LONGEST_NAME - len(suffix)]
            yield (cut.decode("utf-8", "ignore") if printable(name) == name else os.fsdecode(cut)) + suffix
            number += 1

    def _live_status(self, path: str) -> os.stat_result:
        with folders.opened(path, self._live) as folder:
            return os.fstat(folder)


def _join(above: str, name: str) -> str:
    return f"{above}/{name}" if above else name


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _link(live: str, source: int, name: str, into: int, status: os.stat_result) -> None:
    try:
        os.link(live, name, src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False)
    except OSError:  # the kernel lets users link only what they own (proc(5), protected_hardlinks)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(live, dir_fd=source), name, dir_fd=into)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=into)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=into)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=into)
        else:
            raise


def _is_second_name(name: str, into: int, found: os.stat_result, live: str, source: int, status: os.stat_result) -> bool:
    """Whether an earlier call carried it over; replacements have neither pipes nor links that point out of them."""
    if os.path.samestat(found, status):
        return True
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(status.st_mode):
        return False
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=into) == os.readlink(live, dir_fd=source)
    return stat.S_ISFIFO(status.st_mode)


def _set_status(folder: int, status: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(folder, status.st_uid, status.st_gid)
    os.fchmod(folder, stat.S_IMODE(status.st_mode))
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
