"""Whether a folder is on an encrypted disk."""

import os
from collections.abc import Iterable
from pathlib import Path


def on_encrypted_disk(folder: Path, *, sys: Path = Path("/sys/dev/block")) -> bool | None:
    """Whether *folder*'s block device, or one below it, is encrypted by dm-crypt; None if the kernel does not know.

    Source: ``/sys/dev/block/MAJOR:MINOR``, its ``slaves`` and their ``dm/uuid``.
    """
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116 - the number of the device
    except OSError:
        return None
    place = sys / f"{os.major(device)}:{os.minor(device)}"
    if not place.exists():
        return None  # a network or overlay file system has no device of its own
    return any(_is_crypt(device) for device in _stack(place))


def _stack(place: Path) -> Iterable[Path]:
    yield place
    for below in sorted((place / "slaves").glob("*")):
        yield from _stack(below.resolve())


def _is_crypt(device: Path) -> bool:
    try:
        return (device / "dm" / "uuid").read_text(encoding="ascii").startswith("CRYPT-")
    except OSError:
        return False
