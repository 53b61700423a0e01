"""What root makes in a folder of another user belongs to that user, who would otherwise be locked out of it."""

import contextlib
import os
from pathlib import Path


def give_to_owner(folder: Path) -> None:
    """As root, give everything below *folder* that belongs to root to the owner of the folder around it.

    The same for *folder* itself, which may be a file or missing. Other users' files, and places where root owns the folder
    around, stay as they are.
    """
    if os.geteuid() != 0 or not folder.exists():
        return
    _give(folder, folder.parent.stat())
    if folder.stat().st_uid == 0 or not folder.is_dir():
        return
    for place, folders, files in os.walk(folder):
        around = Path(place).stat()
        for name in (*folders, *files):
            _give(Path(place, name), around)


def _give(path: Path, around: os.stat_result) -> None:
    with contextlib.suppress(OSError):
        if around.st_uid != 0 and path.lstat().st_uid == 0:
            os.chown(path, around.st_uid, around.st_gid, follow_symlinks=False)
