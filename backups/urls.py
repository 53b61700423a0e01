"""Every address of the app below one: ``path("backups/", include("backups.urls"))``.

=============== ==================================================================================
``""``          the pages
``api/v1/``     the REST interface; its page to read and try is ``api/v1/docs``
``metrics``     for Prometheus
``readyz``      whether this process can respond, and whether a worker takes its jobs
=============== ==================================================================================

A project that wants other addresses includes `backups.admin.urls` and `backups.api.urls` itself.
"""

from django.urls import URLPattern, URLResolver, include, path

from backups.api.resource import resource
from backups.api.status import readyz
from backups.conf import configuration
from backups.monitoring.metrics import metrics

urlpatterns: list[URLPattern | URLResolver] = [
    *(path("", include(urls)) for urls in configuration().urls),
    path("api/v1/", include("backups.api.urls")),
    path("metrics", metrics, name="backups_metrics"),
    path("readyz", resource("Status", get=readyz), name="backups_readyz"),
    path("", include("backups.admin.urls")),
]
