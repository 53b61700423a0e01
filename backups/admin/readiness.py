"""Readiness: the score, its reasons, and the drills that it is based on."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from backups import moments
from backups.engine.progress import clock, duration
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.models import IndexedBackup
from backups.monitoring import readiness
from backups.monitoring.gathering import gather

from .frame import page, render, say

_SHOWN = 30
_TONES = {"met": "good", "partly": "warn", "missed": "bad", "untested": "bad", "unknown": "bad"}
_WORDS = {"met": "Met", "partly": "Partly met", "missed": "Missed", "untested": "Not tested", "unknown": "Unknown"}
_RING = 263.9
"""Circumference of the score's circle of radius 42."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A drill in the chart; positions and heights in percent."""

    x: float
    width: float
    height: float
    ok: bool
    title: str
    address: str

    @property
    def top(self) -> float:
        return round(100 - self.height, 2)


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """The readiness page."""
    moment = moments.now()
    facts = gather(moment)
    found = readiness.assess(facts, readiness.gather(moment))
    drills = list(IndexedBackup.objects.filter(drilled_at__isnull=False).order_by("-drilled_at")[:_SHOWN])
    target = facts.promised_time
    context: dict[str, Any] = {
        "readiness": found,
        "tone": {"ready": "good", "gaps": "warn", "not_ready": "bad", "unknown": "bad"}[found.level],
        "arc": round(_RING * found.score / 100, 1),
        "ring": _RING,
        "items": [(item, _TONES[item.state.value], _WORDS[item.state.value]) for item in found.items],
        "drills": drills,
        "bars": _bars(drills[::-1], target),
        "target": target,
        "slowest": max((row.drill_seconds or 0.0 for row in drills), default=0.0),
        "target_top": _target_top(drills, target),
    }
    return render(request, "backups/readiness.html", "Readiness", context)


@page("backups.verify_backup", methods=("POST",))
def drill(request: HttpRequest) -> HttpResponse:
    """Queue a drill of the newest backup, and go to its job."""
    job = submit.drill(actor_of(request))
    say(request, "Drill of the newest backup queued.")
    return HttpResponseRedirect(job.get_absolute_url())


def _target_top(drills: list[IndexedBackup], target: float) -> float | None:
    """Where the line of the target is, in percent from the top; None if it does not fit into the chart."""
    most = _most(drills, target)
    return round(100 - _height(target, most), 2) if target <= most else None


def _most(drills: list[IndexedBackup], target: float) -> float:
    slowest = max((row.drill_seconds or 0.0 for row in drills), default=0.0)
    # The target is drawn only if it is near: next to restores of seconds, a target of minutes would flatten every bar
    return max(slowest, target if target < 4 * slowest else 0.0) or 1.0


def _height(seconds: float, most: float) -> float:
    return min(100.0, seconds / most * 92)


def _bars(drills: list[IndexedBackup], target: float) -> list[Bar]:
    most = _most(drills, target)
    width = 100 / max(len(drills), 12)
    bars = []
    for number, row in enumerate(drills):
        seconds = row.drill_seconds or 0.0
        assert row.drilled_at is not None
        outcome = f"took {duration(seconds)}" if row.drill_ok else "failed"
        bars.append(
            Bar(
                x=round(number * width, 3),
                width=round(width * 0.7, 3),
                height=round(max(2.0, _height(seconds, most)), 2),
                ok=bool(row.drill_ok),
                title=f"{clock(timezone.localtime(row.drilled_at))}: {outcome}",
                address=row.get_absolute_url(),
            )
        )
    return bars
