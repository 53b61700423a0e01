"""The names under which projects import conditions for ``BACKUPS["ALERT_DETECTORS"]``; see `backups.monitoring.conditions`."""

from __future__ import annotations

from backups.monitoring.conditions import Condition as Detector
from backups.monitoring.conditions import Observation as Detection

__all__ = ["Detection", "Detector"]
