"""A second repository: named by a setting, used by a plan, counted by readiness."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.test import override_settings
from django.utils import timezone

from backups.engine.repository.folder import initialise
from backups.models import IndexedBackup, Job, Plan
from backups.monitoring import readiness
from backups.monitoring.gathering import gather
from backups.plans import defaults, scheduling
from tests.control.conftest import settings_of

pytestmark = pytest.mark.slow


def copy_of(moment: datetime) -> readiness.Item:
    found = readiness.assess(gather(moment), readiness.gather(moment))
    return next(item for item in found.items if item.code == "second_copy")


def test_plans_of_the_second_repository_need_it(site):
    assert "daily-second" not in defaults.install()
    named = settings_of(site.places)
    folder = site.places.root / "elsewhere"
    with override_settings(BACKUPS=named | {"REPOSITORIES": {**named["REPOSITORIES"], "second": str(folder)}}):
        assert {"daily-second", "daily-prune-second"} <= set(defaults.install())
        plan = Plan.objects.get(name="daily-second")
        job = site.done(scheduling.run(plan, site.actor))
        assert (job.state, job.error["code"]) == (Job.State.FAILED, "no_repository")  # its disk may not be mounted
        assert not folder.exists()
        initialise(folder, datetime.now(UTC))
        assert copy_of(timezone.now()).state is readiness.State.MISSED
        job = site.done(scheduling.run(plan, site.actor))
        assert job.state == Job.State.SUCCEEDED, job.error
        assert IndexedBackup.objects.get().repository == "second"
        assert copy_of(timezone.now()).state is readiness.State.MET
