"""The setting of consistency checks without backups, which `backups_consistency` would add, for tests and their processes."""

from typing import Any

QUICK: dict[str, Any] = {
    "DECLARATION": "refserver.library.consistency.DECLARATION",
    "SETTLE_SECONDS": 0.05,
    "BEFORE_REPAIR": "",
    "BACKUPS": "",
    "FRAME": "",
}
