"""The recovery kit: one page to print, to restore from when the server and its keys are gone."""

from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final

_SCRIPT: Final = "open_backup.py"

_TEXT: Final = """RECOVERY KIT of encrypted backups, made by refbackup on {made}

Anyone with this page can read the backups; without it and without this
host's key, nobody can. Print it, and keep it where neither the server nor
the backups are: in a safe, with a notary, in another building.

Repository: {repository}

RECOVERY KEY

    {key}
{code}
Case, spaces and breaks do not matter. There is no 0, 1, 8 or 9 in it.

TO RESTORE WITH REFBACKUP

    chmod 600 KIT
    BACKUP_ENCRYPTION_KEY=KIT refbackup restore latest --repo REPOSITORY --to FOLDER

    KIT is this file, or a file with the recovery key typed into it.

TO RESTORE WITHOUT REFBACKUP

    1. Save the script at the end of this file as {script}.
    2. python3 -m pip install cryptography zstandard
    3. python3 {script} --key KIT REPOSITORY/backups/SET/ID > backup.tar

    ID is a folder; its name begins with the time of the backup in UTC.
"""


def recovery_kit(repository: Path, key: str, now: datetime) -> str:
    """The text of a kit with a recovery *key* for the backups in *repository*."""
    page = _TEXT.format(
        made=f"{now:%Y-%m-%d}", repository=repository.absolute(), key=_in_lines(key), code=_qr_code(key), script=_SCRIPT
    )
    return f"{page}\n{'-' * 20} {_SCRIPT} {'-' * 20}\n{script()}"


def script() -> str:
    """The script that turns an encrypted backup into a tar, without refbackup."""
    return resources.files(__package__).joinpath(_SCRIPT).read_text("utf-8")


def _in_lines(key: str) -> str:
    groups = key.split("-")
    half = (len(groups) + 1) // 2
    return "-".join(groups[:half]) + "-\n    " + "-".join(groups[half:])


def _qr_code(key: str) -> str:
    """The key as a QR code of block characters; nothing where the package that draws it is missing."""
    try:
        import segno
    except ImportError:
        return ""
    rows = [bytes(row) for row in segno.make(key, error="m").matrix_iter(border=4)]
    blocks = " ▀▄█"  # by whether the upper and the lower half are dark
    lines = []
    for upper, lower in zip(rows[::2], [*rows[1::2], bytes(len(rows[0]))], strict=False):
        lines.append("    " + "".join(blocks[bool(above) + 2 * bool(below)] for above, below in zip(upper, lower, strict=True)))
    return "\n" + "\n".join(lines) + "\n"
