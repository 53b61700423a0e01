"""Commands as an ordinary user, also when the tests run as root, who may read and write everything."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

USER = 65534
"""The number of the user ``nobody``."""

_NAMESPACE = """
set -e
kept=$1; home=$2; shift 2
if [ -n "$home" ]; then  # the interpreter is in a home directory that others cannot enter: show only the interpreter
    mount --bind "$kept" /mnt; mount -t tmpfs -o mode=755 none "$home"; mkdir -p "$kept"; mount --bind /mnt "$kept"; umount /mnt
fi
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
"""


def ordinary(*command: str) -> list[str]:
    """*command*, run as an ordinary user. As root it gets its own mount namespace, in which that user finds the interpreter."""
    if os.geteuid() != 0:
        return list(command)
    kept = Path(sys.base_prefix).resolve()
    closed = next((folder for folder in reversed(kept.parents) if not folder.stat().st_mode & 0o001), None)
    namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _NAMESPACE, "sh"]
    return [*namespace, str(kept), str(closed or ""), *command]


def give(folder: Path) -> None:
    """As root, give *folder* and everything in it to the ordinary user."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


def reason_to_skip() -> str:
    """Why commands cannot be run as an ordinary user here; "" if they can."""
    if os.geteuid() != 0:
        return ""
    missing = [name for name in ("unshare", "setpriv", "mount") if not shutil.which(name)]
    return f"needs {', '.join(missing)}" if missing else ""
