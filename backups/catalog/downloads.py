"""Downloads of a backup's files over HTTP, which can be resumed.

One range per request (``Range: bytes=N-M``), with a strong entity tag from the published checksums, so that ``If-Range`` never
joins parts of different files (RFC 9110, sections 13 and 14). Files never change once published; if a backup is deleted during
a download, the open file can still be read to its end.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import http_date, parse_http_date_safe

from backups.conf import configuration
from backups.engine.encryption.chain import ENVELOPE
from backups.engine.errors import BackupNotFound, DamageFound, from_os_error
from backups.engine.names import DATA, MANIFEST, SEALED_DATA, SUMS
from backups.engine.repository.folder import Repository
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import IndexedBackup

FILES = {
    DATA: "application/zstd",
    SEALED_DATA: "application/octet-stream",
    MANIFEST: "application/json",
    ENVELOPE: "application/json",
    SUMS: "text/plain; charset=us-ascii",
}
"""The files of a backup that can be downloaded, and their media types."""

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.ASCII)


def permitted(user: Any, row: IndexedBackup) -> bool:
    """Whether an account with the permission to download may download *row*.

    Sets that are kept apart hold the control database, with the tokens, channels and audit of everybody: only for superusers.
    """
    config = configuration()
    return bool(user.is_superuser) or config.whole_set(row.set) not in config.kept_apart


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes *first* to *last* of a file, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def answer(request: HttpRequest, row: IndexedBackup, name: str, actor: Actor) -> HttpResponseBase:
    """The file *name* of a backup: 200, 206 for a range, 304 for a match, 412 or 416 when a condition or range fails.

    Callers check the permission and that the method is GET or HEAD. Each download is audited. Raises ``PermissionDenied`` if it
    is not `permitted`, and `BackupNotFound` for an unknown name or a deleted backup.
    """
    if not permitted(request.user, row):
        raise PermissionDenied(f"Only a superuser may download the set {row.set}, which holds the control database.")
    repository = configuration().open(row.repository)
    if name not in FILES:
        raise BackupNotFound(f"A backup has no file {name!r}.", hint=f"It has {', '.join(FILES)}.")
    try:
        file = os.fdopen(repository.open_file(row.set, row.backup_id, name), "rb")
    except FileNotFoundError:
        raise BackupNotFound(f"{name} of {row.backup_id} is not in the repository.", hint="Verify the backup.") from None
    except OSError as problem:
        raise from_os_error(problem, f"Opening {name} of {row.backup_id}") from problem
    try:
        response = _answer(request, file, name, _tag(repository, row, name, file), f"{row.backup_id}-{name}")
    except BaseException:
        file.close()
        raise
    if request.method == "GET" and response.status_code in (200, 206):
        part = response.headers.get("Content-Range", "")
        audit.record(actor, "backup.downloaded", f"backup:{row.backup_id}", after={"file": name, "range": part, **row.home})
    return response


def _tag(repository: Repository, row: IndexedBackup, name: str, file: BinaryIO) -> str:
    """The strong entity tag of a file: its published SHA-256; that of a file without one is computed."""
    if name in (SUMS, ENVELOPE):
        content = file.read(_PIECE)
        file.seek(0)
        return f'"{hashlib.sha256(content).hexdigest()}"'
    try:
        return f'"{repository.expected_sums(row.set, row.backup_id)[name]}"'
    except DamageFound:
        # Damaged backups can be downloaded too; time and size do not prove that parts belong together, so the tag is weak
        status = os.fstat(file.fileno())
        return f'W/"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _answer(request: HttpRequest, file: BinaryIO, name: str, tag: str, called: str) -> HttpResponseBase:
    facts = os.fstat(file.fileno())
    size, changed = facts.st_size, int(facts.st_mtime)
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Last-Modified": http_date(changed),
        "Cache-Control": "private, no-cache, no-transform",
        "Content-Disposition": f'attachment; filename="{called}"',
        "X-Content-Type-Options": "nosniff",
    }
    refusal = _precondition(request, tag, changed)
    if refusal is not None:
        file.close()
        return HttpResponse(status=refusal, headers=headers)
    part = _range(request, size, tag, changed)
    if part == "unsatisfiable":
        file.close()
        return HttpResponse(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    assert not isinstance(part, str)
    headers["Content-Length"] = str(part.length if part else size)
    if part:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{size}"
    status, kind = 206 if part else 200, FILES[name]
    if request.method == "HEAD":
        file.close()
        return HttpResponse(status=status, content_type=kind, headers=headers)
    if part is None:
        return FileResponse(file, as_attachment=True, filename=called, content_type=kind, headers=headers)
    return StreamingHttpResponse(_Part(file, part), status=status, content_type=kind, headers=headers)


def _precondition(request: HttpRequest, tag: str, changed: int) -> int | None:
    """412 or 304 if a conditional header fails, in the order of RFC 9110; None otherwise."""
    headers = request.headers
    if (match := headers.get("If-Match")) is not None:
        if not _named(match, tag, weakly=False):
            return 412
    elif (since := _moment(headers.get("If-Unmodified-Since"))) is not None and changed > since:
        return 412
    if (none := headers.get("If-None-Match")) is not None:
        return 304 if _named(none, tag, weakly=True) else None
    since = _moment(headers.get("If-Modified-Since"))
    return 304 if since is not None and changed <= since else None


def _range(request: HttpRequest, size: int, tag: str, changed: int) -> Range | str | None:
    """The requested part; None for the whole file, also for several ranges, an unknown unit, or a failed ``If-Range``."""
    header = request.headers.get("Range")
    match = _RANGE.fullmatch(header) if header and request.method == "GET" else None
    if match is None or (match[1] == "" and match[2] == ""):
        return None
    condition = request.headers.get("If-Range")
    if condition is not None:
        moment = _moment(condition)
        fits = moment == changed if moment is not None else condition.strip() == tag and not tag.startswith("W/")
        if not fits:
            return None
    if match[1] == "":
        length = min(int(match[2]), size)
        return Range(size - length, size - 1) if length else "unsatisfiable"
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None  # an invalid range is ignored
    return Range(first, min(last, size - 1)) if first < size else "unsatisfiable"


def _named(listed: str, tag: str, *, weakly: bool) -> bool:
    if listed.strip() == "*":
        return True
    tags = [one.strip() for one in listed.split(",")]
    if weakly:
        return tag.removeprefix("W/") in (one.removeprefix("W/") for one in tags)
    return not tag.startswith("W/") and tag in tags


def _moment(value: str | None) -> int | None:
    """An HTTP date in seconds since 1970; None for anything else."""
    if not value or value.lstrip().startswith(('"', "W/")):
        return None
    return parse_http_date_safe(value)


class _Part:
    """A part of a file in pieces of 1 MiB; closed with the response, also when the client disconnects."""

    def __init__(self, file: BinaryIO, part: Range) -> None:
        self._file = file
        self._part = part

    def __iter__(self) -> Iterator[bytes]:
        at, end = self._part.first, self._part.last + 1
        while at < end:
            piece = os.pread(self._file.fileno(), min(_PIECE, end - at), at)
            if not piece:
                return
            at += len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()
