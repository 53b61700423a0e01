"""The Django app."""

import warnings

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

from .routing import own_cluster

if not own_cluster():
    with warnings.catch_warnings():  # Django-Q, when it is first imported, warns of the defaults that no process here uses
        warnings.simplefilter("ignore")
        import django_q.conf  # noqa: F401

_NEEDED = ("django.contrib.auth", "django.contrib.contenttypes", "django_q")


class BackupsConfig(AppConfig):
    """The backups app; the project's router decides which database holds its tables."""

    name = "backups"
    verbose_name = "Backups"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        missing = [name for name in _NEEDED if not apps.is_installed(name)]
        if missing:  # no check could say so: the models of the queue cannot be imported
            raise ImproperlyConfigured(f"The app backups needs {', '.join(map(repr, missing))} in INSTALLED_APPS.")
        from backups.alerts import switches  # noqa: F401
        from backups.identity import permissions, sessions, sign_in, step_up  # noqa: F401

        from . import checks, page_checks  # noqa: F401

        if apps.is_installed("django.contrib.admin") and not own_cluster():
            _hide_the_queue()


def _hide_the_queue() -> None:
    """Remove Django-Q's pages from the admin: their messages look like jobs, and the tick could be deleted there.

    Jobs, plans and workers have their own pages.
    """
    from django.contrib import admin
    from django_q import admin as queue_admin  # registers its models, if it has not yet

    for model in (queue_admin.Schedule, queue_admin.Success, queue_admin.Failure, queue_admin.OrmQ):
        if admin.site.is_registered(model):
            admin.site.unregister(model)
