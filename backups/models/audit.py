"""The audit: who did what, from where, with the state before and after."""

from django.db import models

from backups import moments


class AuditEntry(models.Model):
    """One entry of a hash chain: ``hash`` covers the entry and the hash of the one before (`backups.identity.audit`).

    Entries are only added: a trigger in the database, made by the migration, refuses changes and deletions.
    """

    number = models.BigIntegerField(primary_key=True, help_text="1, 2, 3 …, without gaps.")
    time = moments.MomentField()
    who = models.CharField(max_length=150, blank=True)
    who_id = models.CharField(max_length=64, blank=True)
    via = models.CharField(max_length=8)
    token = models.CharField(max_length=140, blank=True, help_text="Name and first characters of the API token, if any.")
    address = models.CharField(max_length=45, blank=True, help_text="Address of the client.")
    action = models.CharField(max_length=60, help_text="Such as backup.requested or token.revoked.")
    target = models.CharField(max_length=200, blank=True, help_text="The object: backup:ID, job:ID, plan:NAME …")
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    previous = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ("-number",)
        verbose_name_plural = "audit entries"
        default_permissions = ()
        permissions = (("view_audit", "May read and export the audit"),)
        indexes = (
            models.Index(fields=["-time"], name="audit_newest"),
            models.Index(fields=["action", "-number"], name="audit_by_action"),
            models.Index(fields=["who", "-number"], name="audit_by_who"),
            models.Index(fields=["target", "-number"], name="audit_by_target"),
        )

    def __str__(self) -> str:
        return f"{self.number}: {self.who} {self.action} {self.target}"
