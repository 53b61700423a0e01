"""Extended attributes and access control lists, which backups do not hold: a replacement gets those of the live store."""

import os
import stat

from ..capture.files import ATTRIBUTES
from ..names import printable
from ..runtime import folders
from ..runtime.context import Context
from ..types import SourceKind
from .targets import Target


def carry_attributes(target: Target, ctx: Context) -> None:
    """Give each file and folder of a replacement the attributes of the live one at its path; the log names what got none."""
    if target.record.kind is SourceKind.SQLITE or not target.path.is_dir():
        return
    failed = []
    with folders.opened(target.path) as live, folders.opened(target.staged) as staged:
        for path, status in [("", os.fstat(staged)), *folders.below(target.staged)]:
            if stat.S_ISLNK(status.st_mode) or not (found := _attributes(path, live, stat.S_IFMT(status.st_mode))):
                continue
            try:
                _set(path, staged, stat.S_IMODE(status.st_mode), found)
            except OSError as problem:
                failed.append(f"{printable(path) or '.'}: {problem.strerror}")
    if failed:
        ctx.log(f"{target.record.prefix}: {len(failed):,} without their extended attributes, the first {failed[0]}")


def _attributes(path: str, root: int, kind: int) -> dict[str, bytes]:
    """The attributes of *path*, if it is a file or folder as *kind* says."""
    above, _, name = path.rpartition("/")
    try:
        with folders.opened(above, root) as folder:
            if stat.S_IFMT(os.stat(name or ".", dir_fd=folder, follow_symlinks=False).st_mode) != kind:
                return {}
            place = f"/proc/self/fd/{folder}/{name or '.'}"
            names = [one for one in os.listxattr(place, follow_symlinks=False) if one.startswith(ATTRIBUTES)]
            return {one: os.getxattr(place, one, follow_symlinks=False) for one in names}
    except OSError:  # it is not there, or the file system has none
        return {}


def _set(path: str, root: int, mode: int, attributes: dict[str, bytes]) -> None:
    above, _, name = path.rpartition("/")
    with folders.opened(above, root) as folder:
        os.chmod(name or ".", mode | 0o600, dir_fd=folder)
        try:
            for one, value in attributes.items():
                os.setxattr(f"/proc/self/fd/{folder}/{name or '.'}", one, value, follow_symlinks=False)
        finally:
            os.chmod(name or ".", mode, dir_fd=folder)  # an access control list has changed it
