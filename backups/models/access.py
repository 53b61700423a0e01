"""Known accounts, tokens of the API, and the stored answers to requests with an idempotency key."""

from django.db import models
from django.utils import timezone

from backups import moments


class KnownAccount(models.Model):
    """What is known of an account apart from the database that holds it, which a restore rolls back."""

    username = models.CharField(max_length=254, unique=True)
    user_id = models.CharField(max_length=64, help_text="Primary key of the account.")
    nonce = models.CharField(max_length=32, help_text="Its tokens have it too. A later account of the same name has another.")
    state = models.JSONField(default=dict, help_text="Flags, groups, permissions, and a fingerprint of the password.")
    removed = moments.MomentField(null=True, blank=True, help_text="When it was first missing.")
    withheld = models.JSONField(default=dict, help_text="What it had in a restored backup, and was not given.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.username


class ApiToken(models.Model):
    """A token of the API. Only the SHA-256 of its secret is stored; the secret is shown once.

    It grants what its scopes name (`permissions.SCOPES`), and never more than its account may do at the time of the request.
    """

    name = models.CharField(max_length=120)
    user_id = models.CharField(max_length=64, help_text="Primary key of the account.")
    username = models.CharField(max_length=150, help_text="Must still be the name of that account.")
    nonce = models.CharField(max_length=32, help_text="Must still be the nonce of that account.")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the secret, in hexadecimal.")
    hint = models.CharField(max_length=8, help_text="The first characters of the secret, to tell tokens apart.")
    scopes = models.JSONField(default=list)
    created = moments.MomentField(default=timezone.now)
    expires = moments.MomentField(null=True, blank=True)
    revoked = moments.MomentField(null=True, blank=True)
    suspended = moments.MomentField(null=True, blank=True, help_text="When a restore changed its account.")
    used = moments.MomentField(null=True, blank=True, help_text="Last use, to the minute.")
    used_from = models.GenericIPAddressField(null=True, blank=True)

    class Meta:
        ordering = ("-created",)
        default_permissions = ()
        permissions = (
            ("view_token", "May see all tokens"),
            ("issue_token", "May issue tokens for the own account"),
            ("revoke_token", "May revoke all tokens"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @property
    def usable(self) -> bool:
        return self.revoked is None and self.suspended is None and (self.expires is None or self.expires > moments.now())


class IdempotencyKey(models.Model):
    """The answer to a request with an ``Idempotency-Key``; the same request gets the same answer for a day."""

    owner = models.CharField(max_length=80, help_text="Account or token that sent it.")
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, path and body.")
    status = models.PositiveSmallIntegerField(null=True, help_text="None while the first request is being answered.")
    body = models.JSONField(null=True)
    headers = models.JSONField(default=dict)
    created = moments.MomentField(default=timezone.now)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["owner", "key"], name="a_key_once_an_owner"),)
        indexes = (models.Index(fields=["created"], name="idempotency_by_age"),)

    def __str__(self) -> str:
        return self.key
