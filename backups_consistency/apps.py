"""The app configuration, with what it adds to the settings of both apps (`conf.given`, `consistency.declaration.option`)."""

from typing import Any, ClassVar

from django.apps import AppConfig


class BackupsConsistencyConfig(AppConfig):
    """Consistency checks as a part of backups."""

    name = "backups_consistency"
    verbose_name = "Consistency of backups"
    adds_to_backups: ClassVar[dict[str, Any]] = {
        "KINDS": [f"backups_consistency.jobs.{name}" for name in ("CHECK", "REPAIR", "UNDO", "RESUME")],
        "EXAMINE": "backups_consistency.jobs.examination",
        "METRICS": ["backups_consistency.metrics.consistency"],
        "ALERT_DETECTORS": ["backups_consistency.alerts.CONSISTENCY"],
        "URLS": ["backups_consistency.urls"],
    }
    adds_to_consistency: ClassVar[dict[str, Any]] = {
        "BEFORE_REPAIR": "backups_consistency.jobs.snapshot",
        "BACKUPS": "backups_consistency.jobs.copies_from_backups",
        "FRAME": "backups_consistency.frame.BackupsFrame",
    }
