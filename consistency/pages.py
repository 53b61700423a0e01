"""Do rows and vectors agree? The pages below ``/admin/consistency/``; see `consistency.frame` for what stands around them.

No page opens a store: all that is shown was kept by a check, or by the journal of a repair.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils import timezone

from consistency import services, words
from consistency.declaration import declared, option, taker
from consistency.engine.errors import ConsistencyError, Mistake
from consistency.engine.findings import FindingKind, Severity, State
from consistency.engine.findings import Repair as Action
from consistency.frame import Work, frame, page, say
from consistency.models import Check, Finding, Repair, Step
from consistency.templatetags.consistency_format import rough

PAGE = 50
_OF_EACH = 5
_BARS = 30
_HISTORY = 10
_REPAIRS = 5
_MOST_NEW = 1000
_ORDER = (Severity.CRITICAL, Severity.ERROR, Severity.WARNING)


# The overview


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence that answers the page's question, with its colour."""

    tone: str
    word: str
    sentence: str


@page("consistency.view_check")
def overview(request: HttpRequest) -> HttpResponse:
    """Whether the stores agree, what does not, and what was done about it."""
    live = Check.objects.filter(source=Check.LIVE)
    last = live.filter(state=Check.State.DONE).order_by("-started", "-pk").first()
    newest = live.exclude(state=Check.State.RUNNING).order_by("-started", "-pk").first()
    recent = list(live.filter(state=Check.State.DONE).order_by("-started", "-pk")[:_BARS])
    context = {
        "last": last,
        "verdict": verdict_of(last),
        "not_done": newest if newest is not None and newest.state != Check.State.DONE else None,
        "bars": list(_bars(recent[::-1])),
        "most": max((one.findings_count for one in recent), default=0),
        "checks": list(Check.objects.order_by("-started", "-pk")[:_HISTORY]),
        "repairs": list(_with_counts(Repair.objects.order_by("-started", "-pk")[:_REPAIRS])),
        **_standing(last),
        **_about_running(request),
    }
    return _render(request, "consistency/overview.html", "Consistency", context)


def verdict_of(check: Check | None) -> Verdict:
    """What a check came to, in a sentence."""
    if check is None:
        return Verdict(tone="", word="Nobody knows yet.", sentence="Rows and vectors were never compared.")
    many = f"{check.records:,} rows and records"
    if check.verdict == State.CONSISTENT:
        in_flight = f" {_count(check.in_flight, 'vector is', 'vectors are')} in flight." if check.in_flight else ""
        return Verdict(tone="good", word="Rows and vectors agree.", sentence=f"All {many} were compared.{in_flight}")
    found = _count(check.findings_count, "finding", "findings")
    word = {
        State.DEGRADED: "Rows and vectors agree, with warnings:",
        State.INCONSISTENT: "Rows and vectors do not agree:",
        State.CRITICAL: "Rows themselves are wrong:",
    }.get(State(check.verdict), "")
    nouns = {
        Severity.CRITICAL: ("critical", "critical"),
        Severity.ERROR: ("error", "errors"),
        Severity.WARNING: ("warning", "warnings"),
    }
    parts = [_count(check.severities[level], *nouns[level]) for level in _ORDER if check.severities.get(level)]
    return Verdict(tone=words.TONES[State(check.verdict)], word=word, sentence=f"{found} in {many} ({', '.join(parts)}).")


def _standing(check: Check | None) -> dict[str, Any]:
    """What is open of a check, by kind, and what a repair would do."""
    if check is None:
        return {"rows": [], "plan": None}
    counted = check.findings.order_by().values_list("kind", "state").annotate(Count("pk"))
    states: dict[str, dict[str, int]] = {}
    for kind, state, number in counted:
        states.setdefault(kind, {})[state] = number
    repairs: dict[str, set[str]] = {}
    for kind, repair in check.findings.exclude(severity=Severity.INFO).order_by().values_list("kind", "repair").distinct():
        repairs.setdefault(kind, set()).add(repair)
    kept = option("LISTED")
    rows = [
        {
            "kind": kind,
            "count": check.kinds[kind],
            "open": states.get(kind, {}).get(Finding.State.OPEN, 0),
            "severity": _worst(check, kind),
            "repairs": sorted(repairs.get(kind, ())),
            "kept": kept if check.kinds[kind] > kept else None,
        }
        for kind in FindingKind
        if check.kinds.get(kind)
    ]
    return {"rows": rows, "plan": _plan(check), "new": _new(check)}


