"""The preview of a restore: finding the job that made it, and its result sorted for the pages."""

import uuid
from datetime import timedelta
from typing import Any

from django.http import HttpRequest

from backups import moments
from backups.jobs.types import PREVIEW
from backups.models import Job

from ..backups.selection import jobs_about
from .selection import RestoreSelection

_FRESH = timedelta(minutes=15)
_JUST_NOW = timedelta(minutes=1)
_MOST_NAMED = 12


def preview_of(selection: RestoreSelection, state: str) -> Job | None:
    """The job whose id the selection names, or else one with the same arguments whose live data was that of *state*."""
    previews = jobs_about(selection.backup).filter(kind=PREVIEW.name)
    named: Job | None = None
    if selection.look:
        try:
            named = previews.filter(pk=uuid.UUID(selection.look)).first()
        except ValueError:
            named = None
    if named is not None:
        return named if is_preview_of(named, selection) else None
    fresh = previews.filter(created__gt=moments.now() - _FRESH).exclude(state__in=(Job.State.FAILED, Job.State.CANCELLED))
    return next((job for job in fresh[:10] if is_preview_of(job, selection) and not is_outdated(job, state)), None)


def is_outdated(job: Job, state: str) -> bool:
    """Whether the preview has ended and the live data, now *state*, was written to after it began."""
    return job.has_ended and (job.result or {}).get("state") != state


def is_from_just_now(job: Job) -> bool:
    """Whether it ended within the last minute: data that is written to all the time is never in the state of its preview."""
    return job.finished is not None and moments.now() - job.finished < _JUST_NOW


def is_preview_of(job: Job, selection: RestoreSelection) -> bool:
    """Whether the job previews the stores of *selection*, and was not interrupted."""
    same_set = not selection.backup_set or job.arguments.get("set") in (None, "", selection.backup_set)
    return same_set and (job.arguments.get("only") or "") == selection.only and job.state != Job.State.INTERRUPTED


def summarize_preview(result: dict[str, Any], *, in_place: bool) -> dict[str, Any]:
    """The result of a preview (`backups.catalog.restore_preview`) as the pages show it: differences first, totals of rows."""
    databases = [_summarize_database(store) for store in result["sqlite"]]
    changed_rows = {name: sum(database[name] for database in databases) for name in ("gone", "back", "changed")}
    stores = (*result["sqlite"], *result["chroma"], *result["files"])
    unread = [store for store in stores if store["live"] not in ("ok", "unknown")]
    accounts = result["accounts"]
    full = [place for place in result["space"] if not place["enough"]]
    same_vectors = all(one["same"] for store in result["chroma"] for one in store["collections"])
    same_files = not any(any(store["counts"].values()) for store in result["files"] if store["counts"])
    return {
        "result": result,
        "databases": databases,
        "directories": result["chroma"],
        "folders": result["files"],
        **changed_rows,
        "named": _named(databases)[:_MOST_NAMED],
        "unnamed": max(0, len(_named(databases)) - _MOST_NAMED),
        "unread": unread,
        "accounts": accounts,
        "code": result.get("code", []),
        "alarming": bool(accounts and (accounts["counts"]["gives"] or accounts["counts"]["gives_groups"])),
        "nothing": not any(changed_rows.values()) and not unread and same_vectors and same_files,
        "full": full,
        "possible": not in_place or (result["in_place"]["possible"] and not full),
        "age": timedelta(seconds=result["age_seconds"]),
    }


def _summarize_database(store: dict[str, Any]) -> dict[str, Any]:
    """A database with its tables split into ``differing`` and ``same``, and numbers of rows ``gone``, ``back``, ``changed``."""
    differing: list[dict[str, Any]] = []
    same: list[dict[str, Any]] = []
    gone = back = changed = 0
    readable = store["live"] == "ok"
    for table in store["tables"]:
        differs, before, after = table["differs"], table["before"], table["after"]
        if differs:
            gone, back, changed = gone + differs["gone"], back + differs["back"], changed + differs["changed"]
        else:
            gone += max(0, (before or 0) - (after or 0))
            back += max(0, (after or 0) - (before or 0))
        # A table that is too large to be compared row by row counts as the same if it has as many rows
        is_same = before == after and (readable if differs is None else not any(differs.values()))
        (same if is_same else differing).append(table)
    uncompared = sum(table["differs"] is None for table in store["tables"]) if readable else 0
    counts = {"gone": gone, "back": back, "changed": changed, "uncompared": uncompared}
    return {**store, "differing": differing, "same": same, **counts}


def _named(databases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which rows differ, for each table and kind of difference; those with names first."""
    found = [
        {"table": table["name"], "what": what, "count": table["differs"][what], "names": names, "more": count - len(names)}
        for database in databases
        for table in database["differing"]
        if table["differs"]
        for what, count in table["differs"].items()
        if count
        for names in [table.get("names", {}).get(what, [])]
    ]
    return sorted(found, key=lambda one: not one["names"])


def effect_on_current_user(request: HttpRequest, result: dict[str, Any]) -> str:
    """What the restore does to the account that requests it, in a sentence; empty if it changes nothing."""
    accounts = result.get("accounts")
    if not accounts:
        return ""
    name = request.user.get_username()
    if any(account["name"] == name for account in accounts["vanish"]):
        return (
            "Your account is not in this backup. After the restore you have to sign in with an account that is. "
            "The restore continues without you."
        )
    account = next((one for one in accounts["change"] if one["name"] == name), None)
    if account is None:
        touched = accounts["appear"] or accounts["change"] or accounts.get("withheld")
        return "You will be signed out, because accounts change. The restore continues without you." if touched else ""
    changes = {change["what"]: change for change in account["changes"]}
    if "password" in changes or "number" in changes:
        return "You will be signed out. The restore continues without you."
    lost = [what for what in ("active", "staff", "superuser") if what in changes and not changes[what]["after"]]
    if lost:
        return f"In the backup your account is not {' or '.join(lost)}: you may lose access to these pages after the restore."
    return ""
