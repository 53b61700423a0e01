"""The list of checks, and one check with its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse

from consistency.engine.findings import FindingKind, Severity
from consistency.frame import page
from consistency.models import Check, Finding
from consistency.web.page import object_or_404, paginate, render_page, running_context
from consistency.web.repairs import with_counts
from consistency.web.summary import SEVERITIES, summary_of, verdict_of

_PER_KIND = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFilter:
    """Which findings to list; all when empty."""

    kind: str = ""
    severity: str = ""
    state: str = ""
    mapping: str = ""
    text: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> FindingFilter:
        """Read it from the address; unknown values are ignored."""
        given = request.GET
        return cls(
            kind=given.get("kind", "") if given.get("kind") in [*FindingKind] else "",
            severity=given.get("severity", "") if given.get("severity") in [*Severity] else "",
            state=given.get("state", "") if given.get("state") in Finding.State.values else "",
            mapping=given.get("mapping", "")[:100],
            text=given.get("q", "").strip()[:200],
        )

    def as_query(self) -> str:
        """The address's query; empty when nothing is filtered."""
        names = {"kind": self.kind, "severity": self.severity, "state": self.state, "mapping": self.mapping, "q": self.text}
        return urlencode({name: value for name, value in names.items() if value})

    def apply(self, rows: QuerySet[Finding]) -> QuerySet[Finding]:
        """*rows* that match."""
        for name in ("kind", "severity", "state", "mapping"):
            if value := getattr(self, name):
                rows = rows.filter(**{name: value})
        if self.text:
            rows = rows.filter(Q(record__icontains=self.text) | Q(message__icontains=self.text) | Q(parent=self.text))
        return rows


@page("consistency.view_check")
def checks(request: HttpRequest) -> HttpResponse:
    """All checks, newest first, page by page."""
    pages = paginate(request, Check.objects.order_by("-pk"))
    return render_page(request, "consistency/checks.html", "Consistency checks", {"checks": pages, "pages": pages})


@page("consistency.view_check")
def check(request: HttpRequest, number: int) -> HttpResponse:
    """One check with its findings: grouped by kind, or filtered as a list in pages."""
    shown = object_or_404(Check.objects.all(), number)
    chosen = FindingFilter.of(request)
    context: dict[str, Any] = {
        "check": shown,
        "verdict": verdict_of(shown) if shown.state == Check.State.DONE else None,
        "chosen": chosen,
        "query": chosen.as_query(),
        "kinds": [kind for kind in FindingKind if shown.kinds.get(kind)],
        "severities": [level for level in (*SEVERITIES, Severity.INFO) if shown.severities.get(level)],
        "states": Finding.State.choices,
        "mapping_names": sorted(shown.mappings),
        "repairs": list(with_counts(shown.repairs.all())),
        **summary_of(shown),
        **running_context(request),
    }
    rows = shown.findings.defer("sqlite", "chroma")
    if context["query"] or "page" in request.GET:
        context["listed"] = context["pages"] = paginate(request, chosen.apply(rows).order_by("pk"))
    else:
        context["groups"] = [
            {"kind": row["kind"], "count": row["count"], "findings": list(rows.filter(kind=row["kind"])[:_PER_KIND])}
            for row in context["rows"]
        ]
    return render_page(request, "consistency/check.html", f"Check {shown.pk}", context)
