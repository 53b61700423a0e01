"""The index of backups, rebuilt from the repositories at any time (`backups.catalog.index`)."""

from urllib.parse import urlencode

from django.db import models
from django.urls import reverse

from backups import moments


class IndexedBackup(models.Model):
    """A backup as it was in its repository when last read; ``seen`` shows whether it has changed since."""

    class Verification(models.TextChoices):
        NONE = "none", "Not verified"
        HASHES = "hashes", "Verified by hashes"
        RESTORE = "restore", "Restore-tested"
        DAMAGED = "damaged", "Damaged"
        MISSING = "missing", "Missing"
        """No longer in its repository, though nobody deleted it (`backups.catalog.missing`)."""

    UNUSABLE = (Verification.DAMAGED, Verification.MISSING)

    class Kind(models.TextChoices):
        FULL = "full", "Full"
        INCREMENTAL = "incremental", "Incremental"
        SNAPSHOT = "snapshot", "Snapshot"

    repository = models.CharField(max_length=64)
    backup_id = models.CharField(max_length=80)
    set = models.CharField(max_length=64)
    kind = models.CharField(max_length=12, choices=Kind)
    parent_id = models.CharField(max_length=80, blank=True)
    time = moments.MomentField(help_text="The instant of the cut.")
    finished = moments.MomentField()
    host = models.CharField(max_length=255, blank=True)
    note = models.TextField(blank=True)
    bytes_source = models.BigIntegerField(default=0)
    bytes_stored = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0.0, help_text="From the cut to publication.")
    pause_sqlite = models.FloatField(default=0.0, help_text="Milliseconds for which writers waited.")
    pause_chroma = models.FloatField(default=0.0)
    verification = models.CharField(max_length=8, choices=Verification, default=Verification.NONE)
    verified_at = moments.MomentField(null=True, blank=True)
    held = models.BooleanField(default=False)
    hold_note = models.TextField(blank=True)
    encrypted = models.BooleanField(default=False)
    safety = models.BooleanField(default=False, help_text="Safety backup of the stores that a restore in place replaced.")
    sources = models.JSONField(default=list, help_text='[{"kind", "name", "bytes", "files", "method"}]')
    proofs = models.PositiveIntegerField(default=0)
    restore_seconds = models.FloatField(null=True, blank=True, help_text="Of the newest restore test, for the RTO.")
    drilled_at = moments.MomentField(null=True, blank=True, help_text="Time of the newest drill.")
    drill_ok = models.BooleanField(null=True, blank=True)
    drill_seconds = models.FloatField(null=True, blank=True)
    job = models.CharField(max_length=36, blank=True, help_text="The job that made it, from the manifest.")
    problem = models.TextField(blank=True, help_text="Why it is damaged or missing, in a sentence.")
    damaged_in = models.CharField(max_length=80, blank=True, help_text="The backup in whose files its damage lies.")
    check_failed_at = moments.MomentField(null=True, blank=True, help_text="When a verification ended without a proof.")
    check_failed = models.TextField(blank=True, help_text="Why, in a sentence (`backups.catalog.failed_checks`).")
    check_found_damage = models.BooleanField(default=False)
    losses = models.TextField(
        blank=True, help_text="What a later backup no longer holds, a sentence a line, until it is released."
    )
    seen = models.CharField(max_length=80, blank=True, help_text="Modification times of its folders when it was read.")

    class Meta:
        ordering = ("-time", "-backup_id")
        verbose_name = "backup"
        default_permissions = ()
        permissions = (
            ("view_backup", "May see backups"),
            ("create_backup", "May make backups"),
            ("verify_backup", "May verify backups"),
            ("hold_backup", "May hold and release backups"),
            ("download_backup", "May download backups"),
            ("restore_backup", "May restore backups"),
            ("delete_backup", "May delete backups"),
        )
        constraints = (models.UniqueConstraint(fields=["repository", "backup_id", "set"], name="a_backup_once_a_set"),)
        indexes = (
            models.Index(fields=["-time", "-backup_id"], name="backup_newest"),
            models.Index(fields=["repository", "set", "-time"], name="backup_of_set"),
            models.Index(fields=["repository", "set", "verification", "-time"], name="backup_of_set_by_proof"),
            models.Index(fields=["repository", "-time", "bytes_stored"], name="backup_space"),
            models.Index(fields=["kind", "-time"], name="backup_by_kind"),
            models.Index(fields=["verification", "-time"], name="backup_by_proof"),
            models.Index(fields=["-drilled_at"], name="backup_drilled", condition=models.Q(drilled_at__isnull=False)),
            models.Index(fields=["-time"], name="backup_with_losses", condition=~models.Q(losses="")),
            models.Index(fields=["parent_id"], name="backup_by_parent", condition=~models.Q(parent_id="")),
        )

    @property
    def incomplete(self) -> bool:
        """Whether something that belongs into the backup is missing from it."""
        return any(source.get("missing") for source in self.sources)

    def __str__(self) -> str:
        return self.backup_id

    def get_absolute_url(self) -> str:
        return f"{reverse('backups:backup', args=[self.backup_id])}?{urlencode(self.home)}"

    @property
    def address(self) -> str:
        """What identifies it, in one word: ``REPOSITORY/SET/ID``."""
        return f"{self.repository}/{self.set}/{self.backup_id}"

    @property
    def home(self) -> dict[str, str]:
        """Its repository and set, which identify it together with its id."""
        return {"repository": self.repository, "set": self.set}

    @property
    def damaged(self) -> bool:
        """Whether it cannot be relied on: it is damaged or missing."""
        return self.verification in self.UNUSABLE

    @property
    def missing(self) -> bool:
        return self.verification == self.Verification.MISSING