def _worst(check: Check, kind: str) -> str:
    found = set(check.findings.filter(kind=kind).order_by().values_list("severity", flat=True).distinct())
    return next((level for level in _ORDER if level in found), Severity.INFO)


def _new(check: Check) -> int | None:
    """How many findings the check before did not have, `_MOST_NEW` at most; None where there was none before."""
    if services.previous(check) is None:
        return None
    return len(services.new_findings(check).order_by().values_list("pk", flat=True)[:_MOST_NEW])


def _plan(check: Check, **narrowed: Any) -> dict[str, Any] | None:
    """The two plans of a check of the live stores: what needs no question, and all."""
    if check.source != Check.LIVE or check.state != Check.State.DONE:
        return None
    try:
        safe = services.plan_repair(check, only_safe=True, **narrowed)
        whole = services.plan_repair(check, only_safe=False, **narrowed)
    except Mistake:
        return None
    return {
        "safe": len(safe.findings),
        "all": len(whole.findings),
        "asks": len(whole.findings) - len(safe.findings),
        "left": whole.left,
        "critical": whole.critical,
        "snapshot": whole.snapshot,
        "actions": whole.actions,
        "of_kinds": whole.kinds,
        "writer": declared().writer is not None,
    }


def _bars(checks: list[Check]) -> Iterator[dict[str, Any]]:
    """The trend: a bar for each check, of findings by severity, in percent of the highest; nothing found is a dot."""
    most = max((one.findings_count for one in checks), default=0) or 1
    width = 100 / max(len(checks), 12)
    for number, one in enumerate(checks):
        parts, top = [], 100.0
        for level in reversed(_ORDER):
            share = one.severities.get(level, 0) / most * 92
            if share:
                height = max(share, 1.5)
                top -= height
                parts.append({"level": level, "y": round(top, 2), "height": round(height, 2)})
        found = _count(one.findings_count, "finding", "findings") if one.findings_count else "nothing found"
        yield {
            "check": one,
            "x": round(number * width + width * 0.1, 2),
            "width": round(width * 0.8, 2),
            "middle": round((number + 0.5) * width, 2),
            "parts": parts,
            "title": f"{timezone.localtime(one.started):%Y-%m-%d %H:%M}: {found}",
        }


# What runs


def _about_running(request: HttpRequest) -> dict[str, Any]:
    joined = frame()
    checking = Check.objects.filter(state=Check.State.RUNNING, heard__gt=timezone.now() - services.SILENT)
    return {
        "queues": joined.queues,
        "unfinished": services.unfinished().first(),
        "checking": list(checking.order_by("pk")[:3]),
        "can": {
            "check": joined.queues and request.user.has_perm("consistency.run_check"),
            "repair": joined.queues and request.user.has_perm("consistency.repair_finding"),
        },
        **joined.running(request),
    }


def _seen(about: dict[str, Any]) -> str:
    """What the page shows of what runs: when it is another, the page is asked for anew."""
    cards = [f"{card.job.pk.hex[:8]}{card.job.state}" for card in about.get("cards", ())]
    return "-".join([*cards, *(str(one.pk) for one in about["checking"])])


@page("consistency.view_check")
def running(request: HttpRequest) -> HttpResponse:
    """What runs now: asked for every second while something does."""
    about = _about_running(request)
    if request.GET.get("seen", "") != _seen(about):
        answer = HttpResponse(status=204)
        answer.headers["HX-Refresh"] = "true"
        return answer
    context = {**about, "seen": _seen(about), "next_page": reverse("consistency:overview")}
    return render_template(request, "consistency/live.html", context)


@page("consistency.run_check", methods=("POST",))
def check_now(request: HttpRequest) -> HttpResponse:
    """Queue a check."""
    return _queued(request, Work(do="check"), "The check is queued.", reverse("consistency:overview"))


def _queued(request: HttpRequest, work: Work, text: str, back: str) -> HttpResponse:
    try:
        place = frame().queue(request, work)
    except ConsistencyError as problem:
        say(request, f"{problem.message} {problem.hint}", messages.ERROR)
        return HttpResponseRedirect(back)
    say(request, text)
    return HttpResponseRedirect(place)


