"""System checks of the project."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from backups.conf import configuration
from backups.engine.unfinished import UnfinishedExchange, unfinished_exchange
from refserver.recovery.faults import FINISH_OR_UNDO, Section

_FINISH_OR_UNDO = f"{FINISH_OR_UNDO} DISASTER_RECOVERY.md, section “{Section.INTERRUPTED.value}”. Nothing was started."


@register(Tags.compatibility)
def unknown_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Warn of names in the environment and in ``.env`` that look like settings and are none."""
    return [Warning(unknown.message, hint=unknown.hint, id="refserver.W001") for unknown in settings.UNKNOWN_SETTINGS]


@register(Tags.compatibility)
def interrupted_restores(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Refuse to run on stores that an interrupted restore in place left of different times."""
    return [Error(found.message, hint=_FINISH_OR_UNDO, id="refserver.E001") for found in _interrupted_restores()]


def _interrupted_restores() -> list[UnfinishedExchange]:
    return list(filter(None, map(unfinished_exchange, configuration().sets.values())))
