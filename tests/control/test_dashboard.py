"""The overview: its verdict, running jobs, timeline and figures, and the form that queues a backup."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.admin import timeline
from backups.jobs import lifecycle, submit
from backups.models import IndexedBackup, Job, Worker
from tests.control.many import many, unindexed

pytestmark = pytest.mark.slow

PAGE = "/admin/backup/"


def html(client: Client, address: str = PAGE) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def indexed(number: int, proof: str = "restore", kind: str = "full", **since) -> IndexedBackup:
    moment = timezone.now() - timedelta(**since)
    backup_id = f"{moment:%Y%m%dT%H%M%SZ}-{kind}-{number:06x}"
    values = {"time": moment, "finished": moment, "verification": proof, "kind": kind, "set": "default", "repository": "main"}
    return IndexedBackup.objects.create(backup_id=backup_id, bytes_source=9_000_000, bytes_stored=1_000_000, **values)


def test_empty_state(site):
    page = html(site.client("olga", "operator"))
    assert "No backup yet." in page and "Make the first backup: about" in page
    assert "has never reported" in page and "manage.py serve" in page
    assert "Recovery point" not in page and 'id="timeline"' not in page
    assert "No plan is enabled." in page


def test_viewer_cannot_back_up(site):
    client = site.client("vera", "viewer")
    form = PAGE + "back-up/"
    assert form in html(site.client("olga", "operator"))
    assert form not in html(client) and 'id="back-up"' not in html(client)
    assert client.post(PAGE + "back-up/", {"backup": "full"}).status_code == 403
    assert client.get(PAGE + "back-up/").status_code == 405
    assert not Job.objects.exists()
    assert Client().get(PAGE).status_code == 302  # to the sign-in


def test_cross_site_request_is_refused(site):
    client = Client(enforce_csrf_checks=True)
    client.force_login(site.person("olga", "operator"), "django.contrib.auth.backends.ModelBackend")
    assert client.post(PAGE + "back-up/", {"backup": "full"}).status_code == 403
    assert not Job.objects.exists()


def test_back_up_queues_a_job(site):
    client = site.client("olga", "operator")
    everything = ["sqlite:refserver", "chroma:chroma", "files:documents"]
    answer = client.post(PAGE + "back-up/", {"backup": "full", "only": everything, "note": " by hand "}, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    page = answer.content.decode()
    assert "Full backup queued." in page and "Queued for " in page
    job = Job.objects.get()
    assert (job.arguments["only"], job.note, job.by, job.via) == ([], "by hand", "olga", "pages")
    client.post(PAGE + "back-up/", {"backup": "incremental", "only": ["sqlite:refserver"]})
    assert Job.objects.latest("created").set == "default-sqlite"
    refused = client.post(PAGE + "back-up/", {"backup": "everything"})
    assert refused.status_code == 400 and "Nothing was queued." in refused.content.decode()
    assert Job.objects.count() == 2


def test_running_job_is_shown_then_only_changes_are_sent(site):
    client = site.client("olga", "operator")
    asked = submit.back_up(site.actor, backup="full")
    job = lifecycle.claim("test-host", "me")
    assert job == asked
    begun = timezone.now().isoformat()
    phases: list[dict[str, object]] = [{"name": "cut", "started": begun, "seconds": 0.01, "done": 0, "total": None}]
    phases[0]["pause_ms"] = {"sqlite": 0.4, "chroma": 0.0}
    phases.append({"name": "store", "started": begun, "seconds": None, "done": 680_000_000, "total": 1_000_000_000})
    lifecycle.beat(job, phase="store", done=680_000_000, total=1_000_000_000, rate=412e6, left=9.2, phases=phases)
    page = html(client)
    for text in ("68 %", "412.0 MB/s", "9.2 s left", "writers paused for 0.4 ms", 'aria-current="step">Store', 'value="68.0"'):
        assert text in page, text
    assert f"/admin/backup/jobs/{job.pk}/cancel/" in page and 'hx-trigger="every 1s"' in page

    seen = page.split("active/?seen=")[1].split('"')[0]
    again = client.get(f"{PAGE}active/?seen={seen}", HTTP_HX_REQUEST="true")
    assert "HX-Retarget" not in again.headers and 'hx-swap-oob="true"' in again.content.decode()
    assert "<form" not in again.content.decode()  # the button is not replaced while it is being pressed
    whole = client.get(f"{PAGE}active/?seen=", HTTP_HX_REQUEST="true").content.decode()
    assert f'name="next" value="{PAGE}"' in whole  # cancelling leads back to the page, not to its part
    lifecycle.end(job, Job.State.SUCCEEDED)
    changed = client.get(f"{PAGE}active/?seen={seen}", HTTP_HX_REQUEST="true")
    assert (changed.headers["HX-Retarget"], changed.headers["HX-Trigger"]) == ("#active", "jobs-changed")
    assert 'hx-trigger="every 10s"' in changed.content.decode()
    assert "Back up: done" in html(client)  # among the latest events


def test_timeline_shapes_states_and_titles(site):
    Worker.objects.create(host="test-host")
    indexed(1, hours=30)
    indexed(2, "none", "incremental", hours=20)
    indexed(3, "damaged", "incremental", hours=10)
    indexed(4, "restore", "snapshot", hours=5)
    indexed(5, "hashes", "incremental", minutes=5)
    page = html(site.client("vera", "viewer"))
    assert 'class="point unproven"' in page and 'class="point damaged"' in page and 'class="cross"' in page
    assert "verified by hashes" in page and "not verified" in page
    assert "full (1)" in page and "incremental (3)" in page and "snapshot (1)" in page
    day = html(site.client("vic", "viewer"), PAGE + "?range=24h")
    assert "full (0)" in day and "incremental (3)" in day
    assert "<strong>At risk:</strong> 1 backup is damaged." in day


def test_close_points_are_merged(site):
    for number in range(30):
        indexed(number, "damaged" if number == 7 else "restore", "incremental", minutes=60 + number)
    found = timeline.timeline(timeline.RANGES["30d"], timezone.now())
    (point,) = [point for lane in found.lanes for point in lane.points][:1]
    assert found.count == 30 and sum(len(lane.points) for lane in found.lanes) <= 2
    assert point.state == "unproven" and "1 damaged" in point.title, "newer ones are proven"
    indexed(30, "damaged", "incremental", minutes=59)
    found = timeline.timeline(timeline.RANGES["30d"], timezone.now())
    (point,) = [point for lane in found.lanes for point in lane.points][:1]
    assert point.state == "damaged" and "2 damaged" in point.title
    client = site.client("vera", "viewer")
    assert client.get(point.address).status_code == 200


@pytest.mark.parametrize("chosen", ["24h", "7d", "30d", "a-year"])
def test_figures_as_json_and_table(site, chosen):
    indexed(1, hours=3)
    indexed(2, minutes=20)
    client = site.client("vera", "viewer")
    found = json.loads(html(client, f"{PAGE}figures/?format=json&range={chosen}"))
    assert found["stored"] == [1_000_000, 1_000_000] and len(found["time"]) == 2
    assert found["from"] < found["time"][0] < found["to"] + 1
    assert "9.0 MB" in html(client, f"{PAGE}figures/?range={chosen}")


def test_100_000_backups_and_jobs_are_drawn_from_indexes(empty_site):
    many(backups=100_000, jobs=100_000)
    client = empty_site.client("ada", superuser=True)
    for address in (PAGE, PAGE + "?range=24h", PAGE + "?range=30d", PAGE + "figures/?format=json&range=30d", PAGE + "active/"):
        with CaptureQueriesContext(connections["control"]) as captured:
            page = html(client, address)
        assert unindexed(captured) == []
        assert len(captured) <= 41, address
        assert page.count('class="point') <= 180
