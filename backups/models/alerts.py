"""Alerts: channels, rules, subscriptions, alerts, and deliveries (`backups.alerts`)."""

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from backups import moments


class Severity(models.TextChoices):
    """Severities, in ascending order."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"


class QuietHours(models.Model):
    """Daily hours without messages; alerts that are still active afterwards are sent then."""

    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    critical_passes = models.BooleanField(default=True, help_text="Critical alerts are sent at any time.")

    class Meta:
        abstract = True


class AlertChannel(QuietHours):
    """A way to send messages. ``target`` and ``key`` are secrets: they are masked in pages and never logged."""

    class Kind(models.TextChoices):
        MAIL = "mail", "Mail"
        SLACK = "slack", "Slack-shaped webhook"
        WEBHOOK = "webhook", "Signed JSON webhook"
        PING = "ping", "Dead man's switch"

    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=8, choices=Kind)
    enabled = models.BooleanField(default=True)
    target = models.TextField(help_text="Mail addresses, one per line; or the URL to call.")
    key = models.CharField(max_length=120, blank=True, help_text="Signing key of a signed webhook.")
    least = models.CharField(
        max_length=8,
        choices=Severity,
        blank=True,
        default=Severity.WARNING,
        help_text="Minimum severity, unless the rule has its own channels; empty: only rules that name this channel.",
    )
    plans = models.ManyToManyField(
        "backups.Plan", blank=True, related_name="switches", help_text="Plans whose jobs a dead man's switch reports."
    )
    beat_minutes = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(1440)],
        help_text="Interval of a dead man's switch for the worker; 0: none.",
    )
    beaten = moments.MomentField(null=True, blank=True)
    tested = moments.MomentField(null=True, blank=True)
    tested_ok = models.BooleanField(null=True, blank=True)
    tested_answer = models.TextField(blank=True)
    created = moments.MomentField(default=timezone.now)

    class Meta:
        ordering = ("name",)
        verbose_name = "alert channel"
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("backups:alert_channel", args=[self.pk])


class AlertRule(models.Model):
    """The condition of an alert, its delay, and its channels."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "Letters, digits, dots, dashes and underscores.")],
    )
    title = models.CharField(max_length=120)
    kind = models.CharField(max_length=40, help_text="The name of a condition.")
    threshold = models.FloatField(default=0.0, help_text="In the condition's unit.")
    lasting_minutes = models.PositiveIntegerField(default=0, validators=[MaxValueValidator(100_000)])
    settle_minutes = models.PositiveIntegerField(
        default=2,
        validators=[MaxValueValidator(10_000)],
        help_text="Minutes without the condition until resolved.",
    )
    severity = models.CharField(max_length=8, choices=Severity, default=Severity.WARNING)
    channels = models.ManyToManyField(AlertChannel, blank=True, related_name="rules")
    escalate_minutes = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100_000)]
    )
    escalate_to = models.ManyToManyField(AlertChannel, blank=True, related_name="escalations")
    enabled = models.BooleanField(default=True)
    builtin = models.BooleanField(default=False, editable=False)
    changed = moments.MomentField(auto_now=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "alert rule"
        default_permissions = ()

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("backups:alert_rule", args=[self.name])


class AlertSubscription(QuietHours):
    """The alerts that an account receives by mail, at its address at the time."""

    user_id = models.CharField(max_length=64, unique=True, help_text="Primary key of the account.")
    username = models.CharField(max_length=150, help_text="Must still be the name of that account.")
    least = models.CharField(max_length=8, choices=Severity, blank=True, help_text="Minimum severity; empty: none.")
    rules = models.ManyToManyField(AlertRule, blank=True, related_name="subscriptions")
    changed = moments.MomentField(auto_now=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.username


class Alert(models.Model):
    """A condition of one subject of a rule, from its beginning to its end.

    ::

        seen ──► lasts long enough: fired ──► (escalated) ──► gone for a while: resolved
           └───► gone before that: the row is removed
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    rule = models.CharField(max_length=64, help_text="Name of the rule.")
    title = models.CharField(max_length=120)
    severity = models.CharField(max_length=8, choices=Severity)
    subject = models.CharField(max_length=200, blank=True, help_text="The plan, set or backup concerned.")
    text = models.TextField(help_text="The condition, in a sentence.")
    todo = models.TextField(blank=True, help_text="The fix.")
    link = models.CharField(max_length=80, blank=True, help_text="URL name of a helpful page.")
    arguments = models.JSONField(default=list)
    also = models.JSONField(default=list, help_text="Further mail addresses.")
    since = moments.MomentField()
    seen = moments.MomentField()
    fired = moments.MomentField(null=True, blank=True)
    escalated = moments.MomentField(null=True, blank=True)
    resolved = moments.MomentField(null=True, blank=True)
    ended_by = models.CharField(max_length=200, blank=True, help_text="Why it ended, if the condition did not go away.")
    told = models.JSONField(default=dict, help_text='Recipient -> "fired", "escalated" or "resolved".')
    open = models.BooleanField(default=True, help_text="Active, or its end is not yet sent to all recipients.")
    acknowledged = moments.MomentField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=150, blank=True)
    acknowledged_note = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-fired", "-id")
        default_permissions = ()
        permissions = (
            ("view_alert", "May see alerts"),
            ("acknowledge_alert", "May acknowledge alerts"),
            ("change_alert", "May change rules and channels of alerts"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["rule", "subject"], condition=models.Q(resolved=None), name="one_state_of_a_subject_at_a_time"
            ),
        )
        indexes = (
            models.Index(fields=["-fired", "-id"], name="alert_newest"),
            models.Index(fields=["open"], name="alert_open", condition=models.Q(open=True)),
            models.Index(fields=["rule", "-fired"], name="alert_by_rule"),
        )

    def __str__(self) -> str:
        return f"{self.title}: {self.subject}" if self.subject else self.title

    def get_absolute_url(self) -> str:
        return reverse("backups:alert", args=[self.pk])

    @property
    def reached(self) -> int:
        """To how many recipients a message about it was delivered."""
        delivered = AlertDelivery.objects.filter(alerts=self, state=AlertDelivery.State.DELIVERED)
        return delivered.values("recipient").distinct().count()

    @property
    def help_address(self) -> str:
        """The URL of a helpful page; empty if this site does not have it."""
        try:
            return reverse(self.link, args=self.arguments) if self.link else ""
        except NoReverseMatch:
            return ""


class AlertDelivery(models.Model):
    """A message in the outbox, and afterwards in the history.

    Each is sent at least once: if a worker dies between the receiver's answer and the update of this row, it is sent again with
    the same ``uid``.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENDING = "sending", "Sending"
        DELIVERED = "delivered", "Delivered"
        GIVEN_UP = "given_up", "Given up"
        DROPPED = "dropped", "Superseded"

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    event = models.CharField(max_length=12, help_text="fired, escalated, resolved, test; start, success or fail of a job.")
    recipient = models.CharField(max_length=400, help_text="channel:N, person:N or mail:ADDRESS.")
    to = models.CharField(max_length=254, help_text="The recipient's name at the time.")
    thread = models.CharField(max_length=500, help_text="Messages of a thread are sent in order.")
    message = models.JSONField(default=dict)
    alerts = models.ManyToManyField(Alert, related_name="deliveries")
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    created = moments.MomentField(default=timezone.now)
    next_try = moments.MomentField(default=timezone.now)
    attempts = models.PositiveSmallIntegerField(default=0)
    claim = models.CharField(max_length=32, blank=True)
    claimed = moments.MomentField(null=True, blank=True)
    finished = moments.MomentField(null=True, blank=True)
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Status of HTTP or SMTP.")
    answer = models.TextField(blank=True, help_text="Beginning of the receiver's answer, or why there was none.")

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        indexes = (
            models.Index(
                fields=["state", "next_try"], name="delivery_next", condition=models.Q(state__in=("waiting", "sending"))
            ),
            models.Index(fields=["thread", "id"], name="delivery_thread", condition=models.Q(state__in=("waiting", "sending"))),
            models.Index(fields=["recipient", "-id"], name="delivery_by_recipient"),
            models.Index(fields=["created"], name="delivery_by_age"),
        )

    def __str__(self) -> str:
        return f"{self.event} to {self.to} ({self.state})"


class AlertLook(models.Model):
    """When a host last evaluated the rules, by its clock and by its uptime; the row without a host: when any host did."""

    host = models.CharField(max_length=255, primary_key=True)
    at = moments.MomentField()
    uptime = models.FloatField(default=0.0, help_text="Seconds since boot, including sleep.")
    boot = models.CharField(max_length=64, blank=True)
    jumped = moments.MomentField(null=True, blank=True, help_text="Last jump of its clock.")
    jumped_by = models.FloatField(default=0.0, help_text="Seconds; negative: backwards.")
    silent_from = moments.MomentField(null=True, blank=True, help_text="Start of the last period without evaluations.")
    silent_until = moments.MomentField(null=True, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.host
