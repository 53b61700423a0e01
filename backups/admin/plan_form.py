"""The form of a plan: one for each kind of job, with fields for what that kind may be told."""

from __future__ import annotations

import json
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django import forms

from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.jobs.types import CommandArguments, JobType, OfSet
from backups.models import Plan
from backups.plans import validation

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_PROOFS = [
    ("", "as the settings say"),
    ("none", "not at once"),
    ("hashes", "every byte read back"),
    ("restore", "restored and opened"),
]


class PlanForm(forms.Form):
    """What every plan has. ``ABOUT`` names the fields that become arguments of the job."""

    ABOUT: ClassVar[tuple[str, ...]] = ()

    name = forms.CharField(max_length=64, help_text="Letters, digits, dots, dashes and underscores. It stays.")
    title = forms.CharField(max_length=120, required=False, help_text="How pages call it; empty: by its name.")
    cron = forms.CharField(
        max_length=100, label="Times", initial="0 3 * * *", help_text="Minute, hour, day of month, month, day of week."
    )
    time_zone = forms.CharField(max_length=64, label="Time zone", initial="UTC")
    host = forms.CharField(
        max_length=255, required=False, help_text="The machine that holds the data, where there are several; empty: any."
    )
    attempts = forms.IntegerField(min_value=1, max_value=20, initial=3, label="Tries", help_text="Until it has succeeded.")
    limit_minutes = forms.IntegerField(
        min_value=1, max_value=40_000, initial=1440, label="Limit in minutes", help_text="A job that takes longer is stopped."
    )
    alert_to = forms.CharField(
        required=False,
        label="Tell",
        help_text="Addresses that hear of a failure, besides those of the alerts; separate them by commas.",
    )
    alert_after = forms.IntegerField(min_value=1, max_value=1000, initial=1, label="After", help_text="Failures in a row.")

    def __init__(self, *args: Any, kind: JobType[Any], plan: Plan | None = None, **kwargs: Any) -> None:
        self.kind, self.plan = kind, plan
        if plan is not None:
            kwargs["initial"] = self._from_plan(plan)
        super().__init__(*args, **kwargs)
        found = configuration()
        if plan is not None:
            self.fields["name"].disabled = True
        if "repository" in self.fields:
            if len(found.repositories) > 1:
                names = [(name, name) for name in found.repositories]
                self.fields["repository"] = forms.ChoiceField(
                    choices=[("", f"{found.default_repository} (default)"), *names[1:]], required=False
                )
            else:
                del self.fields["repository"]
        if "set" in self.fields:
            self.fields["set"] = forms.ChoiceField(
                choices=[
                    ("", f"{found.default_set} (default)"),
                    *((name, name) for name in found.sets if name != found.default_set),
                ],
                required=False,
                label=self.fields["set"].label or "What",
                help_text="A set is what is backed up together.",
            )

    def arguments(self) -> dict[str, Any]:
        """What the job is told: what differs from what it takes for granted."""
        given = {name: self.cleaned_data[name] for name in self.ABOUT if name in self.fields}
        kept = {name: value for name, value in given.items() if value not in (None, "", [], False)}
        if self.plan is not None:  # what the form does not show stays
            kept = {name: value for name, value in self.plan.arguments.items() if name not in self.ABOUT} | kept
        return kept

    def values(self) -> dict[str, Any]:
        """All that `services.make_plan` takes but the name."""
        found = self.cleaned_data
        same = ("title", "cron", "time_zone", "host", "attempts", "limit_minutes", "alert_after")
        addresses = [address.strip() for address in found["alert_to"].split(",") if address.strip()]
        values = {name: found[name] for name in same} | {"alert_to": addresses, "kind": self.kind.name}
        return values | {"arguments": self.arguments(), "cron": " ".join(found["cron"].split())}

    def clean(self) -> dict[str, Any]:
        """Everything that is wrong, each beside its field."""
        found = super().clean() or self.cleaned_data
        if self.errors:
            return found
        name = found["name"]
        try:
            validation.check(Plan(name=name, **self.values()))
        except UsageError as problem:
            for line in problem.details["problems"]:
                field, _, text = line.partition(": ")
                field = "arguments_text" if field == "arguments" else field
                self.add_error(field if field in self.fields else None, text if field in self.fields else line)
        if self.plan is None and Plan.objects.filter(name=name).exists():
            self.add_error("name", "There is a plan of that name already.")
        return found

    def about(self) -> list[forms.BoundField]:
        """The fields of what is done, in order."""
        return [self[name] for name in self.ABOUT if name in self.fields]

    def _from_plan(self, plan: Plan) -> dict[str, Any]:
        same = ("name", "title", "cron", "time_zone", "host", "attempts", "limit_minutes", "alert_after")
        return (
            {name: getattr(plan, name) for name in same}
            | {"alert_to": ", ".join(plan.alert_to)}
            | self.from_arguments(plan.arguments)
        )

    def from_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Values of the fields of ``ABOUT``."""
        return {name: value for name, value in arguments.items() if name in self.ABOUT}


class BackupForm(PlanForm):
    """A plan that backs up."""

    ABOUT = ("set", "backup", "only", "verify", "note", "repository")

    set = forms.CharField(required=False)
    backup = forms.ChoiceField(
        label="Kind of backup",
        choices=[
            ("full", "Full: all of it"),
            ("incremental", "Incremental: what changed"),
            ("snapshot", "Snapshot: SQLite alone"),
        ],
        initial="incremental",
    )
    only = forms.MultipleChoiceField(
        required=False,
        label="Only these stores",
        choices=[("sqlite", "SQLite"), ("chroma", "Chroma"), ("files", "Files")],
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: all of them. Such backups go to a set of their own.",
    )
    verify = forms.ChoiceField(label="Prove it", choices=_PROOFS, required=False)
    note = forms.CharField(max_length=500, required=False, help_text="Kept with each backup.")
    repository = forms.CharField(required=False)


class VerifyForm(PlanForm):
    """A plan that proves backups."""

    ABOUT = ("set", "everything", "depth", "repository")

    set = forms.CharField(required=False)
    everything = forms.BooleanField(required=False, label="Every backup, not the newest alone")
    depth = forms.ChoiceField(label="How deeply", choices=[("hashes", "Read every byte"), ("restore", "Restore and open it")])
    repository = forms.CharField(required=False)


class DrillForm(PlanForm):
    """A plan that restores the newest backup for a test."""

    ABOUT = ("set", "repository")

    set = forms.CharField(required=False)
    repository = forms.CharField(required=False)


class PruneForm(PlanForm):
    """A plan that removes what no rule keeps."""

    RULES: ClassVar[tuple[str, ...]] = (*(f"keep_{period}" for period in _COUNTS), "keep_within", "verified_floor")
    ABOUT = ("every_set", "set", "repository", *RULES)

    every_set = forms.BooleanField(required=False, label="Every set, each by these rules", initial=True)
    set = forms.CharField(required=False, label="or only this one")
    repository = forms.CharField(required=False)
    keep_last = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Newest")
    keep_hourly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Hourly")
    keep_daily = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Daily", initial=7)
    keep_weekly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Weekly", initial=4)
    keep_monthly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Monthly")
    keep_yearly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Yearly")
    keep_within = forms.RegexField(
        r"^(\d+[hdwmy])*$", max_length=30, required=False, label="All within", help_text="Such as 14d, 36h or 1y6m."
    )
    verified_floor = forms.IntegerField(min_value=0, max_value=100_000, initial=2, label="Proven, always")

    def about(self) -> list[forms.BoundField]:
        """Without the rules, which have a part of the form of their own."""
        return [self[name] for name in ("every_set", "set", "repository") if name in self.fields]

    def rules(self) -> list[forms.BoundField]:
        """The fields of retention."""
        return [self[name] for name in self.RULES]

    def arguments(self) -> dict[str, Any]:
        """With a floor of nothing kept as such, for what is left out means two."""
        kept = super().arguments()
        kept["verified_floor"] = self.cleaned_data["verified_floor"]
        return kept


class PlainForm(PlanForm):
    """A plan of a kind that needs to be told nothing but, perhaps, a repository."""

    ABOUT = ("repository",)

    repository = forms.CharField(required=False)


class JsonForm(PlanForm):
    """A plan of any other kind, such as one that the project has added."""

    ABOUT = ("arguments",)

    arguments_text = forms.CharField(
        label="Arguments",
        required=False,
        initial="{}",
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false"}),
        help_text="A JSON object.",
    )

    def clean_arguments_text(self) -> dict[str, Any]:
        """The object."""
        try:
            found = json.loads(self.cleaned_data["arguments_text"] or "{}")
        except (ValueError, RecursionError) as problem:
            raise forms.ValidationError(f"That is no JSON: {problem}.") from None
        if not isinstance(found, dict):
            raise forms.ValidationError("That is no JSON object: write { and } around names and values.")
        return found

    def arguments(self) -> dict[str, Any]:
        """As they were written."""
        return dict(self.cleaned_data["arguments_text"])

    def about(self) -> list[forms.BoundField]:
        """The one field."""
        return [self["arguments_text"]]

    def from_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As text."""
        return {"arguments_text": json.dumps(arguments, indent=2, ensure_ascii=False)}


_FORMS: dict[str, type[PlanForm]] = {"backup": BackupForm, "verify": VerifyForm, "drill": DrillForm, "prune": PruneForm}


def form_of(kind: JobType[Any]) -> type[PlanForm]:
    """The form for plans of a kind."""
    if kind.name in _FORMS:
        return _FORMS[kind.name]
    return PlainForm if kind.arguments is CommandArguments and not issubclass(kind.arguments, OfSet) else JsonForm


def zones() -> list[str]:
    """Names to choose a time zone from."""
    return ["UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))]
