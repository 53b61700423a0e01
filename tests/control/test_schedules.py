"""When plans are due: changes and jumps of clocks, concurrent hosts, invalid plans."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from backups.jobs import queue, types
from backups.models import AuditEntry, Job, Plan
from backups.plans import cron as cron_times
from backups.plans import defaults, editing, scheduling
from backups.plans.cron_words import in_words
from tests.control.conftest import HOST, environment_of
from tests.library.places import ROOT


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(cron: str, zone: str, after: str, count: int) -> list[str]:
    place = ZoneInfo(zone)
    start = datetime.fromisoformat(after).replace(tzinfo=place)
    return [f"{time.astimezone(place):%m-%d %H:%M%z}" for time in cron_times.slots_after(cron, zone, start, count)]


EACH, HOWE = "0 * * * *", "Australia/Lord_Howe"

# Times


@pytest.mark.parametrize(
    ("zone", "after", "expected"),
    [
        # skipped: due when the hour ends, once
        ("Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("America/New_York", "2026-03-07T12:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
        ("Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30+1100", "10-05 02:30+1100"]),
        # repeated: due the first time, once
        ("Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("America/New_York", "2026-10-31T12:00", ["11-01 02:30-0500", "11-02 02:30-0500"]),
        ("Australia/Lord_Howe", "2026-04-04T12:00", ["04-05 02:30+1030", "04-06 02:30+1030"]),
    ],
)
def test_half_past_two_when_clocks_change(zone, after, expected):
    assert local("30 2 * * *", zone, after, 2) == expected


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:30-0400", "11-02 01:30-0500"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30+1100", "10-05 02:15+1100"]),
        # an interval goes on through the repeated hour, and skips the skipped one
        (EACH, "Europe/Berlin", "2026-10-25T01:30", ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]),
        (EACH, "Europe/Berlin", "2026-03-29T00:30", ["03-29 01:00+0100", "03-29 03:00+0200", "03-29 04:00+0200"]),
        (EACH, HOWE, "2026-04-05T00:30", ["04-05 01:00+1100", "04-05 02:00+1030", "04-05 03:00+1030"]),
        (
            "0 */2 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T23:30",
            ["04-05 00:00+1100", "04-05 02:00+1030", "04-05 04:00+1030"],
        ),
        (
            "*/30 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-05T00:30",
            ["04-05 01:00+1100", "04-05 01:30+1100", "04-05 01:30+1030"],
        ),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00", ["12-31 00:00+1400", "12-30 12:00+1400"]),  # a skipped day
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["02-29 00:00+0000", "02-29 00:00+0000"]),
        ("0 0 1 1 *", "Asia/Kathmandu", "2026-06-01T00:00", ["01-01 00:00+0545"]),
    ],
)
def test_times_around_changes(cron, zone, after, expected):
    assert local(cron, zone, after, len(expected)) == expected


def test_leap_days_are_four_years_apart_and_eight_around_2100():
    assert [time.year for time in cron_times.slots_after("0 0 29 2 *", "UTC", utc("2093-01-01"), 3)] == [2096, 2104, 2108]


CRONS = st.sampled_from(
    ["30 2 * * *", "0 * * * *", "*/20 * * * *", "0 */3 * * *", "15 1,2 * * *", "59 23 * * 0", "0 3 29 2 *", "*/30 1-2 * * *"]
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
)
# Around the clock changes of those zones in 2026, and anywhere
MOMENTS = st.one_of(
    st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]).flatmap(
        lambda day: st.integers(-30 * 60, 30 * 60).map(lambda minutes: utc(day) + timedelta(minutes=minutes))
    ),
    st.integers(0, 50 * 366 * 24 * 60).map(lambda minutes: utc("2000-01-01") + timedelta(minutes=minutes)),
)


@given(CRONS, ZONES, MOMENTS)
def test_slots_are_ordered_and_do_not_depend_on_the_start(cron, zone, moment):
    times = cron_times.slots_after(cron, zone, moment, 6)
    assert times[0] > moment and all(one < two for one, two in pairwise(times))
    for index, time in enumerate(times[:5]):
        assert cron_times.slots_after(cron, zone, time, 1) == [times[index + 1]]
        assert cron_times.slots_after(cron, zone, time - timedelta(microseconds=1), 1) == [time]


@given(CRONS, ZONES, MOMENTS, st.integers(0, 40), st.integers(0, 90))
def test_latest_slot_is_the_last_one_that_passed(cron, zone, after, hours, minutes):
    until = after + timedelta(hours=hours, minutes=minutes)
    passed = [time for time in cron_times.slots_after(cron, zone, after, 150) if time <= until]
    assert cron_times.latest_slot(cron, zone, after, until) == (passed[-1] if passed else None)


def test_downtime_of_years_is_searched_quickly():
    began = timezone.now()
    assert cron_times.latest_slot("* * * * *", "Europe/Berlin", utc("2010-01-01"), utc("2026-01-01")) == utc("2026-01-01")
    assert cron_times.latest_slot("0 0 29 2 *", "UTC", utc("1990-01-01"), utc("2026-01-01")) == utc("2024-02-29")
    assert (timezone.now() - began).total_seconds() < 2


@pytest.mark.parametrize(
    ("cron", "zone", "why"),
    [
        ("61 * * * *", "UTC", "bad minute"),
        ("0 3 * *", "UTC", "has 4 fields"),
        ("0 0 3 * * *", "UTC", "has 6 fields"),
        ("@daily", "UTC", "has 1 fields"),
        ("0 0 30 2 *", "UTC", "bad day-of-month"),
        ("", "UTC", "has 0 fields"),
        ("0 3 * * *", "Mars/Olympus", "there is no time zone 'Mars/Olympus'"),
        ("0 3 * * *", "../../etc/passwd", "there is no time zone"),
    ],
)
def test_invalid_cron_expressions_are_explained(cron, zone, why):
    assert why in cron_times.check(cron, zone)
    with pytest.raises(ValueError, match=why.split("'")[0]):
        cron_times.slots_after(cron, zone, utc("2026-01-01"), 1)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 * * * *", "Every hour"),
        ("10 * * * *", "Every hour at 10 minutes past"),
        ("1,31 * * * *", "Every hour at 1 and 31 minutes past"),
        ("0 3 * * *", "Every day at 03:00 UTC"),
        ("30 23 * * 0", "Sundays at 23:30 UTC"),
        ("30 23 * * 7", "Sundays at 23:30 UTC"),
        ("30 23 * * sun", "Sundays at 23:30 UTC"),
        ("0 3 * * 1,3,5", "Mondays, Wednesdays and Fridays at 03:00 UTC"),
        ("0 3 * * 1-5", "Monday to Friday at 03:00 UTC"),
        ("*/15 * * * *", "Every 15 minutes"),
        ("0 */6 * * *", "Every 6 hours (UTC)"),
        ("0 2,14 * * *", "Every day at 02:00 and 14:00 UTC"),
        ("5 3 1 * *", "The 1st of each month at 03:05 UTC"),
        ("0 0 29 2 *", "Every year on 29 February at 00:00 UTC"),
        ("0 0 13 * 5", "At 00:00, on day 13 of the month, or on Friday (UTC)"),
        ("0 0 * * 1#2", "The second Monday of each month at 00:00 UTC"),
        ("0 0 L * *", "The last day of each month at 00:00 UTC"),
        ("15 3 * * 6L", "The last Saturday of each month at 03:15 UTC"),
        ("0 3 1,15 * *", "The 1st and 15th of each month at 03:00 UTC"),
        ("0 3 * 3,6 *", "Every day in March and June at 03:00 UTC"),
        ("0 3 1 3,6 *", "The 1st of March and June at 03:00 UTC"),
        ("0 9-17 * * 1-5", "Every hour, between 09:00 and 17:59, Monday to Friday (UTC)"),
    ],
)
def test_cron_in_words(cron, words):
    assert in_words(cron, "UTC") == words
    assert in_words(cron) == words.removesuffix(" (UTC)").removesuffix(" UTC")
    assert in_words(cron, "Europe/Berlin") == words.replace("(UTC)", "UTC").replace("UTC", "(Europe/Berlin)")


def test_every_default_plan_has_words_and_due_times():
    for default in defaults.DEFAULTS:
        assert cron_times.check(default.cron, "UTC") == "" and in_words(default.cron, "UTC")


# Serving


@pytest.fixture
def plan(empty_site) -> Plan:
    return Plan.objects.create(name="hourly", kind="health", cron="0 * * * *", served=utc("2026-05-04T12:10"))


def served(plan: Plan) -> datetime:
    plan.refresh_from_db()
    return plan.served


def due(moment: str, host: str = HOST) -> list[datetime]:
    jobs = scheduling.queue_due(host, utc(moment))
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(state=Job.State.SUCCEEDED)
    return [job.slot for job in jobs]


@pytest.mark.slow
def test_slot_is_served_once(plan):
    assert due("2026-05-04T12:59") == []
    assert due("2026-05-04T13:00") == [utc("2026-05-04T13:00")]
    assert due("2026-05-04T13:00:59") == [] and due("2026-05-04T13:59") == []
    assert due("2026-05-04T14:00:03") == [utc("2026-05-04T14:00")]


def test_missed_slots_run_once(plan):
    assert due("2026-05-09T07:30") == [utc("2026-05-09T07:00")]
    assert due("2026-05-09T07:31") == []
    assert Job.objects.count() == 1
    missed = AuditEntry.objects.get(action="plan.missed", target="plan:hourly")
    assert missed.after["count"] > 100 and missed.after["until"].startswith("2026-05-09T06:00")


def test_paused_plan_skips_its_slots(plan, empty_site):
    editing.pause_plan(empty_site.actor, plan)
    assert due("2026-05-04T15:00") == []
    editing.resume_plan(empty_site.actor, plan)
    now = timezone.now()
    assert served(plan) >= now - timedelta(seconds=5)
    assert scheduling.queue_due(HOST, now) == []
    assert len(scheduling.queue_due(HOST, now + timedelta(hours=1))) == 1
    assert list(AuditEntry.objects.filter(target="plan:hourly").values_list("action", flat=True)) == [
        "plan.resumed",
        "plan.paused",
    ]


def test_slot_is_skipped_while_the_previous_job_runs(plan):
    (job,) = scheduling.queue_due(HOST, utc("2026-05-04T13:00"))
    assert scheduling.queue_due(HOST, utc("2026-05-04T14:00")) == []
    Job.objects.filter(pk=job.pk).update(state=Job.State.SUCCEEDED)
    assert scheduling.queue_due(HOST, utc("2026-05-04T14:01")) == [], "a skipped slot is not served later"
    assert due("2026-05-04T15:00") == [utc("2026-05-04T15:00")]


def test_clock_that_jumps_ahead_and_is_set_back(plan):
    assert due("2026-05-05T13:00") == [utc("2026-05-05T13:00")]  # a day ahead
    assert due("2026-05-04T13:00:30") == []  # set back: noticed
    assert due("2026-05-04T14:00") == [utc("2026-05-04T14:00")], "the hours in between are served"
    assert due("2026-05-05T12:00") == [utc("2026-05-05T12:00")]
    assert due("2026-05-05T13:00") == [], "it was served while the clock was wrong"
    assert due("2026-05-05T14:00") == [utc("2026-05-05T14:00")]
    slots = list(Job.objects.values_list("slot", flat=True))
    assert len(slots) == len(set(slots))


def test_clock_slightly_behind_is_not_a_jump(plan):
    assert due("2026-05-04T13:00") == [utc("2026-05-04T13:00")]
    assert due("2026-05-04T12:58") == [] and due("2026-05-04T13:01") == []
    assert served(plan) == utc("2026-05-04T13:00")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_daily_plan_runs_once_on_days_of_clock_changes(empty_site, day):
    start = utc(f"{day}T00:00") - timedelta(hours=4)
    Plan.objects.create(name="night", kind="health", cron="30 2 * * *", time_zone="Europe/Berlin", served=start)
    for minute in range(0, 12 * 60, 5):
        due((start + timedelta(minutes=minute)).replace(tzinfo=None).isoformat())
    assert Job.objects.count() == 1


def test_invalid_plan_does_not_stop_others(plan, caplog):
    since = utc("2026-05-04T12:10")
    Plan.objects.create(name="a-cron", kind="health", cron="99 * * * *", served=since)
    Plan.objects.create(name="a-zone", kind="health", cron=EACH, time_zone="Nowhere", served=since)
    Plan.objects.create(name="b-kind", kind="no_such_kind", cron=EACH, served=since)
    Plan.objects.create(name="c-arguments", kind="backup", arguments={"set": "nothing"}, cron=EACH, served=since)
    for minute in range(3):
        due(f"2026-05-04T13:0{minute}")
    assert [job.plan.name for job in Job.objects.all()] == ["hourly"]
    assert caplog.text.count("Plan a-cron is never due") == 1, "logged once, not every minute"
    refused = AuditEntry.objects.filter(action="plan.refused").order_by("target")
    assert [entry.target for entry in refused] == ["plan:b-kind", "plan:c-arguments"], "once a slot"
    assert "no_such_kind" in refused[0].after["error"]


def test_plan_of_another_host_is_not_queued(plan):
    Plan.objects.update(host="elsewhere")
    assert due("2026-05-04T13:00") == []
    assert due("2026-05-04T13:01", "elsewhere") == [utc("2026-05-04T13:00")]
    assert Job.objects.get().host == "elsewhere"


LOOK = """
import json, sys, time
from datetime import datetime
from backups.plans import scheduling
sys.stdin.readline()
jobs = []
for minute in range(30):
    jobs += scheduling.queue_due(sys.argv[1], datetime.fromisoformat(f"2026-05-04T13:{minute:02}:00+00:00"))
