"""Alerts: rules, who is told and how, what fires or fired, and what is on its way (`backups.alerts`)."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.urls import NoReverseMatch, reverse
from django.utils import timezone


class Severity(models.TextChoices):
    """How bad it is; in this order."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"


class QuietHours(models.Model):
    """A time of the day in which nothing is sent; what still lasts at its end is told then."""

    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    critical_passes = models.BooleanField(default=True, help_text="Critical alerts are told at any time.")

    class Meta:
        abstract = True


class AlertChannel(QuietHours):
    """A way to tell somebody. ``target`` and ``key`` are secrets: they are shown masked and never logged."""

    class Kind(models.TextChoices):
        MAIL = "mail", "Mail"
        SLACK = "slack", "Slack-shaped webhook"
        WEBHOOK = "webhook", "Signed JSON webhook"
        PING = "ping", "Dead man's switch"

    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=8, choices=Kind)
    enabled = models.BooleanField(default=True)
    target = models.TextField(help_text="Mail addresses, one a line; or the address that is called.")
    key = models.CharField(max_length=120, blank=True, help_text="Signing key of a signed webhook.")
    least = models.CharField(
        max_length=8,
        choices=Severity,
        blank=True,
        default=Severity.WARNING,
        help_text="Hears of every alert from this severity on, unless its rule names others; empty: of rules that name it.",
    )
    plans = models.ManyToManyField(
        "backups.Plan", blank=True, related_name="switches", help_text="Whose jobs a switch tells of."
    )
    beat_minutes = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(1440)],
        help_text="A switch for the worker itself: called this often; 0: never.",
    )
    beaten = models.DateTimeField(null=True, blank=True)
    tested = models.DateTimeField(null=True, blank=True)
    tested_ok = models.BooleanField(null=True, blank=True)
    tested_answer = models.TextField(blank=True)
    created = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("name",)
        verbose_name = "alert channel"
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """The channel's page."""
        return reverse("backups:alert_channel", args=[self.pk])


class AlertRule(models.Model):
    """What is told, from when on, and to whom."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "Letters, digits, dots, dashes and underscores.")],
    )
    title = models.CharField(max_length=120)
    kind = models.CharField(max_length=40, help_text="A detector (`alerts.detectors`).")
    threshold = models.FloatField(default=0.0, help_text="In the detector's unit.")
    lasting_minutes = models.PositiveIntegerField(default=0, validators=[MaxValueValidator(100_000)])
    settle_minutes = models.PositiveIntegerField(
        default=2, validators=[MaxValueValidator(10_000)], help_text="It has ended when it was away for so long."
    )
    severity = models.CharField(max_length=8, choices=Severity, default=Severity.WARNING)
    channels = models.ManyToManyField(AlertChannel, blank=True, related_name="rules")
    escalate_minutes = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100_000)]
    )
    escalate_to = models.ManyToManyField(AlertChannel, blank=True, related_name="escalations")
    enabled = models.BooleanField(default=True)
    builtin = models.BooleanField(default=False, editable=False)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "alert rule"
        default_permissions = ()

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        """The rule's page."""
        return reverse("backups:alert_rule", args=[self.name])


class AlertSubscription(QuietHours):
    """What an account wants to hear of by mail, at the address that it has when something is sent."""

    user_id = models.CharField(max_length=64, unique=True, help_text="Primary key of the account.")
    username = models.CharField(max_length=150, help_text="Must still be the name of that account.")
    least = models.CharField(
        max_length=8, choices=Severity, blank=True, help_text="Every alert from this severity on; empty: none."
    )
    rules = models.ManyToManyField(AlertRule, blank=True, related_name="subscriptions")
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.username


class Alert(models.Model):
    """One state of one subject of a rule, from its beginning to its end.

    ::

        seen ──► lasts long enough: fired ──► (escalated) ──► gone for a while: resolved
           └───► gone before: the row is removed
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    rule = models.CharField(max_length=64, help_text="Name of the rule.")
    title = models.CharField(max_length=120)
    severity = models.CharField(max_length=8, choices=Severity)
    subject = models.CharField(max_length=200, blank=True, help_text="A plan, a set, a backup: what it is about.")
    text = models.TextField(help_text="What is the case, in a sentence.")
    todo = models.TextField(blank=True, help_text="What to do about it.")
    link = models.CharField(max_length=80, blank=True, help_text="Name of the page that helps.")
    arguments = models.JSONField(default=list)
    also = models.JSONField(default=list, help_text="Mail addresses that hear of it too.")
    since = models.DateTimeField()
    seen = models.DateTimeField()
    fired = models.DateTimeField(null=True, blank=True)
    escalated = models.DateTimeField(null=True, blank=True)
    resolved = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=200, blank=True, help_text="Why it ended, when not by itself.")
    told = models.JSONField(default=dict, help_text='Recipient -> "fired", "escalated" or "resolved".')
    open = models.BooleanField(default=True, help_text="It lasts, or somebody is still to hear that it ended.")
    acknowledged = models.DateTimeField(null=True, blank=True)
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
        """The alert's page."""
        return reverse("backups:alert", args=[self.pk])

    @property
    def help_address(self) -> str:
        """The page that helps; empty where this site has none."""
        try:
            return reverse(self.link, args=self.arguments) if self.link else ""
        except NoReverseMatch:
            return ""


class AlertDelivery(models.Model):
    """A message on its way, or how it arrived: the outbox and the history of what was sent.

    It is sent at least once: a worker that dies between the receiver's answer and this row's update leaves it to be sent again,
    with the same ``uid``.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENDING = "sending", "Being sent"
        DELIVERED = "delivered", "Delivered"
        GIVEN_UP = "given_up", "Given up"
        DROPPED = "dropped", "Overtaken"

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    event = models.CharField(max_length=12, help_text="fired, escalated, resolved, test; start, success or fail of a job.")
    recipient = models.CharField(max_length=400, help_text="channel:N, person:N or mail:ADDRESS.")
    to = models.CharField(max_length=254, help_text="The recipient's name when it was written.")
    thread = models.CharField(
        max_length=500, help_text="What has the same thread is sent in the order in which it was written."
    )
    message = models.JSONField(default=dict)
    alerts = models.ManyToManyField(Alert, related_name="deliveries")
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    created = models.DateTimeField(default=timezone.now)
    next_try = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveSmallIntegerField(default=0)
    claim = models.CharField(max_length=32, blank=True)
    claimed = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Of HTTP, or of SMTP.")
    answer = models.TextField(blank=True, help_text="The first bytes of the receiver's answer, or why there was none.")

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
    """When a host last looked, by its clock and by a clock that nobody sets; the row without a host: when anybody did."""

    host = models.CharField(max_length=255, primary_key=True)
    at = models.DateTimeField()
    uptime = models.FloatField(default=0.0, help_text="Seconds since boot, sleep included.")
    boot = models.CharField(max_length=64, blank=True)
    jumped = models.DateTimeField(null=True, blank=True, help_text="When its clock jumped last.")
    jumped_by = models.FloatField(default=0.0, help_text="Seconds; below zero: back.")
    silent_from = models.DateTimeField(null=True, blank=True, help_text="The last time in which nobody looked for a while.")
    silent_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.host
