"""Bring something back: four steps, each an address whose query holds all that was chosen, so that going back loses nothing.

Which backup → what of it and where to → what will change → confirm. Then the job, and its report.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers

from backups.catalog import holds
from backups.conf import configuration
from backups.engine.errors import BackupNotFound, EngineError, UsageError
from backups.engine.names import NAME
from backups.identity.sign_in import actor_of, password_problem
from backups.jobs import submit
from backups.jobs.types import PREVIEW, RESTORE, RESTORE_IN_PLACE
from backups.models import IndexedBackup, Job
from backups.models.listing import moment_of

from .backups import BACKUPS, BackupFilter, jobs_about, page_of_backups
from .frame import page, refused, render
from .running import live

FRESH = timedelta(minutes=15)
"""How long an answer to "what will change" is shown again instead of being asked for anew."""

_ONLY = re.compile(r"(sqlite|chroma|files)(:[A-Za-z0-9._-]{1,64})?")
_STEPS = (
    ("restore", "Which backup"),
    ("restore_what", "What, and where to"),
    ("restore_changes", "What will change"),
    ("restore_confirm", "Confirm"),
)
_SAMENESS = (("differing", False), ("same", True))
_WORDS = {"sqlite": "SQLite", "chroma": "Chroma", "files": "Files"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What was chosen so far, as the query string has it."""

    backup: str = ""
    repository: str = ""
    only: str = ""
    target: str = "folder"
    folder: str = ""
    look: str = ""

    @classmethod
    def of(cls, values: Any) -> Wish:
        """Read a query string or a form; what makes no sense is left out."""
        only, target = values.get("only", ""), values.get("target", "folder")
        return cls(
            backup=values.get("backup", "")[:80],
            repository=values.get("repository", "")[:64],
            only=only if _ONLY.fullmatch(only) else "",
            target=target if target in ("folder", "in_place") else "folder",
            folder=values.get("folder", "").strip()[:200],
            look=values.get("look", "")[:36],
        )

    def query(self, **changes: Any) -> str:
        """The query string of this wish with *changes*."""
        wish = replace(self, **changes)
        values = {
            "backup": wish.backup,
            "repository": wish.repository,
            "only": wish.only,
            "target": wish.target if wish.target != "folder" else "",
            "folder": wish.folder,
            "look": wish.look,
        }
        return urlencode({name: value for name, value in values.items() if value})

    def arguments(self) -> dict[str, Any]:
        """What a look at the changes is asked with."""
        return {"backup_id": self.backup, "repository": self.repository, "only": self.only or None}

    @property
    def what(self) -> str:
        """The stores that are meant, in words."""
        if not self.only:
            return "all of it"
        kind, _, name = self.only.partition(":")
        return f"{_WORDS[kind]} {name}".strip()


@dataclass(frozen=True, slots=True)
class Here:
    """A backup that was chosen, and whether it can be restored in place."""

    row: IndexedBackup
    targets: list[dict[str, str]]
    refusal: str
    hint: str

    @classmethod
    def of(cls, wish: Wish) -> Here:
        """Look the backup up. Raises `BackupNotFound`."""
        row = holds.indexed(wish.backup, wish.repository)
        found = configuration()
        try:
            sources = found.live_sources(row.set)
        except EngineError:
            why = f"Its set, {row.set}, is not one of this project: its live stores are not known here."
            return cls(row, [], why, "Restore it into a folder.")
        targets = [{"name": f"{one.kind}:{one.name}", "path": str(one.path)} for one in sources]
        refusal, hint = submit.refusal_in_place(row)
        return cls(row, targets, refusal, hint)

    @property
    def stores(self) -> list[dict[str, Any]]:
        """What it holds, to choose from."""
        return [
            {
                "value": f"{one['kind']}:{one['name']}",
                "kind": _WORDS.get(one["kind"], one["kind"]),
                "name": one["name"],
                "bytes": one["bytes"],
                "files": one["files"],
                "raw": one.get("method") == "raw",
            }
            for one in self.row.sources
        ]

    def bytes_of(self, only: str) -> int:
        """The size of the stores that *only* names."""
        kind, _, name = only.partition(":")
        chosen = [one for one in self.row.sources if not only or (one["kind"] == kind and name in ("", one["name"]))]
        return sum(int(one["bytes"]) for one in chosen)


