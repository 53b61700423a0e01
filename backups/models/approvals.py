"""Requests that wait for a second person (`backups.identity.four_eyes`)."""

import uuid

from django.db import models
from django.utils import timezone

from backups import moments


class Approval(models.Model):
    """A dangerous request that one person made and another decides about. It is used once, exactly as it was shown."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        USED = "used", "Carried out"

    OPEN = (State.WAITING, State.APPROVED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    subject = models.CharField(max_length=20, help_text="One of `four_eyes.SUBJECTS`.")
    method = models.CharField(max_length=8)
    address = models.TextField(help_text="Path and query of the request.")
    content = models.JSONField(help_text='The form as [[name, value], ...], or the JSON of the body as [["body", text]].')
    digest = models.CharField(max_length=64, help_text="SHA-256 of the request and of what it names.")
    reason = models.CharField(max_length=500)
    user_id = models.CharField(max_length=64, help_text="Primary key of the account that asked.")
    username = models.CharField(max_length=150)
    asked = moments.MomentField(default=timezone.now)
    expires = moments.MomentField()
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    decided_by = models.CharField(max_length=150, blank=True)
    decided = moments.MomentField(null=True, blank=True)
    decision = models.CharField(max_length=500, blank=True, help_text="Why it was rejected.")
    emergency = moments.MomentField(null=True, blank=True, help_text="When the asking account said that it goes ahead alone.")
    used = moments.MomentField(null=True, blank=True)

    class Meta:
        ordering = ("-asked", "-id")
        default_permissions = ()
        indexes = (models.Index(fields=["state", "expires"], name="approval_open"),)

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def is_open(self) -> bool:
        """Whether it can still be decided about or carried out."""
        return self.state in self.OPEN and self.expires > moments.now()
