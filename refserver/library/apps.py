"""The app configuration."""

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    """The reference library."""

    name = "refserver.library"
    label = "library"
    verbose_name = "Library"

    def ready(self) -> None:
        from refserver import checks  # noqa: F401
