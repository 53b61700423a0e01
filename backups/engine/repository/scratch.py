"""What is in a repository for a time: backups that are being made, and scratch folders, which are restores that are not kept.

A scratch folder is named by the process that made it, ``PID.TOKEN``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..runtime import durable
from ..runtime.enclosure import Enclosure

STAGING, SCRATCH = "staging", "scratch"


class Scratch:
    """The scratch folders in *folder*, which is in the repository, or beside the key that encrypts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content = Enclosure(folder.parent)
        self._name = folder.name

    def names(self) -> list[str]:
        """What is there, in order."""
        return self._content.names(self._name)

    def abandoned(self) -> list[str]:
        """The names of what no living process of this host made."""
        return [name for name in self.names() if not _in_use(name)]

    def of_process(self, pid: int) -> list[str]:
        """The names of what a process made."""
        return [name for name in self.names() if name.startswith(f"{pid}.")]

    def remove(self, name: str) -> None:
        """Remove one with its content. Raises ``OSError``."""
        self._content.remove_tree(f"{self._name}/{name}")

    def holds(self, place: Path) -> bool:
        """Whether *place* lies in a scratch folder of a running process, which nobody else clears."""
        scratch = Path(os.path.realpath(self.folder))
        return any(_in_use(folder.name) for folder in place.parents if folder.parent == scratch)

    @contextmanager
    def new(self, token: str) -> Iterator[Path]:
        """A new folder of this process, removed at the end."""
        name = f"{self._name}/{os.getpid()}.{token}"
        try:
            self._content.make_folder(name)
            yield self._content.path(name)
        finally:
            self._content.remove_tree(name)


@contextmanager
def inner_scratch(staged: Path) -> Iterator[Path]:
    """A scratch folder in the folder of a backup that is being made; if that fails, it goes with that folder."""
    place = staged / SCRATCH
    place.mkdir()
    yield place
    durable.remove_tree(place)


@dataclass(frozen=True, slots=True)
class Debris:
    """What interrupted runs left in the repository *content*, and in the *scratches*."""

    content: Enclosure
    scratches: tuple[Scratch, ...]

    def names(self) -> list[str]:
        """``staging/NAME`` and ``scratch/NAME``, also of what runs now."""
        staged = [f"{STAGING}/{name}" for name in self.content.names(STAGING)]
        return [*staged, *(f"{SCRATCH}/{name}" for scratch in self.scratches for name in scratch.names())]

    def clear(self) -> list[str]:
        """Remove it as far as possible; the caller is the writer. Returns the names, with the error where one occurred."""
        remove = self.content.remove_tree
        staged = [(f"{STAGING}/{name}", partial(remove, f"{STAGING}/{name}")) for name in self.content.names(STAGING)]
        scratch = [(f"{SCRATCH}/{name}", partial(one.remove, name)) for one in self.scratches for name in one.abandoned()]
        cleared = []
        for left, clear in (*staged, *scratch):
            try:
                clear()
            except OSError as problem:  # leftovers take space, but must not block a backup
                cleared.append(f"{left}, but not all of it: {problem.strerror or problem}")
            else:
                cleared.append(left)
        return cleared

    def holds(self, place: Path) -> bool:
        """As `Scratch.holds`."""
        return any(scratch.holds(place) for scratch in self.scratches)

    def clear_scratch(self, pid: int) -> None:
        """Remove the scratch folders of a process that ended."""
        for place in self.scratches:
            for name in place.of_process(pid):
                place.remove(name)


def _in_use(name: str) -> bool:
    """Whether the process that made a scratch folder, named in it, is alive on this host."""
    pid = name.split(".")[0]
    return pid.isdigit() and Path("/proc", pid).exists()
