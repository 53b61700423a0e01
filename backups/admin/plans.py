"""Plans: the list, one plan, adding, import and export."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.shortcuts import render as render_template
from pydantic import ValidationError

from backups import moments
from backups.conf import WORKER, called, configuration
from backups.engine.errors import UsageError
from backups.engine.progress import counted
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.jobs.arguments import PruneArguments
from backups.jobs.types import PRUNE, job_type, job_types
from backups.models import Job, Plan
from backups.monitoring.conditions.workers import is_silent
from backups.monitoring.gathering import worker_beat
from backups.plans import cron as schedules
from backups.plans import editing, retention_preview, scheduling, yaml_files
from backups.plans.cron_words import in_words
from backups.plans.missed import Missed, missed_lately, missed_slots, unserved_slots

from .frame import found_or_404, page, render, require, say
from .plan_form import PlanForm, PruneForm, form_of, zones
from .step_up import dangerous, saved

SHOWN_TIMES = 5
_HISTORY = 20

ABOUT_KINDS = {
    "backup": "Copy the stores to the repository, cut at one instant.",
    "verify": "Check that backups are intact.",
    "drill": "Restore the newest backup as a test, and record the duration.",
    "prune": "Delete the backups that no retention rule keeps.",
    "health": "Check repositories, backups, workers, jobs and plans.",
    "reindex": "Rescan the repositories for backups.",
    "audit_verify": "Verify the hash chain of the audit log.",
    "check_consistency": "Compare rows and vectors.",
}
"""What each job type does, shown when a plan is added."""


@dataclass(frozen=True, slots=True)
class Times:
    """When a plan is due: in words and as the next times; or what is wrong with its cron expression."""

    words: str
    next: list[datetime]
    problem: str
    zone: str


def times_of(cron: str, zone: str, count: int = SHOWN_TIMES) -> Times:
    """`Times` of a cron expression, valid or not."""
    cron = " ".join(cron.split())
    problem = schedules.check(cron, zone)
    if problem:
        return Times("", [], f"{problem[:1].upper()}{problem[1:]}.", zone)
    try:
        words = in_words(cron, zone)
    except ValueError:
        words = cron
    return Times(words, schedules.slots_after(cron, zone, moments.now(), count), "", zone)


@page("backups.view_plan")
def overview(request: HttpRequest) -> HttpResponse:
    """All plans, with their next time and their last job."""
    last = Job.objects.filter(plan=OuterRef("pk")).order_by("-created", "-id").values("pk")[:1]
    plans = sorted(Plan.objects.annotate(last_job=Subquery(last)), key=lambda plan: str(plan).casefold())
    jobs = Job.objects.in_bulk([plan.last_job for plan in plans if plan.last_job])
    now = moments.now()
    missed = missed_lately(plans, now)
    rows = [
        (plan, times_of(plan.cron, plan.time_zone, 1), jobs.get(plan.last_job), _where(plan), missed.get(plan.name))
        for plan in plans
    ]
    coming = [(times.next[0], plan) for plan, times, *_ in rows if plan.enabled and times.next]
    host = configuration().host
    beat = worker_beat(host)
    context = {
        "rows": rows,
        "running": sum(plan.enabled for plan in plans),
        "paused": sum(not plan.enabled for plan in plans),
        "coming": min(coming, key=lambda item: item[0], default=None),
        "failed": [plan for plan, _, job, *_ in rows if plan.enabled and job is not None and job.state == Job.State.FAILED],
        "silent": is_silent(beat, now),
        "beat": beat,
        "host": host,
        "start": called(WORKER),
    }
    return render(request, "backups/plans.html", "Plans", context)


@page("backups.change_plan", methods=("GET", "POST"))
@dangerous(saved, second=four_eyes.PLANS)
def new(request: HttpRequest) -> HttpResponse:
    """Choose a job type, then fill in its form."""
    name = request.GET.get("kind", "")
    if not name:
        offered = [(kind, ABOUT_KINDS.get(kind.name, "")) for kind in job_types().values() if kind.planned]
        choices = [(kind, text) for kind, text in offered if request.user.has_perm(kind.permission)]
        return render(request, "backups/plan_kinds.html", "Add a plan", {"choices": choices})
    kind = job_type(name)
    if not kind.planned:
        raise Http404(f"A plan cannot run {kind.title}.")
    _require_rights(request, name)
    form = form_of(kind)(request.POST or None, kind=kind)
    if request.method == "POST" and request.POST.get("do") == "save" and form.is_valid():
        plan = editing.make_plan(actor_of(request), form.cleaned_data["name"], **form.values())
        say(request, f"Plan {plan} added.")
        return redirect(plan)
    return _form_page(request, "backups/plan_new.html", f"Add a plan: {kind.title}", form, {"kind": kind})


@page("backups.view_plan", methods=("GET", "POST"))
@dangerous(saved, second=four_eyes.PLANS)
def one(request: HttpRequest, name: str) -> HttpResponse:
    """One plan: its times, its jobs, and its form."""
    plan = found_or_404(Plan.objects.all(), "plan", name=name)
    kind = job_types().get(plan.kind)
    may_change = kind is not None and request.user.has_perms(editing.needs(plan.kind))
    form = form_of(kind)(request.POST or None, kind=kind, plan=plan) if kind is not None else None
    if request.method == "POST":
        if form is None or not may_change:
            raise PermissionDenied
        if request.POST.get("do") == "save" and form.is_valid():
            editing.change_plan(actor_of(request), plan, **form.values())
            say(request, f"Plan {plan} saved.")
            return redirect(plan)
    history = list(plan.jobs.order_by("-created", "-id")[:_HISTORY])
    last = next((job for job in history if job.state in Job.ENDED), None)
    now = moments.now()
    context = {
        "plan": plan,
        "kind": kind,
        "may_change": may_change,
        "where": _where(plan),
        "times_now": times_of(plan.cron, plan.time_zone),
        "history": history,
        "missed": missed_slots(plan, now),
        "lately": missed_lately([plan], now).get(plan.name, Missed()),
        "failed": last if last is not None and last.state in (Job.State.FAILED, Job.State.INTERRUPTED) else None,
        "unserved": unserved_slots(plan, {job.slot for job in history if job.slot is not None}),
    }
    return _form_page(request, "backups/plan.html", str(plan), form, context)


def _switches_or_changes(request: HttpRequest, name: str, what: str) -> bool:
    return what != "run" or editing.is_dangerous(found_or_404(Plan.objects.all(), "plan", name=name))


@page("backups.run_plan", methods=("POST",))
@dangerous(_switches_or_changes, second=four_eyes.PLANS)
def switch(request: HttpRequest, name: str, what: str) -> HttpResponse:
    """Pause, resume, or run a plan now."""
    plan, actor = found_or_404(Plan.objects.all(), "plan", name=name), actor_of(request)
    if what == "run":
        job = scheduling.run(plan, actor)
        say(request, f"{plan}: job queued. Its next times are not affected.")
        return redirect(job)
    if what == "pause":
        editing.pause_plan(actor, plan)
        say(request, f"{plan} is paused until it is resumed.", level=messages.WARNING)
    elif what == "resume":
        editing.resume_plan(actor, plan)
        say(request, f"{plan} is resumed. Times that were missed while it was paused are skipped.")
    else:
        raise Http404
    return redirect("backups:plans" if request.POST.get("back") == "list" else plan)


@page("backups.change_plan", methods=("GET", "POST"))
@dangerous(second=four_eyes.PLANS)
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """Confirm, then delete the plan."""
    plan = found_or_404(Plan.objects.all(), "plan", name=name)
    _require_rights(request, plan.kind)
    if request.method == "POST":
        editing.remove_plan(actor_of(request), plan)
        say(request, f"Plan {plan} deleted. Its jobs and backups are kept.")
        return redirect("backups:plans")
    context = {"plan": plan, "times": times_of(plan.cron, plan.time_zone, 1), "jobs": plan.jobs.exists()}
    return render(request, "backups/plan_delete.html", f"Delete {plan}?", context)


@page("backups.view_plan")
def times(request: HttpRequest) -> HttpResponse:
    """A cron expression in words and its next times, fetched while the form is edited."""
    found = times_of(request.GET.get("cron", "")[:100], request.GET.get("time_zone", "UTC")[:64])
    return render_template(request, "backups/plan_times.html", {"times": found})


@page("backups.view_plan")
def retention(request: HttpRequest) -> HttpResponse:
    """What retention rules would keep and delete now, fetched while the form is edited."""
    return render_template(request, "backups/plan_retention.html", {"retention": _retention(request.GET)})


@page("backups.view_plan")
def export(request: HttpRequest) -> HttpResponse:
    """All plans as YAML."""
    name = f"plans-{moments.now():%Y%m%d}.yaml"
    return HttpResponse(
        yaml_files.write(Plan.objects.all()),
        content_type="application/yaml; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


class ImportForm(forms.Form):
    """A YAML file, or its text."""

    file = forms.FileField(required=False)
    text = forms.CharField(required=False, max_length=yaml_files.LONGEST_FILE, strip=False)
    replace = forms.BooleanField(required=False)

    def content(self) -> str:
        given = self.cleaned_data.get("file")
        if given is None:
            return str(self.cleaned_data.get("text") or "").replace("\r\n", "\n")
        if given.size > yaml_files.LONGEST_FILE:
            raise UsageError("The file is too large.", hint="No plan was changed.")
        try:
            return str(given.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise UsageError("The file is not UTF-8 text.", hint="No plan was changed.") from None


@page("backups.change_plan", methods=("GET", "POST"))
@dangerous(saved, second=four_eyes.PLANS)
def import_plans(request: HttpRequest) -> HttpResponse:
    """Show what a file would change; a second submit applies it."""
    form = ImportForm(request.POST or None, request.FILES or None)
    context: dict[str, Any] = {"text": "", "replace": False}
    if request.method != "POST" or not form.is_valid():
        return render(request, "backups/plan_import.html", "Import plans", context)
    context["replace"] = form.cleaned_data["replace"]
    try:
        context["text"] = form.content()
        entries = yaml_files.read(context["text"])
        changes = yaml_files.compare(entries, replace=context["replace"])
        needed = editing.needs(*(kind for change in changes for kind in change.kinds))
        missing = [permission for permission in needed if not request.user.has_perm(permission)]
        if missing:
            raise UsageError(f"You lack permissions that these plans need: {', '.join(missing)}.", hint="No plan was changed.")
        if request.POST.get("do") == "save":
            done = yaml_files.import_entries(actor_of(request), entries, replace=context["replace"])
            say(request, f"{counted(len(done), 'plan')} changed." if done else "No plan needed a change.")
            return redirect("backups:plans")
    except UsageError as problem:
        found = problem.details.get("problems") or [problem.message]
        return render(request, "backups/plan_import.html", "Import plans", {**context, "problems": found}, status=400)
    return render(request, "backups/plan_import.html", "Import plans", {**context, "changes": changes, "previewed": True})


def _require_rights(request: HttpRequest, kind: str) -> None:
    for permission in editing.needs(kind):
        require(request, permission)


def _form_page(request: HttpRequest, template: str, title: str, form: PlanForm | None, context: dict[str, Any]) -> HttpResponse:
    shown: dict[str, Any] = {"form": form, "zones": zones()}
    if form is not None:
        shown["times"] = times_of(str(form["cron"].value() or ""), str(form["time_zone"].value() or ""))
        if isinstance(form, PruneForm):
            shown["retention"] = _retention({field.name: field.value() for field in [*form.rules(), *form.about()]})
    wrong = form is not None and form.is_bound and not form.is_valid() and request.POST.get("do") == "save"
    return render(request, template, title, {**shown, **context}, status=400 if wrong else 200)


def _retention(given: Any) -> retention_preview.Preview:
    """What the rules of a form, complete or not, would do now."""
    values: dict[str, Any] = {name: value for name in PruneForm.RULES if (value := given.get(name)) not in (None, "")}
    values |= {name: value for name in ("set", "repository") if (value := given.get(name))}
    values["every_set"] = given.get("every_set") in (True, "on", "true", "True")
    try:
        return retention_preview.preview(PruneArguments.model_validate(values), moments.now())
    except ValidationError:
        return retention_preview.Preview(
            problem="The rules are not valid yet: enter whole numbers, and a duration such as 14d."
        )


def _where(plan: Plan) -> str:
    """The set, and the repository and host if there are several."""
    config = configuration()
    if plan.kind == PRUNE.name and plan.arguments.get("every_set"):
        what = "every set"
    elif plan.kind in ("backup", "verify", "drill", "prune"):
        what = str(plan.arguments.get("set") or config.default_set)
    else:
        what = ""
    where = str(plan.arguments.get("repository") or config.default_repository) if len(config.repositories) > 1 else ""
    return ", ".join(filter(None, [what, f"in {where}" if where else "", f"on {plan.host}" if plan.host else ""]))