def _render(request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
    full = {**context, "next_page": reverse("consistency:overview")}
    if "checking" in full:
        full["seen"] = _seen(full)
    return frame().render(request, template, title, full)


# Checks, and what they found


@page("consistency.view_check")
def checks(request: HttpRequest) -> HttpResponse:
    """Every check, newest first; pages go on below a number."""
    below = _number(request.GET.get("below"))
    rows = Check.objects.order_by("-pk")
    if below is not None:
        rows = rows.filter(pk__lt=below)
    listed = list(rows[: PAGE + 1])
    context = {
        "checks": listed[:PAGE],
        "older": listed[PAGE - 1].pk if len(listed) > PAGE else None,
        "paged": below is not None,
    }
    return _render(request, "consistency/checks.html", "Checks of consistency", context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which findings are asked for."""

    kind: str = ""
    severity: str = ""
    state: str = ""
    mapping: str = ""
    text: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> Wanted:
        """Read the address; what is not known is left out."""
        given = request.GET
        return cls(
            kind=given.get("kind", "") if given.get("kind") in [*FindingKind] else "",
            severity=given.get("severity", "") if given.get("severity") in [*Severity] else "",
            state=given.get("state", "") if given.get("state") in Finding.State.values else "",
            mapping=given.get("mapping", "")[:100],
            text=given.get("q", "").strip()[:200],
        )

    def as_query(self, **more: object) -> str:
        """The address's query, with *more*."""
        named = {
            "kind": self.kind,
            "severity": self.severity,
            "state": self.state,
            "mapping": self.mapping,
            "q": self.text,
            **more,
        }
        return urlencode({name: value for name, value in named.items() if value not in ("", None)})

    @property
    def anything(self) -> bool:
        """Whether the list is filtered."""
        return bool(self.as_query())

    def among(self, rows: QuerySet[Finding]) -> QuerySet[Finding]:
        """Those of *rows* that fit."""
        for name in ("kind", "severity", "state", "mapping"):
            if value := getattr(self, name):
                rows = rows.filter(**{name: value})
        if self.text:
            about = Q(record__icontains=self.text) | Q(message__icontains=self.text) | Q(parent=self.text)
            rows = rows.filter(about)
        return rows


@page("consistency.view_check")
def check(request: HttpRequest, number: int) -> HttpResponse:
    """One check and its findings: grouped by kind, or filtered as a list, of which pages go on from a finding."""
    found = _check(number)
    wanted = Wanted.of(request)
    after, before = _number(request.GET.get("after")), _number(request.GET.get("before"))
    context: dict[str, Any] = {
        "check": found,
        "verdict": verdict_of(found) if found.state == Check.State.DONE else None,
        "wanted": wanted,
        "kinds": [kind for kind in FindingKind if found.kinds.get(kind)],
        "severities": [level for level in (*_ORDER, Severity.INFO) if found.severities.get(level)],
        "states": Finding.State.choices,
        "mapping_names": sorted(found.mappings),
        "repairs": list(_with_counts(found.repairs.all())),
        **_standing(found),
        **_about_running(request),
    }
    rows = found.findings.defer("sqlite", "chroma")
    if wanted.anything or after is not None or before is not None:
        context |= _listed(wanted.among(rows), wanted, after, before)
    else:
        context["groups"] = [
            {"kind": row["kind"], "count": row["count"], "findings": list(rows.filter(kind=row["kind"])[:_OF_EACH])}
            for row in context["rows"]
        ]
    return _render(request, "consistency/check.html", f"Check {found.pk}", context)


def _listed(rows: QuerySet[Finding], wanted: Wanted, after: int | None, before: int | None) -> dict[str, Any]:
    if before is not None:
        listed = list(rows.filter(pk__lt=before).order_by("-pk")[: PAGE + 1])
        has_earlier, has_later = len(listed) > PAGE, True
        listed = listed[:PAGE][::-1]
    else:
        listed = list((rows.filter(pk__gt=after) if after is not None else rows).order_by("pk")[: PAGE + 1])
        has_earlier, has_later = after is not None, len(listed) > PAGE
        listed = listed[:PAGE]
    return {
        "listed": listed,
        "earlier": wanted.as_query(before=listed[0].pk) if listed and has_earlier else "",
        "later": wanted.as_query(after=listed[-1].pk) if listed and has_later else "",
    }


@page("consistency.view_check")
def finding(request: HttpRequest, number: int) -> HttpResponse:
    """One finding: what each side says, next to each other, with the difference marked."""
    found = Finding.objects.select_related("belongs_to").filter(pk=number).first() if number < 1 << 63 else None
    if found is None:
        raise Http404("There is no such finding. A check that is deleted takes its findings along.")
    same = Finding.objects.filter(belongs_to=found.belongs_to)
    in_check = same.filter(kind=found.kind)
    context = {
        "finding": found,
        "check": found.belongs_to,
        "sides": list(_sides(found)),
        "vector": _vectors(found),
        "cause": words.CAUSES.get(found.cause, ""),
        "by_hand": words.BY_HAND.get(found.kind, "") if found.repair == Action.NONE else "",
        "earlier": in_check.filter(pk__lt=found.pk).order_by("-pk").values_list("pk", flat=True).first(),
        "later": in_check.filter(pk__gt=found.pk).order_by("pk").values_list("pk", flat=True).first(),
        "others": list(same.filter(mapping=found.mapping, record=found.record).exclude(pk=found.pk)[:10])
        if found.record
        else [],
        "steps": list(found.steps.select_related("of_repair").order_by("-pk")[:10]),
        "mendable": _is_mendable(found),
        "snapshot": _has_snapshot(),
        **_about_running(request),
    }
    return _render(
        request, "consistency/finding.html", f"{words.KINDS[found.kind][0]}: {found.record or found.mapping}", context
    )


def _has_snapshot() -> bool:
    try:
        return taker() is not None
    except Mistake:
        return False


def _is_mendable(found: Finding) -> bool:
    last = Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()
    return (
        found.belongs_to == last
        and found.state == Finding.State.OPEN
        and found.severity != Severity.INFO
        and found.repair not in (Action.NONE, Action.FOLLOWS)
        and declared().writer is not None
    )


_UNCOMPARED = frozenset({"row", "changed", "written", "vector"})
Piece = tuple[str, bool]
"""Some text, and whether the other side has it not."""


def _sides(found: Finding) -> Iterator[dict[str, Any]]:
    """Every value of both sides; those of text with the words that differ marked."""
    left, right = found.sqlite or {}, found.chroma or {}
    for key in dict.fromkeys([*left, *right]):
        if key == "vector":
            continue
        ours, theirs = left.get(key), right.get(key)
        both = found.sqlite is not None and found.chroma is not None
        differs = both and key not in _UNCOMPARED and (key in left or key in found.differences) and ours != theirs
        pieces = _marked(ours, theirs) if differs else (None, None)
        yield {
            "key": key,
            "left": ours,
            "right": theirs,
            "has_left": key in left,
            "has_right": key in right,
            "differs": differs,
            "left_pieces": pieces[0],
            "right_pieces": pieces[1],
        }


def _marked(ours: Any, theirs: Any) -> tuple[list[Piece] | None, list[Piece] | None]:
    if not isinstance(ours, str) or not isinstance(theirs, str):
        return None, None
    left, right = (re.findall(r"\s+|\w+|[^\w\s]", text)[:2000] for text in (ours, theirs))
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for what, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, part in ((0, left[a:b]), (1, right[c:d])):
            if part:
                pieces[side].append(("".join(part), what != "equal"))
    return pieces


def _vectors(found: Finding) -> dict[str, Any] | None:
    """Both vectors: their figures, how they differ, and a picture of each."""
    left, right = ((side or {}).get("vector") for side in (found.sqlite, found.chroma))
    if not left and not right:
        return None
    pictures = [(one or {}).get("picture") or [] for one in (left, right)]
    top = max((abs(value) for picture in pictures for value in picture), default=0.0) or 1.0
    return {
        "left": left,
        "right": right,
        "differs": bool(left and right and left["hash"] != right["hash"]),
        "apart": (right or {}).get("apart"),
        "pictures": [list(_strip(picture, top)) for picture in pictures],
    }


def _strip(picture: Iterable[float], top: float) -> Iterator[dict[str, float]]:
    for place, value in enumerate(picture):
        height = max(abs(value) / top * 20, 0.3)
        yield {"x": place, "y": round(20 - height if value >= 0 else 20, 2), "height": round(height, 2)}


# Repairs


@page("consistency.view_check", methods=("GET", "POST"))
def plan(request: HttpRequest, number: int) -> HttpResponse:
    """What a repair of a check's findings would do; and asking for it."""
    found = _check(number)
    chosen = tuple(kind for kind in request.POST.getlist("kind") if kind in [*FindingKind])
    findings = tuple(n for text in request.POST.getlist("finding")[:500] if (n := _number(text)) is not None)
    about = _about_running(request)
    problem = ""
    if request.method == "POST":
        problem = _refusal(request, about)
        if not problem:
            work = Work(
                do="repair",
                check=found.pk,
                everything=request.POST.get("scope") == "all",
                kinds=chosen,
                findings=findings,
            )
            return _queued(request, work, "The repair is queued.", reverse("consistency:plan", args=[found.pk]))
    planned = _plan(found)
    latest = Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()
    context = {
        "check": found,
        "plan": planned,
        "problem": problem,
        "chosen": chosen,
        "outdated": latest if latest is not None and latest != found else None,
        **_standing(found),
        **about,
    }
    return _render(request, "consistency/plan.html", "Plan of a repair", context)


def _refusal(request: HttpRequest, about: dict[str, Any]) -> str:
    if not request.user.has_perm("consistency.repair_finding"):
        return "You may not repair: that takes the permission to repair findings. Nothing was done."
    if about["unfinished"] is not None:
        return "Another repair is unfinished. Go on with it or undo it first. Nothing was done."
    if request.POST.get("scope") == "all" and not request.POST.get("sure"):
        return "Vectors would be deleted: say that you mean it. Nothing was done."
    return ""


@page("consistency.view_check")
def repair(request: HttpRequest, number: int) -> HttpResponse:
    """One repair and its journal; pages go on from a step."""
    found = _repair(number)
    after = _number(request.GET.get("after"))
    rows = found.steps.defer("before", "after").select_related("finding").order_by("pk")
    listed = list((rows.filter(pk__gt=after) if after is not None else rows)[: PAGE + 1])
    context = {
        "repair": found,
        "counts": [(label, found.counts().get(state, 0)) for state, label in Step.State.choices if found.counts().get(state)],
        "steps": listed[:PAGE],
        "later": listed[PAGE - 1].pk if len(listed) > PAGE else None,
        "paged": after is not None,
        "snapshot_address": frame().snapshot(found.snapshot) if found.snapshot else "",
        **_about_running(request),
    }
    return _render(request, "consistency/repair.html", f"Repair {found.pk}", context)


@page("consistency.repair_finding", methods=("POST",))
def undo(request: HttpRequest, number: int) -> HttpResponse:
    """Queue putting back what a repair replaced."""
    found = _repair(number)
    back = reverse("consistency:repair", args=[found.pk])
    if found.state == Repair.State.UNDONE:
        say(request, f"Repair {found.pk} is undone already.", messages.WARNING)
        return HttpResponseRedirect(back)
    return _queued(request, Work(do="undo", repair=found.pk), f"Undoing repair {found.pk} is queued.", back)


@page("consistency.repair_finding", methods=("POST",))
def resume(request: HttpRequest) -> HttpResponse:
    """Queue going on with the repair that was cut short."""
    return _queued(request, Work(do="resume"), "Going on with the repair is queued.", reverse("consistency:overview"))


def _with_counts(repairs: Iterable[Repair]) -> Iterator[dict[str, Any]]:
    for one in repairs:
        counts = one.counts()
        undone = one.state == Repair.State.UNDONE
        done = counts.get(Step.State.UNDONE, 0) if undone else counts.get(Step.State.APPLIED, 0)
        yield {
            "repair": one,
            "tone": {Repair.State.DONE: "good", Repair.State.UNDONE: ""}.get(Repair.State(one.state), "warn"),
            "done": done,
            "total": sum(counts.values()),
            "ago": rough((timezone.now() - one.started).total_seconds()),
        }


def _check(number: int) -> Check:
    found = Check.objects.filter(pk=number).first() if number < 1 << 63 else None
    if found is None:
        raise Http404("There is no such check.")
    return found


def _repair(number: int) -> Repair:
    found = Repair.objects.select_related("of_check").filter(pk=number).first() if number < 1 << 63 else None
    if found is None:
        raise Http404("There is no such repair.")
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 19 else None


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
