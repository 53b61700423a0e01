"""Forms of plans: one for each job type, with fields for its arguments."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, get_args, get_origin
from zoneinfo import available_timezones

from django import forms
from pydantic.fields import FieldInfo

from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.jobs.arguments import CommandArguments, OfSet
from backups.jobs.job_type import JobType
from backups.models import Plan
from backups.plans import validation

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_PROOFS = [
    ("", "As configured"),
    ("none", "Do not verify"),
    ("hashes", "Hashes"),
    ("restore", "Restore test"),
]


class PlanForm(forms.Form):
    """The fields of every plan; ``ABOUT`` names the ones that become arguments of the job.

    This class itself is for job types whose only argument is the repository.
    """

    ABOUT: ClassVar[tuple[str, ...]] = ("repository",)

    set = forms.CharField(required=False, label="Set")
    repository = forms.CharField(required=False)
    name = forms.CharField(
        max_length=64, help_text="Letters, digits, dots, dashes and underscores. It cannot be changed later."
    )
    title = forms.CharField(max_length=120, required=False, help_text="Shown on the pages instead of the name.")
    cron = forms.CharField(
        max_length=100,
        label="Cron expression",
        initial="0 3 * * *",
        help_text="Minute, hour, day of month, month, day of week.",
    )
    time_zone = forms.CharField(max_length=64, label="Time zone", initial="UTC")
    host = forms.CharField(
        max_length=255, required=False, help_text="Required only if several machines hold data. Leave empty for any."
    )
    attempts = forms.IntegerField(min_value=1, max_value=20, initial=3, label="Attempts", help_text="Until one succeeds.")
    limit_minutes = forms.IntegerField(
        min_value=1,
        max_value=40_000,
        initial=1440,
        label="Time limit (minutes)",
        help_text="Jobs that take longer are stopped.",
    )
    alert_to = forms.CharField(
        required=False,
        label="Mail failures to",
        help_text="Addresses in addition to the alert channels, separated by commas.",
    )
    alert_after = forms.IntegerField(min_value=1, max_value=1000, initial=1, label="After failures in a row")

    def __init__(self, *args: Any, kind: JobType[Any], plan: Plan | None = None, **kwargs: Any) -> None:
        self.kind, self.plan = kind, plan
        if plan is not None:
            kwargs["initial"] = self._from_plan(plan)
        super().__init__(*args, **kwargs)
        config = configuration()
        if plan is not None:
            self.fields["name"].disabled = True
        for name in ("set", "repository"):
            if name not in self.ABOUT:
                del self.fields[name]
        if "repository" in self.fields:
            if len(config.repositories) > 1:
                self.fields["repository"] = forms.ChoiceField(
                    choices=_choices(config.default_repository, config.repositories), required=False
                )
            else:
                del self.fields["repository"]
        if "set" in self.fields:
            self.fields["set"] = forms.ChoiceField(
                choices=_choices(config.default_set, config.sets),
                required=False,
                label=self.fields["set"].label,
                help_text="The stores that are backed up together.",
            )

    def arguments(self) -> dict[str, Any]:
        """The arguments of the job that differ from the defaults."""
        given = {name: self.cleaned_data[name] for name in self.ABOUT if name in self.fields}
        kept = {name: value for name, value in given.items() if value not in (None, "", [], False)}
        if self.plan is not None:  # keep arguments that the form does not show
            kept = {name: value for name, value in self.plan.arguments.items() if name not in self.ABOUT} | kept
        return kept

    def values(self) -> dict[str, Any]:
        """The arguments of `editing.make_plan` except the name."""
        found = self.cleaned_data
        same = ("title", "cron", "time_zone", "host", "attempts", "limit_minutes", "alert_after")
        addresses = [address.strip() for address in found["alert_to"].split(",") if address.strip()]
        values = {name: found[name] for name in same} | {"alert_to": addresses, "kind": self.kind.name}
        return values | {"arguments": self.arguments(), "cron": " ".join(found["cron"].split())}

    def clean(self) -> dict[str, Any]:
        """Report every problem next to its field."""
        found = super().clean() or self.cleaned_data
        if self.errors:
            return found
        name = found["name"]
        try:
            validation.check(Plan(name=name, **self.values()))
        except UsageError as problem:
            for line in problem.details["problems"]:
                field, _, text = line.partition(": ")
                self.add_error(field if field in self.fields else None, text if field in self.fields else line)
        if self.plan is None and Plan.objects.filter(name=name).exists():
            self.add_error("name", "A plan with this name already exists.")
        return found

    def about(self) -> list[forms.BoundField]:
        return [self[name] for name in self.ABOUT if name in self.fields]

    def _from_plan(self, plan: Plan) -> dict[str, Any]:
        same = ("name", "title", "cron", "time_zone", "host", "attempts", "limit_minutes", "alert_after")
        return (
            {name: getattr(plan, name) for name in same}
            | {"alert_to": ", ".join(plan.alert_to)}
            | self.from_arguments(plan.arguments)
        )

    def from_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if name in self.ABOUT}


class BackupForm(PlanForm):
    """A plan that backs up."""

    ABOUT = ("set", "backup", "only", "verify", "note", "repository")

    backup = forms.ChoiceField(
        label="Kind of backup",
        choices=[
            ("full", "Full: needs no other backup"),
            ("incremental", "Incremental: only changes"),
            ("snapshot", "Snapshot: SQLite only"),
        ],
        initial="incremental",
    )
    only = forms.MultipleChoiceField(
        required=False,
        label="Stores",
        choices=[("sqlite", "SQLite"), ("chroma", "Chroma"), ("files", "Files")],
        widget=forms.CheckboxSelectMultiple,
        help_text="Leave all unchecked for all stores. Backups of some stores form a set of their own.",
    )
    verify = forms.ChoiceField(label="Verify", choices=_PROOFS, required=False)
    note = forms.CharField(max_length=500, required=False, help_text="Stored with each backup.")


class VerifyForm(PlanForm):
    """A plan that verifies backups."""

    ABOUT = ("set", "everything", "depth", "repository")

    everything = forms.BooleanField(required=False, label="All backups, not only the newest")
    depth = forms.ChoiceField(label="Method", choices=[("hashes", "Hashes"), ("restore", "Restore test")])


class DrillForm(PlanForm):
    """A plan that drills."""

    ABOUT = ("set", "repository")


class PruneForm(PlanForm):
    """A plan that prunes."""

    RULES: ClassVar[tuple[str, ...]] = (*(f"keep_{period}" for period in _COUNTS), "keep_within", "verified_floor")
    ABOUT = ("every_set", "set", "repository", *RULES)

    every_set = forms.BooleanField(required=False, label="Apply these rules to every set", initial=True)
    set = forms.CharField(required=False, label="Or only to this set")
    keep_last = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Newest")
    keep_hourly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Hourly")
    keep_daily = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Daily", initial=7)
    keep_weekly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Weekly", initial=4)
    keep_monthly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Monthly")
    keep_yearly = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Yearly")
    keep_within = forms.RegexField(
        r"^(\d+[hdwmy])*$", max_length=30, required=False, label="All within", help_text="For example 14d, 36h or 1y6m."
    )
    verified_floor = forms.IntegerField(min_value=0, max_value=100_000, initial=2, label="Always keep proven")

    def about(self) -> list[forms.BoundField]:
        """All fields but the rules, which have a section of their own."""
        return [self[name] for name in ("every_set", "set", "repository") if name in self.fields]

    def rules(self) -> list[forms.BoundField]:
        return [self[name] for name in self.RULES]

    def arguments(self) -> dict[str, Any]:
        """The arguments, with a floor of 0 written explicitly: without one the default of 2 applies."""
        kept = super().arguments()
        kept["verified_floor"] = self.cleaned_data["verified_floor"]
        return kept


class ArgumentsForm(PlanForm):
    """A plan of any other job type, such as one that the project adds: a field for each of its arguments."""

    def __init__(self, *args: Any, kind: JobType[Any], plan: Plan | None = None, **kwargs: Any) -> None:
        fields = ((name, _field_of(name, info)) for name, info in kind.arguments.model_fields.items())
        made = {name: field for name, field in fields if field is not None}
        self.ABOUT = tuple(made)  # type: ignore[misc]
        super().__init__(*args, kind=kind, plan=plan, **kwargs)
        self.fields.update({name: made[name] for name in self.ABOUT if name not in ("set", "repository")})

    def from_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        shown = super().from_arguments(arguments)
        return {name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value for name, value in shown.items()}


class _ListField(forms.CharField):
    """Values separated by commas."""

    def clean(self, value: Any) -> Any:
        return [part.strip() for part in (super().clean(value) or "").split(",") if part.strip()]


def _field_of(name: str, info: FieldInfo) -> forms.Field | None:
    """A form field for an argument; None for a type that a form cannot show, such as a mapping."""
    accepted = [one for one in (info.annotation, *get_args(info.annotation)) if one is not type(None)]
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    common: dict[str, Any] = {
        "label": name.replace("_", " ").capitalize(),
        "help_text": info.description or "",
        "required": info.is_required(),
        "initial": ", ".join(map(str, default)) if isinstance(default, tuple | list) else default,
    }
    chosen = next((one for one in accepted if get_origin(one) is Literal), None)
    if chosen is not None:
        choices = [(value, str(value).replace("_", " ").capitalize() or "None") for value in get_args(chosen)]
        return forms.ChoiceField(choices=choices, **common)
    if bool in accepted:
        return forms.BooleanField(**{**common, "required": False})
    kinds = {get_origin(one) or one for one in accepted}
    if kinds & {tuple, list, set, frozenset}:
        return _ListField(**{**common, "help_text": common["help_text"] or "Separate several by commas."})
    if int in kinds:
        return forms.IntegerField(**common)
    return None if kinds & {dict} else forms.CharField(**common)


def _choices(default: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """The names to choose from; an empty value stands for the default."""
    label = default if default == "default" else f"{default} (default)"
    return [("", label), *((name, name) for name in names if name != default)]


_FORMS: dict[str, type[PlanForm]] = {"backup": BackupForm, "verify": VerifyForm, "drill": DrillForm, "prune": PruneForm}


def form_of(kind: JobType[Any]) -> type[PlanForm]:
    """The form class for a job type."""
    if kind.name in _FORMS:
        return _FORMS[kind.name]
    return PlanForm if kind.arguments is CommandArguments and not issubclass(kind.arguments, OfSet) else ArgumentsForm


def zones() -> list[str]:
    """Time zone names to choose from."""
    return ["UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))]