def _steps(now: str, wish: Wish) -> list[dict[str, Any]]:
    """The steps with a way back to each that was done."""
    names = [name for name, _ in _STEPS]
    at = names.index(now)
    steps = []
    for number, (name, label) in enumerate(_STEPS):
        address = f"{reverse(f'backups:{name}')}?{wish.query()}" if number < at else ""
        steps.append({"label": label, "address": address, "now": number == at})
    return steps


def _page(request: HttpRequest, step: str, wish: Wish, context: dict[str, Any]) -> HttpResponse:
    full = {
        "wish": wish,
        "steps": _steps(step, wish),
        "query": wish.query(),
        "zone": timezone.get_current_timezone_name(),
        **context,
    }
    return render(request, f"backups/{step}.html", "Restore", full)


# 1 Which


@page("backups.restore_backup")
def which(request: HttpRequest) -> HttpResponse:
    """Choose a backup from the list, or by a point in time."""
    wish = Wish.of(request.GET)
    wanted, _ = BackupFilter.of({**request.GET.dict(), "proof": "", "mark": ""})
    asked = request.GET.get("at", "")
    set_name = request.GET.get("set", "") or configuration().default_set
    moments = _at(asked, set_name) if asked else None
    part = page_of_backups(wanted, request.GET, 20)
    recent = IndexedBackup.objects.order_by("-time", "-backup_id").values_list("set", flat=True)[:500]
    keep = {"backup": wish.backup, "only": wish.only, "target": wish.target, "folder": wish.folder}
    kept = {name: value for name, value in keep.items() if value and value != "folder"}
    context = {
        "filter": wanted,
        "rows": [(row, wish.query(backup=row.backup_id, repository=_repository(row), look="")) for row in part.rows],
        "older": wanted.as_query(**kept, older=BACKUPS.write(part.older)) if part.older else "",
        "newer": wanted.as_query(**kept, newer=BACKUPS.write(part.newer)) if part.newer else "",
        "kept": kept,
        "at": asked,
        "set_name": set_name,
        "moments": moments,
        "sets": sorted({*configuration().sets, *recent}),
        "any": IndexedBackup.objects.exists(),
        "newest": _sound(configuration().default_set).first(),
    }
    return _page(request, "restore", wish, context)


def _repository(row: IndexedBackup) -> str:
    return row.repository if row.repository != configuration().default_repository else ""


def _sound(set_name: str) -> Any:
    """What ``latest`` chooses from: neither damaged, nor SQLite alone, nor what a restore replaced."""
    rows = IndexedBackup.objects.filter(set=set_name, safety=False)
    if len(configuration().repositories) == 1:
        rows = rows.filter(repository=configuration().default_repository)
    return rows.exclude(verification="damaged").exclude(kind="snapshot").order_by("-time", "-backup_id")


def _at(asked: str, set_name: str) -> dict[str, Any]:
    """The newest backup at or before a moment, and the next one after it, or what is wrong with the moment."""
    moment = moment_of(asked)
    if moment is None:
        return {"problem": f"{asked!r} is not a point in time: write it as 2026-11-20T10:00."}
    before = _sound(set_name).filter(time__lte=moment).first()
    after = _sound(set_name).filter(time__gt=moment).order_by("time", "backup_id").first()
    return {
        "moment": moment,
        "before": before,
        "after": after,
        "lost": moment - before.time if before else None,
        "more": after.time - moment if after else None,
        "ahead": moment > timezone.now(),
    }


# 2 What, and where to


