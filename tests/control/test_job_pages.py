"""The pages of jobs: the list, one job with its result and log, cancelling and running again."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.admin.jobs import LINES, PAGE
from backups.jobs import lifecycle, submit
from backups.models import Job, JobLog, Plan
from tests.control.many import many, unindexed

pytestmark = pytest.mark.slow

LIST = "/admin/backup/jobs/"
LINK = re.compile(r'href="/admin/backup/jobs/([0-9a-f-]{36})/"')


def html(client: Client, address: str = LIST) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def listed(page: str) -> list[str]:
    return list(dict.fromkeys(LINK.findall(page)))


def made(number: int = 0, **values) -> Job:
    moment = timezone.now() - timedelta(minutes=number)
    ended = {"started": moment, "finished": moment + timedelta(seconds=4)}
    values = {"kind": "backup", "state": "succeeded", "created": moment, "host": "test-host", **ended, **values}
    return Job.objects.create(**values)


def wrote(job: Job, *lines: str, level: str = "info") -> None:
    JobLog.objects.bulk_create(JobLog(job=job, time=timezone.now(), level=level, line=line) for line in lines)


def test_empty_state(site):
    page = html(site.client("vera", "viewer"))
    assert "There are no jobs yet." in page and "No jobs are running or queued." in page


def test_filters(site):
    plan = Plan.objects.create(name="nightly", title="Every night", kind="backup", cron="0 3 * * *")
    by_plan = made(1, via="plan", by="nightly", plan=plan)
    failed = made(2, state="failed", error={"code": "no_space", "message": "The disk is full.", "hint": "Free some."})
    checked = made(3, kind="verify", via="pages", by="ada", note="before the upgrade", backup_id="20261121T030000Z-full-3f9c2a")
    client = site.client("vera", "viewer")
    for query, expected in {
        "": [by_plan, failed, checked],
        "?state=failed": [failed],
        "?kind=verify": [checked],
        "?via=plan": [by_plan],
        "?plan=nightly": [by_plan],
        "?plan=none-such": [],
        "?q=disk is": [failed],
        "?q=UPGRADE": [checked],
        "?q=20261121T030000Z-full-3f9c2a": [checked],
        f"?q={failed.pk}": [failed],
        "?q=upgrade&state=failed": [],
        "?state=no-such-state": [by_plan, failed, checked],
    }.items():
        assert listed(html(client, LIST + query)) == [str(job.pk) for job in expected], query
    page = html(client)
    assert "The disk is full." in page and "Every night" in page and "before the upgrade" in page
    assert "No jobs match" in html(client, LIST + "?q=nothing")


def test_list_pages_in_both_directions(site):
    same = timezone.now()
    every = [made(number).pk for number in range(PAGE + 20)] + [made(created=same - timedelta(days=1)).pk for _ in range(PAGE)]
    client, seen, address = site.client("vera", "viewer"), [], LIST
    for _ in range(3):
        page = html(client, address)
        seen += listed(page)
        older = re.search(r'href="(\?[^"]+)" rel="next"', page)
        address = LIST + older[1].replace("&amp;", "&") if older else ""
    assert not address and len(seen) == len(set(seen)) == len(every)
    newer = re.search(r'href="(\?[^"]+)" rel="prev"', page)
    assert listed(html(client, LIST + newer[1].replace("&amp;", "&"))) == seen[PAGE : 2 * PAGE]
    assert listed(html(client, LIST + "?before=nonsense")) == seen[:PAGE]


def test_results_of_jobs(site):
    client = site.client("ada", superuser=True)
    backup = site.done(submit.back_up(site.actor, backup="full", note="by hand"))
    page = html(client, backup.get_absolute_url())
    for text in ("restore-tested", "Writers were paused for", "by hand", "refserver", "Check refserver.sqlite3"):
        assert text in page, text
    assert f"/admin/backup/backups/{backup.backup_id}/" in page

    restored = site.done(submit.restore_to_folder(site.actor, backup_id=backup.backup_id, folder="look"))
    page = html(client, restored.get_absolute_url())
    assert "library_paper" in page and "papers" in page and "restored to" in page
    again = site.done(submit.restore_to_folder(site.actor, backup_id=backup.backup_id, folder="look"))
    assert "Choose an empty or new folder. Nothing was written." in html(client, again.get_absolute_url())

    pruned = site.done(submit.prune(site.actor, keep_last=1, dry_run=True))
    page = html(client, pruned.get_absolute_url())
    assert "Dry run: nothing was removed." in page and "newest good backup" in page

    data = site.repository.backup_folder("default", backup.backup_id) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x55
    data.write_bytes(content)
    damaged = site.done(submit.verify(site.actor, everything=True))
    page = html(client, damaged.get_absolute_url())
    assert "<strong>Failed:</strong>" in page and "Damaged" in page and "rb-problems" in page


def test_result_without_template_is_shown_as_json(site):
    job = made(kind="thumbnails", result={"drawn": 12})
    page = html(site.client("vera", "viewer"), job.get_absolute_url())
    assert "thumbnails" in page and "&quot;drawn&quot;: 12" in page and "Run again" not in page
    older = made(kind="backup", result={"id": "x"})  # lacks values that the template needs
    assert "Result as JSON" in html(site.client("vic", "viewer"), older.get_absolute_url())


def test_attempts_are_linked(site):
    first = made(state="failed", attempts=3, error={"code": "source_busy", "message": "A lock.", "hint": "Wait."})
    second = made(state="queued", attempt=2, attempts=3, again_after=first, started=None, finished=None)
    Job.objects.filter(pk=second.pk).update(not_before=timezone.now() + timedelta(minutes=2))
    client = site.client("vera", "viewer")
    assert str(second.pk) in html(client, first.get_absolute_url())
    page = html(client, second.get_absolute_url())
    assert str(first.pk) in page and "Queued:</strong> the worker has not started yet" in page  # no heartbeat yet
    site.work()
    assert "for attempt 2 of 3, in 2 min" in html(client, second.get_absolute_url())


def test_cancel_and_run_again_require_permission(site):
    job = submit.back_up(site.actor, backup="full", note="by hand")
    viewer, operator = site.client("vera", "viewer"), site.client("olga", "operator")
    assert ">Cancel</button>" not in html(viewer, job.get_absolute_url())
    assert viewer.post(job.get_absolute_url() + "cancel/").status_code == 403
    assert operator.get(job.get_absolute_url() + "cancel/").status_code == 405
    answer = operator.post(job.get_absolute_url() + "cancel/", {"next": "https://elsewhere.example/"})
    assert answer.headers["Location"] == job.get_absolute_url()
    job.refresh_from_db()
    assert (job.state, job.cancel_by) == (Job.State.CANCELLED, "olga")
    assert operator.post(job.get_absolute_url() + "cancel/", {"next": "/admin/backup/"}).headers["Location"] == "/admin/backup/"

    assert viewer.post(job.get_absolute_url() + "again/").status_code == 403
    answer = operator.post(job.get_absolute_url() + "again/")
    fresh = Job.objects.exclude(pk=job.pk).get()
    assert answer.headers["Location"] == fresh.get_absolute_url()
    assert (fresh.arguments, fresh.note, fresh.by) == (job.arguments, "by hand", "olga")
    in_place = made(kind="restore_in_place")
    assert site.client("ada", superuser=True).post(in_place.get_absolute_url() + "again/").status_code == 403


def test_running_job_sends_changes_and_then_the_whole_page(site):
    asked = submit.back_up(site.actor, backup="full")
    job = lifecycle.claim("test-host", "me")
    assert job == asked
    begun = timezone.now().isoformat()
    lifecycle.beat(job, phase="cut", phases=[{"name": "cut", "started": begun, "seconds": None, "done": 0, "total": None}])
    wrote(job, "first", "second")
    client = site.client("olga", "operator")
    page = html(client, job.get_absolute_url())
    assert "<strong>Running:</strong> Cut." in page and "first" in page
    poll = re.search(r'id="job-poll" hx-get="([^"]+)"', page)[1].replace("&amp;", "&")
    assert "first" not in html(client, poll)
    wrote(job, "third")
    part = html(client, poll)
    assert "beforeend:#log-lines" in part and "third" in part and "second" not in part and "<form" not in part
    following = re.search(r'id="job-poll" hx-get="([^"]+)"', part)[1].replace("&amp;", "&")
    assert "third" not in html(client, following)
    lifecycle.end(job, Job.State.FAILED, error={"code": "no_space", "message": "The disk is full.", "hint": "Free space."})
    answer = client.get(following)
    assert (answer.headers["HX-Retarget"], answer.headers["HX-Reswap"]) == ("#job", "outerHTML")
    assert "Free space." in answer.content.decode() and "job-poll" not in answer.content.decode()


def test_log_filters_search_pages_and_download(site):
    job = made()
    wrote(job, *(f"line {number}" for number in range(LINES + 30)))
    wrote(job, "low on <space>", level="warning")
    wrote(job, "DAMAGED", level="error")
    wrote(made(), "of another job")
    client = site.client("vera", "viewer")
    address = job.get_absolute_url()
    page = html(client, address)
    assert page.count("<li class=") == LINES and "low on &lt;space&gt;" in page and "of another job" not in page
    earlier = re.search(r'href="([^"]+before=\d+)#log"', page)[1].replace("&amp;", "&")
    rest = html(client, earlier)
    assert rest.count("<li class=") == 32 and ">line 0<" in rest.replace("</time>", ">")
    assert html(client, address + "?level=warning").count("<li class=") == 2
    assert html(client, address + "?level=error").count("<li class=") == 1
    assert html(client, address + "?q=line 22").count("<li class=") == 11
    assert "No lines match." in html(client, address + "?q=nothing")
    assert html(client, address + "?level=odd&before=x").count("<li class=") == LINES
    answer = client.get(address + "log/")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="backup-{job.pk}.log"'
    text = b"".join(answer.streaming_content).decode()
    assert text.count("\n") == LINES + 32 and text.endswith("error   DAMAGED\n")


def test_missing_job(site):
    answer = site.client("vera", "viewer").get(f"{LIST}00000000-0000-0000-0000-000000000000/")
    assert answer.status_code == 404


@pytest.fixture(scope="module")
def queries() -> tuple[str, ...]:
    filters = (
        "state=failed",
        "state=running",
        "kind=verify",
        "kind=prune",
        "via=command",
        "q=lock",
        "q=nothing",
        "plan=hourly",
    )
    return ("", *(f"?{one}" for one in filters), "?before=2026-01-01T00:00:00%2B00:00_00000000000000000000000000000000")


def test_million_lines_and_100_000_jobs_are_read_by_key(empty_site, queries):
    newest = many(jobs=100_000, lines=1_000_000)
    Plan.objects.create(name="hourly", kind="backup", cron="0 * * * *")
    client = empty_site.client("ada", superuser=True)
    job = f"{LIST}{newest[:8]}-{newest[8:12]}-{newest[12:16]}-{newest[16:20]}-{newest[20:]}/"
    pages = [LIST + query for query in queries]
    pages += [job, job + "?level=error", job + "?q=block 7", job + "?before=500", job + "live/?state=succeeded&after=10"]
    html(client, LIST)  # reads the conditions behind the badges, which later pages do not read again for some seconds
    for address in pages:
        with CaptureQueriesContext(connections["control"]) as captured:
            html(client, address)
        assert unindexed(captured) == [], address
        assert len(captured) <= 16, address