print(json.dumps([job.plan.name for job in jobs]))
"""


@pytest.mark.slow
def test_two_hosts_serve_each_slot_once(empty_site):
    names = [f"plan-{number}" for number in range(10)]
    for name in names:
        Plan.objects.create(name=name, kind="health", cron="*/30 * * * *", served=utc("2026-05-04T12:40"))
    command = [sys.executable, "-c", f"import django; django.setup()\n{LOOK}"]
    hosts = [
        subprocess.Popen(
            [*command, host],
            env={**environment_of(empty_site.places), "REFSERVER_HOST": host},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in ("one", "two", "three")
    ]
    said = []
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write("go\n")
        host.stdin.flush()
    for host in hosts:
        said += json.loads(host.communicate(timeout=60)[0])
    assert sorted(said) == sorted(names)
    assert Job.objects.count() == 10 and Job.objects.values("plan", "slot").distinct().count() == 10


# Default plans


def test_default_plans_are_made_once_and_keep_changes(empty_site):
    made = defaults.install()
    there = set(Plan.objects.values_list("name", flat=True))
    assert there == {
        default.name
        for default in defaults.DEFAULTS
        if default.kind in types.job_types() and default.arguments.get("repository", "main") == "main"
    }
    assert {"hourly-incremental", "daily-full", "weekly-full", "hourly-health", "weekly-drill", "daily-prune"} <= there
    assert set(made) == {*there, queue.tick_name(HOST)}
    Plan.objects.filter(name="daily-full").update(cron="0 4 * * *")
    assert defaults.install() == []
    assert Plan.objects.get(name="daily-full").cron == "0 4 * * *"
    for plan in Plan.objects.all():
        assert types.job_type(plan.kind).parse(plan.arguments)


def test_consistency_plan_is_made_once_its_job_type_exists(empty_site, settings, monkeypatch):
    defaults.install()
    known = types.job_types()
    if "check_consistency" not in known:
        assert not Plan.objects.filter(name="daily-consistency").exists()
        monkeypatch.setattr(defaults, "job_types", lambda: {**known, "check_consistency": known["health"]})
        assert defaults.install() == ["daily-consistency"]


@pytest.mark.slow
def test_order_of_default_plans_on_a_sunday(empty_site):
    defaults.install()
    monday = utc("2026-05-11T00:05")
    Plan.objects.update(served=utc("2026-05-10T00:05"))
    order: list[tuple[str, str]] = []
    moment = utc("2026-05-10T00:05")
    while moment < monday:
        moment += timedelta(minutes=5)
        queued = Job.objects.filter(pk__in=[job.pk for job in scheduling.queue_due(HOST, moment)])
        order += [(f"{moment:%H:%M}", job.plan.name) for job in queued.order_by("created")]
        queued.update(state=Job.State.SUCCEEDED)
    assert [name for time, name in order if time == "03:00"] == ["daily-full", "hourly-incremental"], (
        "the full backup is queued first"
    )
    assert [time for time, name in order if name == "weekly-full"] == ["23:30"]
    assert [time for time, name in order if name == "hourly-incremental" and time >= "23"][:1] == ["23:00"]
    assert sum(name == "hourly-incremental" for _, name in order) == 24
    busy = [time for time, name in order if name in ("daily-prune", "weekly-drill", "weekly-audit")]
    assert len(set(busy)) == 3 and all(not time.endswith(":00") for time in busy)
    writers = [time for time, name in order if name in ("daily-full", "weekly-full", "daily-control", "daily-prune")]
    assert len(writers) == len(set(writers)), "no two writers in the same minute"
