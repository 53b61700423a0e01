"""Checks, their findings, and the journal of repairs, in a database that no restore of the application replaces."""

from typing import Any

from django.db import models
from django.utils import timezone

from backups import moments
from consistency.engine.findings import Cause, FindingKind, Severity
from consistency.engine.findings import Repair as Action
from consistency.engine.findings import State as Verdict


class Check(models.Model):
    """One check, of live stores or of a backup."""

    class State(models.TextChoices):
        """The progress; the result is `verdict`."""

        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    LIVE = "live"

    source = models.CharField(max_length=200, default=LIVE, help_text="“live”, or the id of the backup that was checked.")
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    verdict = models.CharField(max_length=12, blank=True, choices=[(one.value, one.value) for one in Verdict])
    actor = models.CharField(max_length=150, blank=True, help_text="Who requested the check.")
    started = moments.MomentField(default=timezone.now)
    heard = moments.MomentField(default=timezone.now, help_text="Time of the last heartbeat.")
    ended = moments.MomentField(null=True, blank=True)
    seconds = models.FloatField(default=0)
    records = models.PositiveBigIntegerField(default=0, help_text="Rows and records compared.")
    findings_count = models.PositiveBigIntegerField(default=0)
    in_flight = models.PositiveBigIntegerField(default=0)
    kinds = models.JSONField(default=dict, help_text="Number of findings of each kind.")
    severities = models.JSONField(default=dict)
    mappings = models.JSONField(default=dict, help_text="Rows, records and vectors of each mapping.")
    error = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ("-started", "-pk")
        permissions = (("run_check", "Can check for consistency"),)
        indexes = (models.Index(fields=["source", "-started"], name="check_by_source"),)

    def __str__(self) -> str:
        return f"{self.source}: {self.verdict or self.state}"


class Finding(models.Model):
    """One finding of a check. The first of each kind are kept, up to the setting ``LISTED``; the check has the counts."""

    class State(models.TextChoices):
        """Open until a repair resolves it or a newer check of the live stores does not find it; open again if one does."""

        OPEN = "open"
        REPAIRED = "repaired"
        GONE = "gone"

    belongs_to = models.ForeignKey(Check, on_delete=models.CASCADE, related_name="findings")
    kind = models.CharField(max_length=24, choices=[(one.value, one.value) for one in FindingKind])
    severity = models.CharField(max_length=8, choices=[(one.value, one.value) for one in Severity])
    mapping = models.CharField(max_length=100, blank=True)
    record = models.CharField(max_length=500, blank=True)
    parent = models.CharField(max_length=200, blank=True)
    message = models.TextField()
    cause = models.CharField(max_length=12, blank=True, choices=[(one.value, one.value) for one in Cause if one])
    repair = models.CharField(max_length=13, choices=[(one.value, one.value) for one in Action])
    safe = models.BooleanField(default=False)
    sqlite = models.JSONField(null=True, blank=True)
    chroma = models.JSONField(null=True, blank=True)
    differences = models.JSONField(default=list)
    fingerprint = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)

    class Meta:
        ordering = ("pk",)
        permissions = (("repair_finding", "Can repair findings, and undo repairs"),)
        indexes = (
            models.Index(fields=["belongs_to", "kind", "state"], name="finding_by_kind"),
            models.Index(fields=["belongs_to", "mapping", "record"], name="finding_by_record"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.record}"


class Repair(models.Model):
    """One repair of some of a check's findings; its steps are the journal."""

    class State(models.TextChoices):
        """``running`` and ``undoing`` without a process are unfinished: resume or undo them."""

        RUNNING = "running"
        DONE = "done"
        UNDOING = "undoing"
        UNDONE = "undone"

    of_check = models.ForeignKey(Check, on_delete=models.CASCADE, related_name="repairs")
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    actor = models.CharField(max_length=150, blank=True)
    snapshot = models.CharField(max_length=200, blank=True, help_text="The backup made before the repair.")
    started = moments.MomentField(default=timezone.now)
    ended = moments.MomentField(null=True, blank=True)
    undone_by = models.CharField(max_length=150, blank=True)
    undone = moments.MomentField(null=True, blank=True)

    class Meta:
        ordering = ("-started", "-pk")

    def __str__(self) -> str:
        return f"repair {self.pk}: {self.state}"

    def counts(self) -> dict[str, int]:
        """The number of steps in each state."""
        rows = self.steps.values("state").annotate(number=models.Count("pk")).order_by("state")
        return {row["state"]: row["number"] for row in rows}

    @property
    def can_be_undone(self) -> bool:
        """Whether undoing it does anything: not if it is done and at most rebuilt indexes. An unfinished one is given up."""
        applied = self.steps.filter(state=Step.State.APPLIED)
        return self.state != self.State.DONE or applied.exclude(action=Action.REBUILD_INDEX).exists()


class Step(models.Model):
    """One record that a repair changes, or an index that it rebuilds: its content before and after.

    *before* and *after* are ``{"record": {"vector", "document", "metadata"} or null, "row": {column: value} or null}``; bytes
    are ``{"base64": text}``. After rows were restored from a backup, *after* has them as ``rows``
    (`repairs.journal.stored_rows`). For an index, *before* is ``{"dimension": number or null}``, and *after* is
    ``{"recreated": true}`` once the new collection is in its place.
    """

    class State(models.TextChoices):
        """``begun`` and ``undoing`` are saved before a store is changed, so that every change is in the journal."""

        PLANNED = "planned"
        BEGUN = "begun"
        APPLIED = "applied"
        SKIPPED = "skipped", "no longer needed or possible"
        UNDOING = "undoing"
        UNDONE = "undone"
        KEPT = "kept", "changed since the repair, not undone"

    of_repair = models.ForeignKey(Repair, on_delete=models.CASCADE, related_name="steps")
    finding = models.ForeignKey(Finding, on_delete=models.CASCADE, related_name="steps")
    action = models.CharField(max_length=13, choices=[(one.value, one.value) for one in Action])
    mapping = models.CharField(max_length=100)
    record = models.CharField(max_length=500)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PLANNED)
    note = models.TextField(blank=True)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    changed = moments.MomentField(default=timezone.now)

    class Meta:
        ordering = ("pk",)
        indexes = (models.Index(fields=["of_repair", "state"], name="step_by_state"),)

    def __str__(self) -> str:
        return f"{self.action} {self.record}: {self.state}"

    def move(self, state: str, note: str = "", **values: Any) -> None:
        """Change the state in memory; the caller saves it."""
        self.state, self.changed = state, moments.now()
        self.note = note or self.note
        for key, value in values.items():
            setattr(self, key, value)
