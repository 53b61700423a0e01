"""The originals: one file for each paper in the folder ``REFSERVER_FILES``, named by the document's hash with its suffix.

Anyone who can write to the database chooses what the rows hold, so a name from a row is used only if it is such a name, below a
descriptor of the folder, and only a regular file is opened: links are not followed.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from backups.engine.runtime import durable, folders
from refserver.library.models import Paper

_NAME = re.compile(r"[0-9a-f]{64}(\.[^./\0]{1,20})?")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def path(paper: Paper) -> Path:
    """Where the original of *paper* belongs. Raises ``FileNotFoundError`` if its row names no file of the folder."""
    name = f"{paper.content_hash}{Path(paper.file_name).suffix.lower()}"
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(errno.ENOENT, "the row names no file of the library")
    return Path(settings.REFSERVER_FILES) / name


def opened(paper: Paper) -> BinaryIO:
    """The original of *paper*, for reading. Raises ``FileNotFoundError`` if there is none, or it is not a regular file."""
    place = path(paper)
    with folders.opened(place.parent) as folder:
        try:
            descriptor = os.open(place.name, _READ, dir_fd=folder)
        except OSError as problem:
            if problem.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                raise FileNotFoundError(errno.ENOENT, "it is not a regular file") from problem
            raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def is_kept(paper: Paper) -> bool:
    """Whether `opened` would find the original of *paper*."""
    try:
        opened(paper).close()
    except FileNotFoundError:
        return False
    return True


def keep(paper: Paper, content: bytes) -> None:
    """Store *content*, the document of *paper*; a file of that name has the same content, and anything else is replaced."""
    place = path(paper)
    durable.make_folder(place.parent, 0o777)
    if not is_kept(paper):
        durable.write_file(place, content, 0o666)


def drop(papers: Iterable[Paper]) -> None:
    """Remove the originals of *papers*, without following links."""
    for paper in papers:
        with suppress(FileNotFoundError):
            place = path(paper)
            with folders.opened(place.parent) as folder:
                os.unlink(place.name, dir_fd=folder)