@page("backups.restore_backup")
def what(request: HttpRequest) -> HttpResponse:
    """Choose stores and a target; with ``go`` the answers are checked, and the next step follows."""
    wish = Wish.of(request.GET)
    if not wish.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    here = Here.of(wish)
    problems = _problems(wish, here) if "go" in request.GET else {}
    if "go" in request.GET and not problems:
        return HttpResponseRedirect(f"{reverse('backups:restore_changes')}?{wish.query(look='')}")
    context = {
        "here": here,
        "row": here.row,
        "problems": problems,
        "folder": wish.folder or _free_folder(wish, here),
        "restore_folder": configuration().restore_folder,
        "missing": _missing(here),
    }
    return _page(request, "restore_what", wish, context)


def _missing(here: Here) -> list[str]:
    """The live stores that the backup does not hold: restored whole, the stores would be of different times."""
    held = {f"{one['kind']}:{one['name']}" for one in here.row.sources}
    return [target["name"] for target in here.targets if target["name"] not in held]


def _problems(wish: Wish, here: Here) -> dict[str, str]:
    """What is wrong with the answers of the second step, by field."""
    problems = {}
    if wish.only and not here.bytes_of(wish.only) and wish.only not in {store["value"] for store in here.stores}:
        problems["only"] = f"The backup holds no {wish.only}."
    if wish.target == "in_place":
        if here.refusal:
            problems["target"] = f"{here.refusal} {here.hint}"
        elif not wish.only and _missing(here):
            problems["only"] = f"It does not hold {', '.join(_missing(here))}. Choose one store, or another backup."
    elif not NAME.fullmatch(wish.folder):
        problems["folder"] = "Name a folder: letters, digits, dots, dashes and underscores, at most 64."
    elif _occupied(wish.folder):
        problems["folder"] = (
            f"There is something in {configuration().restore_folder / wish.folder} already. Choose another name."
        )
    return problems


def _occupied(name: str) -> bool:
    place = configuration().restore_folder / name
    try:
        return place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir())))
    except OSError:
        return True


def _free_folder(wish: Wish, here: Here) -> str:
    """A name for a new folder that tells what is in it."""
    base = here.row.backup_id + (f"-{wish.only.replace(':', '-')}" if wish.only else "")
    return next((name for name in (base[:60], *(f"{base[:57]}-{n}" for n in range(2, 50))) if not _occupied(name)), base[:60])


# 3 What will change


@page("backups.restore_backup", methods=("GET", "POST"))
def changes(request: HttpRequest) -> HttpResponse:
    """Show what a restore would change; a POST looks at it anew."""
    wish = Wish.of(request.POST if request.method == "POST" else request.GET)
    if not wish.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    here = Here.of(wish)
    if _problems(wish, here):
        return HttpResponseRedirect(f"{reverse('backups:restore_what')}?{wish.query()}&go=1")
    if request.method == "POST":
        job = submit.preview_restore(actor_of(request), **wish.arguments())
        wish = replace(wish, look=str(job.pk))
        address = f"{reverse('backups:restore_changes')}?{wish.query()}"
        if request.headers.get("HX-Request"):
            response = render_template(request, "backups/restore_look.html", _look_context(request, wish, here, job))
            response.headers["HX-Replace-Url"] = address
            return response
        return HttpResponseRedirect(address)
    job_of_wish = _look_of(wish)
    if job_of_wish is not None:
        wish = replace(wish, look=str(job_of_wish.pk))
    context = {"here": here, "row": here.row, "size": here.bytes_of(wish.only)}
    return _page(request, "restore_changes", wish, context | _look_context(request, wish, here, job_of_wish))


def _look_of(wish: Wish) -> Job | None:
    """The look that the query names, or a fresh one at the same."""
    mine = jobs_about(wish.backup).filter(kind=PREVIEW.name)
    found: Job | None = None
    if wish.look:
        try:
            found = mine.filter(pk=uuid.UUID(wish.look)).first()
        except ValueError:
            found = None
    if found is None:
        fresh = mine.filter(created__gt=timezone.now() - FRESH).exclude(state__in=(Job.State.FAILED, Job.State.CANCELLED))
        found = next((job for job in fresh[:10] if _is_of(job, wish)), None)
    return found if found is not None and _is_of(found, wish) else None


