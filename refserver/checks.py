"""System checks of the project."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.compatibility)
def unknown_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Warn of names in the environment and in ``.env`` that look like settings and are none."""
    return [Warning(unknown.message, hint=unknown.hint, id="refserver.W001") for unknown in settings.UNKNOWN_SETTINGS]
