"""The audit log: search, verification of the hash chain, and export."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone

from backups import moments
from backups.identity import audit
from backups.identity.audit import EntryFilter
from backups.identity.sign_in import actor_of
from backups.jobs import lifecycle
from backups.jobs.types import AUDIT
from backups.models import AuditEntry, Job

from .frame import address_of, page, render, say

_COLUMNS = (
    *("number", "time", "who", "who_id", "via", "token", "address", "action", "target"),
    *("before", "after", "previous", "hash"),
)
_CHUNK = 2_000
_LISTED = 500
_DAYS = (MinValueValidator(date(1970, 1, 1)), MaxValueValidator(date(9998, 12, 31)))


class FilterForm(forms.Form):
    """The filter form."""

    who = forms.CharField(required=False, max_length=150)
    action = forms.CharField(required=False, max_length=60)
    target = forms.CharField(required=False, max_length=200)
    via = forms.ChoiceField(required=False, choices=[("", "Any"), *Job.Via.choices])
    since = forms.DateField(required=False, validators=_DAYS)
    until = forms.DateField(required=False, validators=_DAYS)
    text = forms.CharField(required=False, max_length=200)
    below = forms.IntegerField(required=False, min_value=1)

    def entry_filter(self) -> EntryFilter:
        """The filter; days begin and end in the reader's time zone."""
        found = self.cleaned_data
        names = ("who", "action", "target", "via", "text")
        until = _midnight(found["until"] + timedelta(days=1)) if found.get("until") else None
        since = _midnight(found["since"]) if found.get("since") else None
        return EntryFilter(**{name: found.get(name) or "" for name in names}, since=since, until=until)


@dataclass(frozen=True, slots=True)
class Side:
    """One value of an entry before and after."""

    name: str
    before: str
    after: str
    changed: bool


@page("backups.view_audit")
def overview(request: HttpRequest) -> HttpResponse:
    """The entries that match, newest first."""
    form = FilterForm(request.GET)
    good = form.is_valid()
    wanted = form.entry_filter() if good else EntryFilter()
    found = audit.search(wanted, below=form.cleaned_data.get("below") if good else None)
    parameters = {name: value for name, value in request.GET.items() if value and name != "below"}
    number, newest = audit.head()
    verified = audit.verified()
    context = {
        "form": form,
        "rows": [(entry, sides(entry), address_of(entry.target)) for entry in found.entries],
        "found": found,
        "parameters": urlencode(parameters),
        "older": urlencode({**parameters, "below": found.below}) if found.below else "",
        "first": not request.GET.get("below"),
        "total": number,
        "newest": newest,
        "verified": verified,
        "since_then": number - verified.number if verified else 0,
        "actions": sorted(set(AuditEntry.objects.order_by("-number").values_list("action", flat=True)[:_LISTED])),
    }
    return render(request, "backups/audit.html", "Audit", context, status=200 if good else 400)


@page("backups.view_audit", methods=("POST",))
def verify(request: HttpRequest) -> HttpResponse:
    """Queue the verification of the hash chain."""
    job = lifecycle.enqueue(AUDIT, {}, actor_of(request))
    say(request, "Verification queued. It takes about half a minute for a million entries.")
    return redirect(job)


@page("backups.view_audit")
def export(request: HttpRequest, form: str) -> HttpResponseBase:
    """All entries that match, oldest first, streamed."""
    filled = FilterForm(request.GET)
    if form not in ("csv", "jsonl") or not filled.is_valid():
        raise Http404
    wanted = filled.entry_filter()
    parameters = {name: value for name, value in asdict(wanted).items() if value}
    audit.record(actor_of(request), "audit.exported", "audit", after={"form": form, **parameters})
    rows = _rows(wanted, audit.head()[0])
    lines = _csv(rows) if form == "csv" else (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl; charset=utf-8"
    name = f"audit-{moments.now():%Y%m%dT%H%M%SZ}.{form}"
    return StreamingHttpResponse(lines, content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def sides(entry: AuditEntry) -> list[Side]:
    """The values of an entry before and after, by name."""
    before, after = ({"": side} if not isinstance(side, dict) else side for side in (entry.before, entry.after))
    names = [*before, *(name for name in after if name not in before)]
    return [
        Side(name, _shown(before.get(name)), _shown(after.get(name)), entry.before is not None and entry.after is not None)
        for name in names
        if before.get(name) is not None or after.get(name) is not None
    ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value or "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False)


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _rows(wanted: EntryFilter, newest: int) -> Iterator[dict[str, Any]]:
    """Read in chunks, so that a slow download does not hold a transaction open."""
    rows = audit.matching(wanted)
    for start in range(1, newest + 1, _CHUNK):
        for row in rows.filter(number__gte=start, number__lt=start + _CHUNK).order_by("number").values(*_COLUMNS):
            yield {**row, "time": row["time"].astimezone(UTC).isoformat()}


class _Line:
    """A file for `csv` whose ``write`` returns the text."""

    def write(self, text: str) -> str:
        return text


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield str(writer.writerow(_COLUMNS))
    for row in rows:
        yield str(writer.writerow([_cell(row[name]) for name in _COLUMNS]))


def _cell(value: Any) -> str:
    """A value for CSV. Text that a spreadsheet would run as a formula is escaped with an apostrophe."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
