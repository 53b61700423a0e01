"""The addresses of the site."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from backups.admin.accounts import change_password
from backups.api import legacy
from backups.api.resource import resource
from backups.api.status import readyz
from backups.identity.sign_in import SignInForm
from backups.monitoring.metrics import metrics
from backups_consistency import api as consistency_api
from refserver.web import alive

admin.site.site_header = admin.site.site_title = "RefServer"
admin.site.index_title = "Administration"
admin.site.login_form = SignInForm


class FavouriteIcon(RedirectView):
    """The icon for pages that name none, such as the admin's."""

    def get_redirect_url(self, *args: object, **kwargs: object) -> str:
        return static("library/icon.svg")


handler403 = "backups.admin.errors.not_allowed"
handler404 = "backups.admin.errors.not_found"
urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", alive, name="healthz"),
    path("metrics", metrics, name="metrics"),
    path("favicon.ico", FavouriteIcon.as_view(), name="favicon"),
    path("readyz", resource("Status", get=readyz), name="readyz"),
    # Other apps' routes below api/v1/ must come first; see backups.api.urls.
    path("api/v1/consistency/", include(consistency_api.urlpatterns)),
    path("api/v1/", include("backups.api.urls")),
    path("admin/backup/", include(legacy.urlpatterns)),
    path("admin/backup/", include("backups.admin.urls")),
    path("admin/consistency/", include("consistency.urls")),
    path("admin/password_change/", change_password),
    path("admin/", admin.site.urls),
    path("", include("refserver.library.urls")),
]