def _is_of(job: Job, wish: Wish) -> bool:
    return (job.arguments.get("only") or "") == wish.only and job.state != Job.State.INTERRUPTED


def _look_context(request: HttpRequest, wish: Wish, here: Here, job: Job | None) -> dict[str, Any]:
    """What the third step's live part needs: the job that looks, or its answer."""
    context: dict[str, Any] = {
        "job": job,
        "wish": wish,
        "query": wish.query(),
        "here": here,
        "row": here.row,
        "live": live(job) if job is not None and not job.has_ended else None,
        "next_page": f"{reverse('backups:restore_changes')}?{wish.query()}",
    }
    if job is not None and job.state == Job.State.SUCCEEDED and job.result:
        context |= told(job.result, wish.target)
        context["own"] = own_fate(request, job.result)
        context["old"] = job.finished is not None and timezone.now() - job.finished > FRESH
    return context


def told(result: dict[str, Any], target: str) -> dict[str, Any]:
    """The answer of a look, sorted for people: what changes first, and what stays as it is as a count."""
    databases = []
    gone = back = changed = 0
    for store in result["sqlite"]:
        differing: list[dict[str, Any]] = []
        same: list[dict[str, Any]] = []
        for table in store["tables"]:
            differs = table["differs"]
            moves = differs is None or any(differs.values()) or table["before"] != table["after"]
            if differs is None and table["before"] == table["after"] and store["live"] == "ok":
                moves = False  # too large to be compared row by row, and as many rows
            (differing if moves else same).append(table)
            gone += differs["gone"] if differs else max(0, (table["before"] or 0) - (table["after"] or 0))
            back += differs["back"] if differs else max(0, (table["after"] or 0) - (table["before"] or 0))
            changed += differs["changed"] if differs else 0
        uncompared = sum(table["differs"] is None for table in store["tables"]) if store["live"] == "ok" else 0
        databases.append({**store, "differing": differing, "same": same, "uncompared": uncompared})
    directories = [
        {**store, **{name: [one for one in store["collections"] if one["same"] is same] for name, same in _SAMENESS}}
        for store in result["chroma"]
    ]
    vectors = [
        sum((one[side] or 0) for store in result["chroma"] for one in store["collections"]) for side in ("before", "after")
    ]
    files = {what: sum(store["counts"][what] for store in result["files"] if store["counts"]) for what in ("appear", "vanish")}
    unread = [
        store for store in (*result["sqlite"], *result["chroma"], *result["files"]) if store["live"] not in ("ok", "unknown")
    ]
    accounts = result["accounts"]
    full = [place for place in result["space"] if not place["enough"]]
    return {
        "result": result,
        "databases": databases,
        "directories": directories,
        "folders": result["files"],
        "gone": gone,
        "back": back,
        "changed": changed,
        "vectors": vectors,
        "file_counts": files,
        "unread": unread,
        "accounts": accounts,
        "alarming": bool(accounts and (accounts["counts"]["gives"] or accounts["counts"]["gives_groups"])),
        "nothing": not (gone or back or changed or unread or any(store["differing"] for store in directories))
        and not any(any(store["counts"].values()) for store in result["files"] if store["counts"]),
        "full": full,
        "possible": target == "folder" or (result["in_place"]["possible"] and not full),
        "age": timedelta(seconds=result["age_seconds"]),
    }


