"""Code in a backup that a restore in place would bring: a request must name it, as the page asks to confirm it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from backups.jobs.types import PREVIEW
from backups.models import IndexedBackup, Job

from .problems import Refused
from .schemas import RequestModel, Text

ANY = "any"
_MOST = 1000


class Acknowledged(RequestModel):
    """What a restore in place must say about triggers, views and embedding functions that the live stores do not have."""

    preview: Annotated[
        UUID | None,
        Field(description="The job of a preview of this backup and these stores. Required unless `code` is `any`."),
    ] = None
    code: Literal["any"] | Annotated[list[Text], Field(max_length=_MOST)] = Field(
        default_factory=list,
        description="The new code that may be restored: `KIND NAME` of each entry of `code` in the result of the preview, "
        "such as `trigger log_changes`; or `any` to accept what is there without a preview.",
    )


def require_acknowledged(row: IndexedBackup, only: str | None, body: Acknowledged) -> None:
    """Raises `Refused` (409, ``code_unconfirmed``) unless *body* names all code that a preview of this restore found."""
    if body.code == ANY:
        return
    hint = "Preview the restore, then send its job as `preview` and what it found as `code`; or send `any` as `code`."
    job = Job.objects.filter(pk=body.preview, kind=PREVIEW.name, state=Job.State.SUCCEEDED).first() if body.preview else None
    if job is None or not _is_of(job, row, only):
        text = "It is not known what code the backup would bring: this needs a finished preview of this restore."
        raise Refused(409, "code_unconfirmed", f"{text} Nothing was changed.", hint)
    found = [f"{one['kind']} {one['name']}" for one in (job.result or {}).get("code", [])]
    unnamed = sorted({*found} - {*body.code})
    if unnamed:
        text = "The backup contains code that the live stores do not have, and `code` does not name it. Nothing was changed."
        raise Refused(409, "code_unconfirmed", text, "Name it if you know it, or do not restore.", more={"unnamed": unnamed})


def _is_of(job: Job, row: IndexedBackup, only: str | None) -> bool:
    asked: dict[str, Any] = job.arguments
    same = asked.get("backup_id") == row.backup_id and (asked.get("only") or None) == (only or None)
    return same and all((asked.get(name) or value) == value for name, value in row.home.items())
