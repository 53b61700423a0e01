"""System checks: each names what would fail later in a project, by its id, and says what to do about it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from django.contrib import admin
from django.core.checks import run_checks
from django.test import override_settings
from django.urls import include, path

from backups import checks, page_checks
from backups.management.commands import backups_worker
from tests.control.conftest import Site

BARE = ModuleType("bare_urls")
BARE.urlpatterns = []  # type: ignore[attr-defined]
WITHOUT_ADMIN = ModuleType("urls_without_admin")
WITHOUT_ADMIN.urlpatterns = [path("b/", include("backups.admin.urls"))]  # type: ignore[attr-defined]
PAGES_ONLY = ModuleType("urls_with_an_admin")
PAGES_ONLY.urlpatterns = [*WITHOUT_ADMIN.urlpatterns, path("a/", admin.site.urls)]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (BARE, WITHOUT_ADMIN, PAGES_ONLY):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def found(tag: str) -> list[str]:
    messages = run_checks(tags=[tag])
    assert all(one.hint or one.id == "backups.E002" for one in messages)
    return [str(one.id) for one in messages]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"DATABASE": "elsewhere"}, ["backups.E006"]),
        ({"SETZ": {}}, ["backups.E002"]),
        ({"REPOSITORIES": {"main": "backups"}, "RESTORE_FOLDER": "/srv/restored", "RUN_FOLDER": "/srv/run"}, ["backups.E011"]),
        ({"MANAGE": "/no/such/manage.py"}, ["backups.E012"]),
        ({"KEPT_APART": []}, ["backups.E013"]),
    ],
)
def test_setting(empty_site: Site, change: dict, expected: list[str]):
    with override_settings(BACKUPS=empty_site.settings | change):
        assert found(checks.TAG) == expected


def test_database_in_no_set(empty_site: Site):
    sets = {"default": ["sqlite:other=/srv/other.sqlite3"], "control": empty_site.settings["SETS"]["control"]}
    with override_settings(BACKUPS=empty_site.settings | {"SETS": sets}):
        assert found(checks.TAG) == ["backups.W004"]


def test_router_that_keeps_tables_from_the_control_database(empty_site: Site):
    with override_settings(DATABASE_ROUTERS=[]):
        assert "backups.E009" in found(checks.TAG)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"ROOT_URLCONF": "urls_with_an_admin"}, []),
        ({"ROOT_URLCONF": "bare_urls"}, ["backups.W020"]),
        ({"ROOT_URLCONF": "urls_without_admin"}, ["backups.E021"]),
        ({"STATICFILES_FINDERS": ["django.contrib.staticfiles.finders.FileSystemFinder"]}, ["backups.E022"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.file"}, ["backups.W021"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}, ["backups.W021"]),
        ({"CSRF_HEADER_NAME": "HTTP_X_OTHER"}, ["backups.W023"]),
        ({"CACHES": {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}}, ["backups.W024"]),
    ],
)
def test_pages(empty_site: Site, settings: dict, expected: list[str]):
    with override_settings(**settings):
        assert found(page_checks.TAG) == expected


def test_the_worker_starts_although_something_of_the_pages_is_missing():
    required = backups_worker.Command.requires_system_checks
    assert checks.TAG in required and page_checks.TAG not in required
