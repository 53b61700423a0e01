"""A site for tests of the control plane: databases, the sample library, a repository, and the environment of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import Group
from django.test import Client, override_settings

from backups.engine.repository.folder import Repository, initialise, open_repository
from backups.identity.audit import Actor
from backups.models import Job
from backups.worker import tasks
from tests.library.conftest import empty_places, library, sample_library, sample_places
from tests.library.places import ROOT, Places

__all__ = ["empty_places", "library", "sample_library", "sample_places"]

HOST = "test-host"
PASSWORD = "correct-horse-battery-staple"


class QuickPasswords(PBKDF2PasswordHasher):
    """Django's hasher with few rounds, because tests make many accounts."""

    iterations = 1


@dataclass(frozen=True)
class Site:
    """One site: its places, its repository, and shortcuts to request and run jobs."""

    places: Places
    actor: Actor

    @property
    def repository(self) -> Repository:
        return open_repository(self.places.root / "backups")

    @property
    def settings(self) -> dict[str, object]:
        return settings_of(self.places)

    def work(self) -> int:
        """Run the queued jobs, as a worker would."""
        return tasks.work(HOST)

    def done(self, job: Job) -> Job:
        """Run the queued jobs, and return *job* after its end."""
        self.work()
        job.refresh_from_db()
        return job

    def person(self, name: str, *groups: str, superuser: bool = False):
        """A staff account in *groups*."""
        user = get_user_model().objects.create_user(name, password=PASSWORD, is_staff=True, is_superuser=superuser)
        user.groups.set(Group.objects.filter(name__in=groups))
        return user

    def client(self, name: str, *groups: str, superuser: bool = False) -> Client:
        """A client in which that account is signed in."""
        client = Client()
        client.force_login(self.person(name, *groups, superuser=superuser), "django.contrib.auth.backends.ModelBackend")
        return client


def settings_of(places: Places) -> dict[str, object]:
    named = places.settings
    return {
        "DATABASE": "control",
        "REPOSITORIES": {"main": str(places.root / "backups")},
        "SETS": {
            "default": [
                f"sqlite:refserver={named['REFSERVER_DATABASE']}",
                f"chroma:chroma={named['CHROMA_PATH']}",
                f"files:documents={named['REFSERVER_FILES']}",
            ],
            "control": [f"sqlite:control={named['REFSERVER_CONTROL_DATABASE']}"],
        },
        "KEPT_APART": ["control"],
        "HOST": HOST,
        "MANAGE": str(ROOT / "manage.py"),
        "CONTROL_APPS": ["sessions", "axes"],
        "EXTENSIONS": [],
        "RESTORE_FOLDER": str(places.root / "restored"),
        "RUN_FOLDER": str(places.root / "run"),
        "ALERT_HOSTS": ["127.0.0.0/8", "::1/128"],  # the receivers of the tests
        "SIGNING_KEY": str(places.root / "signing_key"),
    }


def environment_of(places: Places) -> dict[str, str]:
    """For child processes of the site."""
    named = {"REFSERVER_HOST": HOST, "REFSERVER_RESTORED": str(places.root / "restored")}
    return {**places.environment, **named, "REFSERVER_ALERT_HOSTS": "127.0.0.0/8,::1/128"}


@pytest.fixture
def site(sample_library: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The sample library with an empty repository. Jobs run in this process's `work`, their commands as real children."""
    yield from _made(sample_library, monkeypatch)


@pytest.fixture
def empty_site(library: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same with an empty library."""
    yield from _made(library, monkeypatch)


def _made(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    environment = environment_of(places)
    for name in [
        name for name in os.environ if name.startswith(("REFSERVER_", "CHROMA_", "BACKUP_")) and name not in environment
    ]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    initialise(Path(places.root / "backups"), datetime.now(UTC))
    with override_settings(BACKUPS=settings_of(places), PASSWORD_HASHERS=["tests.control.conftest.QuickPasswords"]):
        yield Site(places, Actor(name="tester", via=Job.Via.COMMAND))
