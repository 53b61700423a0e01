"""Plans: jobs that are queued at given times."""

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from backups import moments


class Plan(models.Model):
    """A job type with its arguments, and the times at which it is due (`plans.cron`)."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "Letters, digits, dots, dashes and underscores.")],
    )
    title = models.CharField(max_length=120, blank=True)
    kind = models.CharField(max_length=40, help_text="A job type.")
    arguments = models.JSONField(default=dict, blank=True)
    cron = models.CharField(max_length=100, help_text="Minute, hour, day of month, month, day of week: 0 3 * * *")
    time_zone = models.CharField(max_length=64, default="UTC")
    enabled = models.BooleanField(default=True)
    paused_by = models.CharField(max_length=150, blank=True)
    host = models.CharField(max_length=255, blank=True, help_text="The host that has the data; empty: any.")
    attempts = models.PositiveSmallIntegerField(default=3, validators=[MinValueValidator(1), MaxValueValidator(20)])
    limit_minutes = models.PositiveIntegerField(default=1440, validators=[MinValueValidator(1), MaxValueValidator(40_000)])
    alert_to = models.JSONField(default=list, blank=True, help_text="Mail addresses notified of a failure.")
    alert_after = models.PositiveSmallIntegerField(default=1, help_text="Consecutive failures before they are notified.")
    builtin = models.BooleanField(default=False, editable=False, help_text="Added by backup_plans_install.")
    served = moments.MomentField(default=timezone.now, help_text="The last due time that was served or skipped.")
    created = moments.MomentField(auto_now_add=True)
    changed = moments.MomentField(auto_now=True)

    class Meta:
        ordering = ("name",)
        default_permissions = ()
        permissions = (
            ("view_plan", "May see plans"),
            ("change_plan", "May add, change and remove plans"),
            ("run_plan", "May run, pause and resume plans"),
        )

    def __str__(self) -> str:
        return self.title or self.name

    def get_absolute_url(self) -> str:
        return reverse("backups:plan", args=[self.name])
