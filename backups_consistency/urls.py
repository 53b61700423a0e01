"""Addresses beside those of `backups.urls`: the pages and the REST operations of consistency."""

from django.urls import URLPattern, URLResolver, include, path

from . import api

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/consistency/", include(api.urlpatterns)),
    path("consistency/", include("consistency.urls")),
]
