"""Would a recovery work today?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils import timezone

from backups.engine.progress import duration
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.models import IndexedBackup
from backups.monitoring import readiness
from backups.monitoring.gathering import gather

from .frame import page, render, say

_SHOWN = 30
_TONES = {"met": "good", "partly": "warn", "missed": "bad", "untested": "bad"}
_WORDS = {"met": "Met", "partly": "Partly", "missed": "Missed", "untested": "Never tested"}
_RING = 263.9
"""Length of the circle that the score is drawn on: radius 42."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A test restore in the chart; positions and heights in percent."""

    x: float
    width: float
    height: float
    ok: bool
    title: str
    address: str

    @property
    def top(self) -> float:
        """Where the bar begins."""
        return round(100 - self.height, 2)


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """Score, reasons, and the test restores that it rests on."""
    moment = timezone.now()
    facts = gather(moment)
    found = readiness.assess(facts, readiness.gather(moment))
    drills = list(IndexedBackup.objects.filter(drilled_at__isnull=False).order_by("-drilled_at")[:_SHOWN])
    promised = facts.promised_time
    context: dict[str, Any] = {
        "readiness": found,
        "tone": {"ready": "good", "gaps": "warn", "not_ready": "bad"}[found.level],
        "arc": round(_RING * found.score / 100, 1),
        "ring": _RING,
        "items": [(item, _TONES[item.state.value], _WORDS[item.state.value]) for item in found.items],
        "drills": drills,
        "bars": _bars(drills[::-1], promised),
        "promised": promised,
        "promised_top": round(100 - _height(promised, _most(drills, promised)), 2),
    }
    return render(request, "backups/readiness.html", "Readiness", context)


@page("backups.verify_backup", methods=("POST",))
def drill(request: HttpRequest) -> HttpResponse:
    """Queue a test restore of the newest backup, and go to where it can be watched."""
    job = submit.drill(actor_of(request))
    say(request, "A test restore of the newest backup is asked for.")
    return HttpResponseRedirect(job.get_absolute_url())


def _most(drills: list[IndexedBackup], promised: float) -> float:
    slowest = max((row.drill_seconds or 0.0 for row in drills), default=0.0)
    # A promise of minutes beside restores of seconds would press every bar flat: it is drawn only when it is near
    return max(slowest, promised if promised < 4 * slowest else 0.0) or 1.0


def _height(seconds: float, most: float) -> float:
    return min(100.0, seconds / most * 92)


def _bars(drills: list[IndexedBackup], promised: float) -> list[Bar]:
    most = _most(drills, promised)
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
                title=f"{timezone.localtime(row.drilled_at):%Y-%m-%d %H:%M}: {outcome}",
                address=row.get_absolute_url(),
            )
        )
    return bars


urlpatterns: list[URLPattern] = [
    path("readiness/", overview, name="readiness"),
    path("readiness/drill/", drill, name="drill"),
]
