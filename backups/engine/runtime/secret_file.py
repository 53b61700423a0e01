"""Files that hold a secret: regular, and readable by their owner alone."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import PermissionMissing, UsageError, from_os_error

_MOST_BYTES: Final = 1 << 16


def read_secret(file: Path, setting: str, without: str) -> bytes | None:
    """The content of the file that *setting* names, of at most 64 KiB; None if it is missing.

    Raises `UsageError` for what is no regular file and for a file that others may read, and `PermissionMissing` for one that
    this user may not; *without* says what the setting without a value is for.
    """
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{file} is not a regular file.", hint=f"Correct {setting}. Nothing was changed.")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise UsageError(f"{file} can be read by others.", hint=f"chmod 600 {file}. Nothing was changed.")
            return opened.read(_MOST_BYTES)
    except FileNotFoundError:
        return None
    except PermissionError as problem:
        raise PermissionMissing(
            f"The key {file} cannot be read: {problem.strerror}.",
            hint=f"Run as the user who may, or set {setting} to nothing {without}. Nothing was changed.",
        ) from problem
    except OSError as problem:
        raise from_os_error(problem, f"Reading the key {file}") from problem


def memory_file(beside: Path, kind: str, repository: Path) -> Path:
    """Where something about a repository is remembered *beside* a key: ``KEY.KIND/HASH-OF-ITS-PATH.json``."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(repository))).hexdigest()[:32]
    return memory_folder(beside, kind) / f"{name}.json"


def memory_folder(beside: Path, kind: str) -> Path:
    """The folder ``KEY.KIND``."""
    return beside.with_name(f"{beside.name}.{kind}")


def refuse_inside(file: Path, repository: Path, kinds: Sequence[str], setting: str) -> None:
    """Raise `UsageError` if a key, or what is remembered beside it, lies in the repository: forgers would find it there."""
    places = (Path(os.path.realpath(place)) for place in (file, *(memory_folder(file, kind) for kind in kinds)))
    if any(place.is_relative_to(os.path.realpath(repository)) for place in places):
        raise UsageError(
            f"The key {file} lies inside the repository {repository}.",
            hint=f"Keep it outside, where those with access to the repository cannot read it ({setting}).",
        )