def own_fate(request: HttpRequest, result: dict[str, Any]) -> str:
    """What happens at the next click to whoever restores: their own account may not be in the backup, or be another one."""
    accounts = result.get("accounts")
    if not accounts:
        return ""
    name = request.user.get_username()
    if any(account["name"] == name for account in accounts["vanish"]):
        return (
            "Your own account is not in this backup. After the restore your next click asks you to sign in, with an account "
            "that is. The restore itself goes on to its end."
        )
    mine = next((one for one in accounts["change"] if one["name"] == name), None)
    if mine is None:
        return ""
    changed = {change["what"]: change for change in mine["changes"]}
    if "password" in changed or "number" in changed:
        return (
            "Your own password will be the one of then. After the restore your next click asks you to sign in with it. "
            "The restore itself goes on to its end."
        )
    taken = [what for what in ("active", "staff", "superuser") if what in changed and not changed[what]["after"]]
    if taken:
        return f"Your own account had fewer rights then ({', '.join(taken)}): you may not see these pages after the restore."
    return ""


@page("backups.restore_backup")
def look(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The live part of the third step, asked for every second while the look goes on."""
    wish = replace(Wish.of(request.GET), look=str(job_id))
    job = Job.objects.filter(pk=job_id, kind=PREVIEW.name).first()
    if job is None:
        raise UsageError("There is no such job.", hint="Look at the changes anew.")
    context = _look_context(request, wish, Here.of(wish), job)
    return render_template(request, "backups/restore_look.html", context)


# 4 Confirm


@page("backups.restore_backup", methods=("GET", "POST"))
def confirm(request: HttpRequest) -> HttpResponse:
    """Ask for the backup's id and the password again where live data is replaced, and begin."""
    wish = Wish.of(request.POST if request.method == "POST" else request.GET)
    if not wish.backup:
        return HttpResponseRedirect(reverse("backups:restore"))
    here = Here.of(wish)
    if _problems(wish, here):
        return HttpResponseRedirect(f"{reverse('backups:restore_what')}?{wish.query()}&go=1")
    errors: dict[str, str] = {}
    typed = request.POST.get("typed", "").strip()
    if request.method == "POST":
        if wish.target == "in_place":
            errors = _doubts(request, here.row, typed)
        if not errors:
            return HttpResponseRedirect(reverse("backups:restore_report", args=[_begin(request, wish, here.row, typed).pk]))
    looked = _look_of(wish)
    context: dict[str, Any] = {
        "here": here,
        "row": here.row,
        "errors": errors,
        "typed": typed,
        "place": configuration().restore_folder / wish.folder if wish.target == "folder" else None,
        "size": here.bytes_of(wish.only),
        "looked": looked if looked is not None and looked.state == Job.State.SUCCEEDED else None,
    }
    if context["looked"] is not None and looked is not None and looked.result:
        context |= told(looked.result, wish.target)
        context["own"] = own_fate(request, looked.result)
    return _page(request, "restore_confirm", wish, context)


def _doubts(request: HttpRequest, row: IndexedBackup, typed: str) -> dict[str, str]:
    """What is wrong with the typed id and the password. The password is not tried before the id is right."""
    if typed != row.backup_id:
        return {"typed": "That is not the id of this backup. Nothing was changed."}
    problem = password_problem(request, request.POST.get("password", ""))
    return {"password": problem} if problem else {}


def _begin(request: HttpRequest, wish: Wish, row: IndexedBackup, typed: str) -> Job:
    actor, common = actor_of(request), {"backup_id": row.backup_id, "repository": row.repository, "only": wish.only or None}
    if wish.target == "in_place":
        return submit.restore_in_place(actor, typed=typed, **common)
    return submit.restore_to_folder(actor, folder=wish.folder, **common)


# The job, and its report


@page("backups.restore_backup")
def report(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The restore while it runs, and its report once it has ended."""
    job = _restore_job(job_id)
    return render(request, "backups/restore_report.html", "Restore", _report_context(job))


def report_live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponseBase:
    """The live part of the report. Who was signed out by the restore itself is told so, instead of being shown a form here."""
    if not admin.site.has_permission(request) or not request.user.has_perm("backups.restore_backup"):
        response = render_template(request, "backups/restore_signed_out.html", {"job_id": job_id}, status=286)
        add_never_cache_headers(response)
        return response
    return _report_live(request, job_id)


@page("backups.restore_backup")
def _report_live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    try:
        job = _restore_job(job_id)
    except BackupNotFound as problem:
        return refused(request, problem)
    response = render_template(request, "backups/restore_live.html", _report_context(job))
    if job.has_ended:
        response.headers["HX-Refresh"] = "true"
    return response


def _restore_job(job_id: uuid.UUID) -> Job:
    job = Job.objects.filter(pk=job_id, kind__in=(RESTORE.name, RESTORE_IN_PLACE.name)).first()
    if job is None:
        raise BackupNotFound("There is no restore of that number.", hint="The list of jobs has all that are kept.")
    return job


def _report_context(job: Job) -> dict[str, Any]:
    """All that a report tells, from the job, the backup, and the look that was taken before."""
    in_place = job.kind == RESTORE_IN_PLACE.name
    row = IndexedBackup.objects.filter(repository=job.repository, backup_id=job.arguments["backup_id"]).order_by().first()
    result = job.result or {}
    checks = result.get("checks") or {}
    safety = str(checks.get("safety_backup") or (job.error or {}).get("safety_backup") or "")
    only = job.arguments.get("only") or ""
    wish = Wish(backup=job.arguments["backup_id"], only=only, target="in_place" if in_place else "folder")
    looks = jobs_about(wish.backup).filter(kind=PREVIEW.name, state=Job.State.SUCCEEDED, created__lte=job.created)
    looked = next((one for one in looks[:10] if _is_of(one, wish)), None) if in_place else None
    return {
        "job": job,
        "row": row,
        "in_place": in_place,
        "wish": wish,
        "live": live(job) if not job.has_ended else None,
        "succeeded": job.state == Job.State.SUCCEEDED,
        "result": result,
        "checks": _checks(checks),
        "safety": safety,
        "back_query": Wish(backup=safety, only=only, target="in_place").query() if safety else "",
        "again_query": wish.query(folder="" if in_place else str(job.arguments.get("folder", ""))),
        "accounts": result.get("accounts"),
        "looked": looked,
        "changes": told(looked.result, "in_place") if looked is not None and looked.result else None,
        "phases": job.phases,
        "zone": timezone.get_current_timezone_name(),
        "age": (job.created - row.time) if row else None,
        "next_page": reverse("backups:restore_report", args=[job.pk]),
    }


def _checks(checks: dict[str, Any]) -> list[dict[str, Any]]:
    """What was checked of each store, in words."""
    found = []
    for store, facts in checks.items():
        if not isinstance(facts, dict):
            continue
        if "tables" in facts:
            rows = sum(facts["tables"].values())
            keys = facts.get("foreign_key_check") or 0
            text = f"integrity check {facts['integrity_check']}; {len(facts['tables'])} tables, {rows:,} rows"
            text += f"; {keys:,} foreign keys point to nothing" if keys else "; every foreign key holds"
            found.append({"store": store, "text": text, "good": facts["integrity_check"] == "ok"})
        elif "collections" in facts:
            parts = []
            for name, one in facts["collections"].items():
                searched = ", a search answered" if one.get("searched") else ""
                parts.append(f"{name}: {one['count']:,} vectors{searched}")
            text = "; ".join(parts) or "no collection"
            found.append({"store": store, "text": f"{text}; equal to what the source held", "good": True})
    return found


urlpatterns: list[URLPattern] = [
    path("restore/", which, name="restore"),
    path("restore/what/", what, name="restore_what"),
    path("restore/changes/", changes, name="restore_changes"),
    path("restore/look/<uuid:job_id>/", look, name="restore_look"),
    path("restore/confirm/", confirm, name="restore_confirm"),
    path("restore/report/<uuid:job_id>/", report, name="restore_report"),
    path("restore/report/<uuid:job_id>/live/", report_live, name="restore_report_live"),
]
