"""Alerts: transitions and conditions as tables, and properties that always hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.alerts import http, signature
from backups.alerts.transitions import AlertState, Event, Notification, QuietPeriod, Recipient, Rule, advance
from backups.monitoring.conditions import Observation, conditions
from backups.monitoring.facts import (
    BackupFact,
    Clock,
    Counts,
    DamagedBackup,
    Drills,
    Facts,
    FailingChannel,
    PlanFact,
    RepositoryFact,
    RunningJob,
    SetFact,
    WorkerFact,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MAIL, PAGER = Recipient(key="channel:1"), Recipient(key="channel:2")
DOWN = Observation(subject="nightly", text="It failed.")


class Course:
    """A rule that is evaluated minute after minute, and the notifications sent."""

    def __init__(self, rule: Rule, *others: Recipient) -> None:
        self.rule = rule
        self.others = others
        self.states: list[AlertState] = []
        self.sent: list[tuple[datetime, Notification]] = []
        self.now = NOW
        self._made = 0

    def step(self, *found: Observation, after: timedelta = MINUTE, blind: bool = False) -> list[tuple[str, str]]:
        """One evaluation; returns recipients and events."""
        self.now += after
        everybody = {one.key: one for one in (*self.rule.recipients, *self.rule.escalate_to, *self.others)}
        decisions = advance([self.rule], {self.rule.name: None if blind else found}, self.states, self.now, everybody)
        kept = []
        for decision in decisions:
            self.sent += [(self.now, one) for one in decision.notifications]
            if not decision.drop and decision.state.open:
                self._made += not decision.state.id
                kept.append(replace(decision.state, id=decision.state.id or str(self._made)))
        self.states = kept
        return [(one.recipient, one.event.value) for decision in decisions for one in decision.notifications]

    def acknowledge(self) -> None:
        self.states = [replace(state, acknowledged=True) for state in self.states]


def rule(**values) -> Rule:
    return Rule(**{"name": "plan-failed", "recipients": (MAIL,), **values})


def test_one_message_when_it_begins_none_while_it_lasts_one_when_it_ends():
    course = Course(rule())
    assert course.step() == []
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert [course.step(DOWN) for _ in range(5)] == [[]] * 5
    assert course.step(replace(DOWN, text="It failed twice.")) == []  # the text changes, the alert lasts
    assert course.step() == [("channel:1", "resolved")]
    assert course.step() == [] and course.states == []
    assert course.step(DOWN) == [("channel:1", "fired")]


def test_an_alert_fires_only_after_it_lasted():
    course = Course(rule(lasting=3 * MINUTE))
    assert [course.step(DOWN), course.step(DOWN), course.step(DOWN)] == [[], [], []]
    assert course.step(DOWN) == [("channel:1", "fired")]
    other = Course(rule(lasting=3 * MINUTE))
    for _ in range(5):
        assert other.step(DOWN) == other.step(DOWN) == other.step() == []
    assert other.states == []


def test_a_gap_in_evaluation_restarts_the_wait():
    course = Course(rule(lasting=5 * MINUTE))
    course.step(DOWN)
    assert course.step(DOWN, after=timedelta(hours=3)) == []
    assert course.step(DOWN, after=5 * MINUTE) == [("channel:1", "fired")]


def test_returning_within_the_settle_time_is_the_same_alert():
    course = Course(rule(settle=3 * MINUTE))
    assert course.step(DOWN) == [("channel:1", "fired")]
    for _ in range(4):
        assert course.step() == course.step() == course.step(DOWN) == []
    assert course.step() == course.step() == []
    assert course.step() == [("channel:1", "resolved")]


def test_a_failed_condition_changes_nothing():
    course = Course(rule())
    course.step(DOWN)
    assert [course.step(blind=True) for _ in range(3)] == [[]] * 3
    assert course.step() == [("channel:1", "resolved")]


def test_quiet_hours_delay_lasting_alerts_and_drop_short_ones():
    quiet = Recipient(key="channel:1", quiet=QuietPeriod(begin=time(22), end=time(7)))
    course = Course(rule(recipients=(quiet, PAGER)))
    course.now = datetime(2026, 11, 20, 23, 0, tzinfo=UTC)
    assert course.step(DOWN) == [("channel:2", "fired")]
    assert course.step() == [("channel:2", "resolved")]
    assert course.step(DOWN) == [("channel:2", "fired")]
    assert course.step(DOWN, after=timedelta(hours=7)) == []  # 06:03
    assert course.step(DOWN, after=timedelta(hours=1)) == [("channel:1", "fired")]
    assert course.step(DOWN, after=timedelta(hours=15)) == []  # 22:03
    assert course.step() == [("channel:2", "resolved")]
    assert course.step(after=timedelta(hours=8)) == []  # 06:04
    assert course.step(after=timedelta(hours=1)) == [("channel:1", "resolved")]
    assert course.states == []


@pytest.mark.parametrize(
    ("begin", "end", "zone", "moment", "severity", "passes", "quiet"),
    [
        ("22:00", "07:00", "UTC", "23:00", "warning", True, True),
        ("22:00", "07:00", "UTC", "06:59", "warning", True, True),
        ("22:00", "07:00", "UTC", "07:00", "warning", True, False),
        ("22:00", "07:00", "UTC", "21:59", "warning", True, False),
        ("12:00", "13:00", "UTC", "12:30", "warning", True, True),
        ("12:00", "13:00", "UTC", "13:00", "warning", True, False),
        ("22:00", "07:00", "Europe/Berlin", "21:30", "warning", True, True),  # 22:30 there
        ("22:00", "07:00", "America/New_York", "23:00", "warning", True, False),  # 18:00 there
        ("22:00", "07:00", "UTC", "23:00", "critical", True, False),
        ("22:00", "07:00", "UTC", "23:00", "critical", False, True),
        ("08:00", "08:00", "UTC", "08:00", "warning", True, False),
    ],
)
def test_quiet_hours(begin, end, zone, moment, severity, passes, quiet):
    hours = QuietPeriod(begin=time.fromisoformat(begin), end=time.fromisoformat(end), zone=zone, critical_passes=passes)
    at = datetime.combine(NOW.date(), time.fromisoformat(moment), UTC)
    assert hours.covers(at, severity) is quiet


def test_it_escalates_once_unless_acknowledged():
    escalating = rule(escalate_after=30 * MINUTE, escalate_to=(PAGER, MAIL))
    course = Course(escalating)
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert course.step(DOWN, after=29 * MINUTE) == []
    assert course.step(DOWN) == [("channel:2", "escalated")]  # no recipient is notified twice
    assert course.step(DOWN, after=timedelta(hours=5)) == []
    assert sorted(course.step()) == [("channel:1", "resolved"), ("channel:2", "resolved")]
    course = Course(escalating)
    course.step(DOWN)
    course.acknowledge()
    assert course.step(DOWN, after=timedelta(hours=5)) == []
    assert course.step() == [("channel:1", "resolved")]


def test_disabling_or_removing_a_rule_resolves_its_alerts():
    course = Course(rule())
    course.step(DOWN)
    course.rule = replace(course.rule, enabled=False)
    assert course.step(DOWN) == [("channel:1", "resolved")]
    course.rule = replace(course.rule, enabled=True)
    course.step(DOWN)
    decisions = advance([], {}, course.states, NOW, {"channel:1": MAIL})
    assert [decision.state.ended_by for decision in decisions] == ["The rule was removed."]
    assert decisions[0].notifications == (Notification(recipient="channel:1", event=Event.RESOLVED),)


def test_a_removed_recipient_gets_nothing():
    course = Course(rule(recipients=(MAIL, PAGER)))
    course.step(DOWN)
    course.rule = replace(course.rule, recipients=(PAGER,))
    assert course.step() == [("channel:2", "resolved")]
    assert course.states == []


def test_setting_the_clock_back_neither_fires_nor_resolves():
    course = Course(rule(lasting=10 * MINUTE, settle=10 * MINUTE))
    course.step(DOWN)
    assert course.step(DOWN, after=-timedelta(days=1)) == []
    assert [course.step(DOWN) for _ in range(9)] == [[]] * 9
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert course.step(after=-timedelta(days=1)) == []
    assert course.step(after=11 * MINUTE) == [("channel:1", "resolved")]


def test_addresses_of_an_observation_are_notified():
    course = Course(rule(), Recipient(key="mail:anna@example.org"))
    sent = course.step(replace(DOWN, also=("anna@example.org",)))
    assert sent == [("channel:1", "fired"), ("mail:anna@example.org", "fired")]
    assert len(course.step()) == 2


SUBJECTS = ("a", "b", "")
_quiet = st.none() | st.builds(
    QuietPeriod, begin=st.times(), end=st.times(), zone=st.sampled_from(["UTC", "Asia/Kolkata"]), critical_passes=st.booleans()
)
_looks = st.lists(
    st.tuples(
        st.none() | st.frozensets(st.sampled_from(SUBJECTS)),
        st.sampled_from([0, 1, 1, 1, 2, 30, 600]),
        st.booleans() | st.just(False),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    looks=_looks,
    quiet=_quiet,
    severity=st.sampled_from(["info", "warning", "critical"]),
    lasting=st.integers(0, 5),
    settle=st.integers(0, 5),
    escalate=st.none() | st.integers(1, 60),
)
def test_no_recipient_is_notified_twice_and_all_of_the_end(looks, quiet, severity, lasting, settle, escalate):
    course = Course(
        rule(
            severity=severity,
            lasting=lasting * MINUTE,
            settle=settle * MINUTE,
            recipients=(Recipient(key="channel:1", quiet=quiet), PAGER),
            escalate_after=escalate * MINUTE if escalate else None,
            escalate_to=(Recipient(key="channel:3"),),
        )
    )
    received: dict[str, list[str]] = {}
    for subjects, minutes, acknowledged in looks:
        before = {state.observation.subject: state for state in course.states if state.resolved is None}
        found = tuple(Observation(subject=subject, text="x") for subject in subjects or ())
        course.step(*found, after=minutes * MINUTE, blind=subjects is None)
        lasting_now = [state.observation.subject for state in course.states if state.resolved is None]
        assert len(lasting_now) == len(set(lasting_now)), "one state of a subject at a time"
        for subject in lasting_now:
            state = next(s for s in course.states if s.observation.subject == subject and s.resolved is None)
            if state.fired is not None and (subject not in before or before[subject].fired is None):
                assert state.fired - state.since >= lasting * MINUTE, "it lasted before it fired"
        if quiet is not None and quiet.covers(course.now, severity):
            assert all(one.recipient != "channel:1" for at, one in course.sent if at == course.now and minutes)
        count = len(course.sent)
        course.step(*found, after=timedelta(0), blind=subjects is None)
        assert len(course.sent) == count, "evaluating again sends nothing"
        if acknowledged:
            course.acknowledge()
    for hours in range(1, 26):  # past every quiet hour
        course.step(after=timedelta(hours=1, minutes=hours))
    assert course.states == [] or quiet is not None
    for _, one in course.sent:
        received.setdefault(one.recipient, []).append(one.event.value)
    for events in received.values():
        begun = sum(event in ("fired", "escalated") for event in events)
        assert events.count("resolved") <= begun
        if course.states == []:
            assert events.count("resolved") == begun, "every recipient was notified of the end"


# Conditions: from facts alone


def facts(**values) -> Facts:
    return Facts(now=NOW, host="h1", **values)


def backup(minutes: float, **values) -> BackupFact:
    return BackupFact(id="20261120T110000Z-full-aaaaaa", kind="full", time=NOW - minutes * MINUTE, **values)


def found(kind: str, known: Facts, threshold: float | None = None) -> list[str]:
    condition = conditions()[kind]
    return [one.text for one in condition.find(known, condition.default if threshold is None else threshold)]


GB = 1_000_000_000


def plan(failed: int = 0, **values) -> dict[str, object]:
    return {"plans": (PlanFact(name="p", title="Nightly", kind="backup", failed_in_a_row=failed, **values),)}


def of_set(**values) -> dict[str, object]:
    return {"sets": (SetFact(name="default", **values),)}


def beat(**ago: float) -> dict[str, object]:
    return {"workers": (WorkerFact(host="h2", beat=NOW - timedelta(**ago)),)}


def clock(**values) -> dict[str, object]:
    return {"clocks": (Clock(host="h1", **values),)}


def silent(begin: int, end: int) -> dict[str, object]:
    return clock(silent_from=NOW - begin * MINUTE, silent_until=NOW - end * MINUTE)


def running(seconds: float, usual: float | None) -> dict[str, object]:
    return {"running": (RunningJob(id="j", kind="backup", set="default", seconds=seconds, usual=usual),)}


def failing_channel(**values) -> dict[str, object]:
    return {"failing_channels": (FailingChannel(name="ops", id=1, **values),)}


def disk(free: int = 0, **values) -> dict[str, object]:
    values = {"size": 100 * GB} | values
    return {"repositories": (RepositoryFact(name="main", free=free * GB, **values),)}


@pytest.mark.parametrize(
    ("kind", "known", "threshold", "said"),
    [
        ("plan_failed", plan(), 1, ""),
        ("plan_failed", plan(1, message="Disk full."), 1, "Nightly failed: Disk full."),
        ("plan_failed", plan(2), 3, ""),
        ("plan_failed", plan(3), 3, "3 times in a row"),
        ("plan_failed", plan(2, alert_after=3), 1, ""),
        ("no_proven_backup", of_set(proven=backup(74)), 1.25, ""),
        ("no_proven_backup", of_set(proven=backup(76)), 1.25, "No proven backup for 1.3 h (target: 1 h)"),
        ("no_proven_backup", of_set(), 1.25, "No backup yet."),
        ("unproven", of_set(newest=backup(100)), 90, "is not proven"),
        ("unproven", of_set(newest=backup(100, verification="hashes")), 90, ""),
        ("unproven", of_set(newest=backup(80)), 90, ""),
        (
            "damage",
            {"damaged": (DamagedBackup(id="b1", set="default", problem="Block gone."),), "counts": Counts(damaged=1)},
            0,
            "Block gone.",
        ),
        ("worker_silent", beat(minutes=4), 5, ""),
        ("worker_silent", beat(minutes=6), 5, "The worker on h2 has not reported for 6 min; no jobs run there."),
        ("worker_silent", beat(days=8), 5, ""),
        ("worker_silent", silent(90, 30), 5, "did not run for 1 h"),
        ("worker_silent", silent(190, 61), 5, ""),
        ("job_slow", running(4000, usual=900), 4, "usual: 15 min"),
        ("job_slow", running(3500, usual=900), 4, ""),
        ("job_slow", running(290, usual=1), 4, ""),
        ("job_slow", running(9999, usual=None), 4, ""),
        ("repository_away", disk(there=False), 0, "is not available"),
        ("space", disk(9), 10, "nearly full: 9"),
        ("space", disk(11), 10, ""),
        ("space", disk(size=0), 10, ""),
        ("full_soon", disk(13, grown_a_day=GB), 14, "full in about 13 days"),
        ("full_soon", disk(15, grown_a_day=GB), 14, ""),
        ("drill_overdue", {"drills": Drills(last_good=NOW - timedelta(days=9))}, 8, "9 days ago"),
        ("drill_overdue", {"drills": Drills(last_good=NOW - timedelta(days=7))}, 8, ""),
        ("drill_overdue", {"drills": Drills(could_be_since=NOW - timedelta(days=9))}, 8, "No drill has ever been run."),
        ("drill_overdue", {}, 8, ""),
        ("drill_failed", {"drills": Drills(failed=NOW, failed_job="j", message="A row is gone.")}, 0, "A row is gone."),
        ("clock_jumped", clock(jumped=NOW - MINUTE, jumped_by=-7200.0), 120, "jumped back by 2 h"),
        ("clock_jumped", clock(jumped=NOW - MINUTE, jumped_by=60.0), 120, ""),
        (
            "channel_unheard",
            {"failing_channels": (FailingChannel(name="ops", id=1, count=1, answer="404"),)},
            1,
            "to ops fail: 404",
        ),
        ("detector_broken", {"broken": {"papers": "KeyError: 'x'"}}, 0, "papers failed"),
    ],
)
def test_conditions(kind, known, threshold, said):
    texts = found(kind, facts(**known), threshold)
    assert (said in " ".join(texts)) if said else texts == []


def test_damaged_backups_are_listed_up_to_a_limit():
    damaged = tuple(DamagedBackup(id=f"b{n}", set="default", problem="") for n in range(3))
    assert found("damage", facts(damaged=damaged, counts=Counts(damaged=8)))[-1] == "5 more backups are damaged."


# Where requests may go, and how they are signed


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("file:///etc/passwd", "https"),
        ("gopher://h/x", "https"),
        ("ftp://h/x", "https"),
        ("//host/x", "https"),
        ("https://", "no host"),
        ("https://me:secret@host/", "password"),
        ("https://host/a b", "no host"),
        ("https://host/\r\nX: y", "no host"),
        ("https://h\u00f6st/", "ASCII"),
        ("http://169.254.169.254/latest/meta-data", "no receiver can be"),
        ("http://[fe80::1]/", "no receiver can be"),
        ("http://[::ffff:169.254.169.254]/", "no receiver can be"),
        ("http://0.0.0.0/", "no receiver can be"),
        ("http://[::]/", "no receiver can be"),
        ("http://224.0.0.1/", "no receiver can be"),
        ("http://255.255.255.255/", "no receiver can be"),
        ("http://100.100.100.200/", "no receiver can be"),
        ("http://[fd00:ec2::254]/", "no receiver can be"),
        ("http://host:99999/", "not an address"),
        ("http://host:0/", "Port 0"),
    ],
)
def test_refused_addresses(address, why):
    with pytest.raises(http.Refused, match=why):
        http.check(address)


@pytest.mark.parametrize(
    "address", ["https://hooks.slack.com/services/T/B/x", "http://192.88.98.9/", "http://[2606:4700::1111]/"]
)
def test_allowed_addresses(address):
    assert http.check(address).hostname


def test_addresses_are_masked():
    address = "https://hooks.slack.com/services/T0000/B0000/abcdefghijkl?key=topsecret"
    assert http.masked(address) == "https://hooks.slack.com/…cret"
    assert http.masked("https://host/short") == "https://host/…"
    kept = http.without_secret("no such path /services/T0000/B0000/abcdefghijkl, key=topsecret", address)
    assert "abcdefghijkl" not in kept and "topsecret" not in kept


def test_signing_keys():
    assert len(signature.key_bytes(signature.new_key())) == 32
    for wrong in ("whsec_kurz", "whsec_***", "whsec_" + "QUJD" * 3):
        with pytest.raises(ValueError):
            signature.key_bytes(wrong)
