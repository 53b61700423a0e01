"""The metrics, parsed as Prometheus does."""

from __future__ import annotations

import re

import pytest
from django.test import Client, override_settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from backups.identity import tokens
from backups.jobs import submit
from backups.models import Worker
from backups.plans import defaults
from consistency.models import Check
from tests.control.consistency_site import joined
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow


def read(client: Client, **headers: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = client.get("/metrics", **headers)
    assert answer.status_code == 200, answer.content
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_match_the_site(site):
    defaults.install()
    Worker.objects.create(host="test-host")
    made = site.done(submit.back_up(site.actor, backup="full"))
    submit.back_up(site.actor, backup="full")
    found = read(Client())
    assert ({"repository": "main", "set": "default", "kind": "full", "proof": "restore"}, 1.0) in found["refbackup_backups"]
    assert ({"kind": "backup", "state": "queued"}, 1.0) in found["refbackup_jobs"]
    [(labels, stamp)] = found["refbackup_last_proven_timestamp_seconds"]
    assert labels == {"repository": "main", "set": "default"} and abs(stamp - made.started.timestamp()) < 60
    assert found["refbackup_last_backup_stored_bytes"][0][1] > 10_000
    assert found["refbackup_repository_reachable"] == [({"repository": "main"}, 1.0)]
    assert found["refbackup_worker_last_beat_timestamp_seconds"][0][0] == {"host": "test-host"}
    assert ({"plan": "daily-full"}, 1.0) in found["refbackup_plan_enabled"]
    site.repository.folder.rename(site.places.root / "aside")
    held = ({"code": "repository_missing", "severity": "critical"}, 1.0)
    assert held in read(Client())["refbackup_condition"]


def test_every_metric_is_documented_and_no_other(site):
    defaults.install()
    site.done(submit.back_up(site.actor, backup="full"))
    ended = timezone.now()
    Check.objects.create(state="done", verdict="degraded", ended=ended, kinds={"metadata_mismatch": 3}, records=7, seconds=0.5)
    with override_settings(BACKUPS=joined(site.places)):
        found = read(Client())
        answer = Client().get("/metrics").content.decode()
    assert ({"kind": "metadata_mismatch"}, 3.0) in found["refbackup_consistency_findings"]
    assert ({"state": "degraded"}, 1.0) in found["refbackup_consistency_state"]
    assert found["refbackup_last_consistency_check_timestamp_seconds"] == [({}, pytest.approx(ended.timestamp()))]
    documented = set(re.findall(r"^\| `(refbackup_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    named = {sample.name for family in text_string_to_metric_families(answer) for sample in family.samples}
    families = set(re.findall(r"^# TYPE (\w+)", answer, re.MULTILINE))
    assert named <= documented and documented == families


@pytest.mark.parametrize(
    "headers",
    [{"REMOTE_ADDR": "192.0.2.7"}, {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, {"HTTP_FORWARDED": "for=127.0.0.1"}],
)
def test_remote_clients_need_a_token_with_the_scope(site, headers):
    person = site.person("scraper", "viewer")
    right = tokens.issue(person, "prometheus", ["metrics"], None).secret
    wrong = tokens.issue(person, "other", ["read"], None).secret
    assert Client().get("/metrics", **headers).status_code == 401
    assert Client().get("/metrics", **headers, HTTP_AUTHORIZATION=f"Bearer {wrong}").status_code == 401
    assert read(Client(), **headers, HTTP_AUTHORIZATION=f"Bearer {right}")


def test_behind_a_proxy_no_client_is_local(site):
    with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert Client().get("/metrics").status_code == 401
