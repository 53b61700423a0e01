"""Jobs, their log lines, and the workers that run them."""

import uuid
from datetime import timedelta

from django.db import models
from django.urls import reverse
from django.utils import timezone

from backups import moments


class Job(models.Model):
    """One execution of a job type. A further attempt is another job, which refers to this one in ``again_after``.

    ::

        queued ──► running ──► succeeded
          │           ├──────► failed         ended with an error, or found damage
          │           ├──────► cancelled      by a person
          │           └──────► interrupted    its process or machine died
          └──────────────────► cancelled

    This row is authoritative; a message in the queue only wakes a worker (`lifecycle.claim`).
    """

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"
        INTERRUPTED = "interrupted", "Interrupted"

    WITH_WARNINGS = "Completed with warnings"
    ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.INTERRUPTED)

    class Via(models.TextChoices):
        PAGES = "pages", "Pages"
        API = "api", "API"
        COMMAND = "command", "Command line"
        PLAN = "plan", "Plan"
        SYSTEM = "system", "System"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=40)
    arguments = models.JSONField(default=dict, help_text="As JSON of the type's arguments (`jobs.arguments`).")
    note = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=12, choices=State, default=State.QUEUED)
    created = moments.MomentField(default=timezone.now)
    not_before = moments.MomentField(default=timezone.now, help_text="Earliest start; later for further attempts.")

    # For whom
    via = models.CharField(max_length=8, choices=Via, default=Via.SYSTEM)
    by = models.CharField(max_length=150, blank=True, help_text="Name of the account, or of the plan.")
    by_id = models.CharField(max_length=64, blank=True, help_text="Primary key of the account at the time.")
    plan = models.ForeignKey("backups.Plan", null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs")
    slot = moments.MomentField(null=True, blank=True, help_text="The due time of the plan that this job serves.")

    # Where
    host = models.CharField(max_length=255, help_text="The host that has the data; only its workers claim the job.")
    repository = models.CharField(max_length=64, blank=True)
    set = models.CharField(max_length=64, blank=True)
    writes = models.BooleanField(default=False, help_text="Whether it writes to the repository; only one such job runs.")

    # Attempts
    attempt = models.PositiveSmallIntegerField(default=1)
    attempts = models.PositiveSmallIntegerField(default=1, help_text="Attempts allowed in all.")
    again_after = models.OneToOneField("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="tried_again")
    limit = models.PositiveIntegerField(default=86_400, help_text="Seconds after which it is stopped.")

    # While it runs
    claim = models.CharField(max_length=32, blank=True, help_text="Token of the worker that runs it and may update this row.")
    worker = models.CharField(max_length=120, blank=True, help_text="Identity of the worker's process (`processes.identity`).")
    child = models.CharField(max_length=120, blank=True, help_text="Identity of the process that does the work.")
    started = moments.MomentField(null=True, blank=True)
    heartbeat = moments.MomentField(null=True, blank=True)
    cancel_asked = moments.MomentField(null=True, blank=True)
    cancel_by = models.CharField(max_length=150, blank=True)
    phase = models.CharField(max_length=40, blank=True)
    done = models.BigIntegerField(default=0, help_text="Of the phase, in bytes or records.")
    total = models.BigIntegerField(null=True, blank=True)
    rate = models.FloatField(default=0.0, help_text="Per second.")
    left = models.FloatField(null=True, blank=True, help_text="Seconds.")
    phases = models.JSONField(default=list, help_text='[{"name", "started", "seconds", "done", "total"}], in order.')

    # How it ended
    finished = moments.MomentField(null=True, blank=True)
    exit_code = models.SmallIntegerField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True, help_text="The JSON that the command printed.")
    error = models.JSONField(null=True, blank=True, help_text='{"code", "message", "hint", ...}')
    warning = models.JSONField(null=True, blank=True, help_text="The same shape; of a job that is done, but not as wished.")
    backup_id = models.CharField(max_length=80, blank=True, help_text="The backup that it made or concerns.")

    class Meta:
        ordering = ("-created", "-id")
        default_permissions = ()
        permissions = (
            ("view_job", "May see jobs"),
            ("cancel_job", "May cancel jobs"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["repository"],
                condition=models.Q(state="running", writes=True),
                name="one_writing_job_a_repository",
            ),
            models.UniqueConstraint(fields=["plan", "slot", "attempt"], name="a_slot_is_served_once"),
            models.UniqueConstraint(
                fields=["host"],
                condition=models.Q(kind="restore_in_place", state__in=["queued", "running"]),
                name="one_restore_in_place_a_host",
            ),
        )
        indexes = (
            models.Index(fields=["-created", "-id"], name="job_newest"),
            models.Index(fields=["state", "-created", "-id"], name="job_by_state"),
            models.Index(fields=["kind", "-created", "-id"], name="job_of_kind"),
            models.Index(fields=["state", "host", "not_before"], name="job_next"),
            models.Index(fields=["kind", "state", "-finished"], name="job_by_kind"),
            models.Index(fields=["plan", "-created"], name="job_by_plan"),
            models.Index(fields=["backup_id"], name="job_by_backup", condition=~models.Q(backup_id="")),
        )

    def __str__(self) -> str:
        return f"{self.kind} {str(self.id)[:8]} ({self.state})"

    def get_absolute_url(self) -> str:
        return reverse("backups:job", args=[self.pk])

    def get_state_display(self) -> str:  # type: ignore[no-redef]
        """The state's label; of a job that is done with a warning, that."""
        return self.WITH_WARNINGS if self.warning is not None else str(self.State(self.state).label)

    @property
    def has_ended(self) -> bool:
        return self.state in self.ENDED

    @property
    def took(self) -> timedelta | None:
        """How long it ran, or has been running."""
        if self.started is None:
            return None
        return (self.finished or moments.now()) - self.started

    @property
    def fraction(self) -> float | None:
        """The completed fraction of the phase, from 0 to 1; None when the total is not known."""
        return min(1.0, self.done / self.total) if self.total else None


class JobLog(models.Model):
    """A line of a job's log, kept for ``KEEP_LOGS_DAYS``."""

    class Level(models.TextChoices):
        INFO = "info", "Info"
        WARNING = "warning", "Warning"
        ERROR = "error", "Error"

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log", db_index=False)
    time = moments.MomentField()
    level = models.CharField(max_length=7, choices=Level, default=Level.INFO)
    line = models.TextField()

    class Meta:
        ordering = ("id",)
        default_permissions = ()
        indexes = (
            models.Index(fields=["job", "id"], name="log_of_job"),
            models.Index(fields=["time"], name="log_by_time"),
        )

    def __str__(self) -> str:
        return self.line


class Worker(models.Model):
    """The workers of a host and their last heartbeat; without a recent one, no plan runs there."""

    host = models.CharField(max_length=255, primary_key=True)
    started = moments.MomentField(default=timezone.now)
    beat = moments.MomentField(default=timezone.now)
    process = models.CharField(max_length=120, blank=True)
    version = models.CharField(max_length=40, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.host
