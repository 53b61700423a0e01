"""One finding: what each side holds, next to each other, with the differences marked."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse

from consistency.checking import latest_live_check
from consistency.declaration import backup_databases, declared, snapshot_maker
from consistency.engine.broken_index import WITHOUT_ROW
from consistency.engine.errors import Mistake
from consistency.engine.findings import Repair as Action
from consistency.engine.findings import Severity
from consistency.frame import page
from consistency.models import Finding
from consistency.repairs.lost_rows import LOST
from consistency.web import labels
from consistency.web.page import object_or_404, render_page, running_context

_NOT_COMPARED = frozenset({"row", "changed", "written", "vector"})
_MOST_WORDS = 2000
_AT_MOST = 10

Piece = tuple[str, bool]
"""Some text, and whether the other side lacks it."""


@page("consistency.view_check")
def finding(request: HttpRequest, number: int) -> HttpResponse:
    """One finding, its cause and repair, and the findings next to it."""
    shown = object_or_404(Finding.objects.select_related("belongs_to"), number)
    same_check = Finding.objects.filter(belongs_to=shown.belongs_to)
    same_kind = same_check.filter(kind=shown.kind)
    others = same_check.filter(mapping=shown.mapping, record=shown.record).exclude(pk=shown.pk)
    context = {
        "finding": shown,
        "check": shown.belongs_to,
        "sides": list(_sides(shown)),
        "vector": _vectors(shown),
        "cause": labels.CAUSES.get(shown.cause, ""),
        "by_hand": labels.MANUAL_STEPS.get(shown.kind, "") if shown.repair == Action.NONE else "",
        "previous": same_kind.filter(pk__lt=shown.pk).order_by("-pk").values_list("pk", flat=True).first(),
        "next": same_kind.filter(pk__gt=shown.pk).order_by("pk").values_list("pk", flat=True).first(),
        "others": list(others[:_AT_MOST]) if shown.record else [],
        "steps": list(shown.steps.select_related("of_repair").order_by("-pk")[:_AT_MOST]),
        "repairable": _is_repairable(shown),
        "snapshot": _makes_snapshot(),
        "without_row": (shown.chroma or {}).get(WITHOUT_ROW, 0),
        "restorable": shown.kind in LOST and backup_databases() is not None,
        **running_context(request),
    }
    title = f"{labels.KINDS[shown.kind][0]}: {shown.record or shown.mapping}"
    return render_page(request, "consistency/finding.html", title, context)


def _makes_snapshot() -> bool:
    try:
        return snapshot_maker() is not None
    except Mistake:
        return False


def _is_repairable(finding: Finding) -> bool:
    return (
        finding.belongs_to == latest_live_check()
        and finding.state == Finding.State.OPEN
        and finding.severity != Severity.INFO
        and finding.repair not in (Action.NONE, Action.FOLLOWS)
        and declared().writer is not None
    )


def _sides(finding: Finding) -> Iterator[dict[str, Any]]:
    """Every value of both sides; in texts, the words that differ are marked."""
    left, right = finding.sqlite or {}, finding.chroma or {}
    both = finding.sqlite is not None and finding.chroma is not None
    for key in dict.fromkeys([*left, *right]):
        if key == "vector":
            continue
        ours, theirs = left.get(key), right.get(key)
        differs = both and key not in _NOT_COMPARED and (key in left or key in finding.differences) and ours != theirs
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
    left, right = (re.findall(r"\s+|\w+|[^\w\s]", text)[:_MOST_WORDS] for text in (ours, theirs))
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for what, left_from, left_to, right_from, right_to in matcher.get_opcodes():
        for side, part in ((0, left[left_from:left_to]), (1, right[right_from:right_to])):
            if part:
                pieces[side].append(("".join(part), what != "equal"))
    return pieces


def _vectors(finding: Finding) -> dict[str, Any] | None:
    """Both vectors: their figures, how they differ, and a picture of each."""
    left, right = ((side or {}).get("vector") for side in (finding.sqlite, finding.chroma))
    if not left and not right:
        return None
    pictures = [(vector or {}).get("picture") or [] for vector in (left, right)]
    top = max((abs(value) for picture in pictures for value in picture), default=0.0) or 1.0
    return {
        "left": left,
        "right": right,
        "differs": bool(left and right and left["hash"] != right["hash"]),
        "apart": (right or {}).get("apart"),
        "pictures": [list(_strip(picture, top)) for picture in pictures],
    }


def _strip(picture: Iterable[float], top: float) -> Iterator[dict[str, float]]:
    """A bar for each value, 20 units up or down from the middle."""
    for place, value in enumerate(picture):
        height = max(abs(value) / top * 20, 0.3)
        yield {"x": place, "y": round(20 - height if value >= 0 else 20, 2), "height": round(height, 2)}
