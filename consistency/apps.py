"""The app configuration."""

from django.apps import AppConfig


class ConsistencyConfig(AppConfig):
    """Checks of rows against vectors."""

    name = "consistency"
    label = "consistency"
    verbose_name = "Consistency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from consistency import system_checks  # noqa: F401
