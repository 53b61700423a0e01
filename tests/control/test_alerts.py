"""What is decided about alerts: tables, and properties that hold whatever happens."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.alerts import http, signature
from backups.alerts import transitions as deciding
from backups.alerts.detectors import detectors
from backups.alerts.facts import Clock, Damaged, Drills, Facts, PlanRuns, Running, Unheard
from backups.alerts.transitions import Detection, Event, Quiet, Recipient, Rule, State, Tell
from backups.monitoring import facts as verdict_facts
from backups.monitoring.facts import BackupFact, RepositoryFact, SetFact, WorkerFact

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MAIL, PAGER = Recipient(key="channel:1"), Recipient(key="channel:2")
DOWN = Detection(subject="nightly", text="It failed.")


class Course:
    """A rule that is evaluated minute after minute, and what was told."""

    def __init__(self, rule: Rule, *others: Recipient) -> None:
        self.rule = rule
        self.others = others
        self.states: list[State] = []
        self.told: list[tuple[datetime, Tell]] = []
        self.now = NOW
        self._made = 0

    def step(self, *found: Detection, after: timedelta = MINUTE, blind: bool = False) -> list[tuple[str, str]]:
        """One look; returns who was told what."""
        self.now += after
        everybody = {one.key: one for one in (*self.rule.recipients, *self.rule.escalate_to, *self.others)}
        decisions = deciding.evaluate([self.rule], {self.rule.name: None if blind else found}, self.states, self.now, everybody)
        kept = []
        for decision in decisions:
            self.told += [(self.now, tell) for tell in decision.tells]
            if not decision.drop and decision.state.open:
                self._made += not decision.state.id
                kept.append(replace(decision.state, id=decision.state.id or str(self._made)))
        self.states = kept
        return [(tell.recipient, tell.event.value) for decision in decisions for tell in decision.tells]

    def acknowledge(self) -> None:
        self.states = [replace(state, acknowledged=True) for state in self.states]


def rule(**values) -> Rule:
    return Rule(**{"name": "plan-failed", "recipients": (MAIL,), **values})


def test_one_message_when_it_begins_none_while_it_lasts_one_when_it_ends():
    course = Course(rule())
    assert course.step() == []
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert [course.step(DOWN) for _ in range(5)] == [[]] * 5
    assert course.step(replace(DOWN, text="It failed twice.")) == []  # the words change, the state lasts
    assert course.step() == [("channel:1", "resolved")]
    assert course.step() == [] and course.states == []
    assert course.step(DOWN) == [("channel:1", "fired")]


def test_it_must_last_before_it_fires_and_is_forgotten_when_it_does_not():
    course = Course(rule(lasting=3 * MINUTE))
    assert [course.step(DOWN), course.step(DOWN), course.step(DOWN)] == [[], [], []]
    assert course.step(DOWN) == [("channel:1", "fired")]
    other = Course(rule(lasting=3 * MINUTE))
    for _ in range(5):
        assert other.step(DOWN) == other.step(DOWN) == other.step() == []
    assert other.states == []


def test_what_nobody_looked_at_for_long_did_not_last():
    course = Course(rule(lasting=5 * MINUTE))
    course.step(DOWN)
    assert course.step(DOWN, after=timedelta(hours=3)) == []
    assert course.step(DOWN, after=5 * MINUTE) == [("channel:1", "fired")]


def test_coming_back_before_it_settled_is_the_same_state():
    course = Course(rule(settle=3 * MINUTE))
    assert course.step(DOWN) == [("channel:1", "fired")]
    for _ in range(4):
        assert course.step() == course.step() == course.step(DOWN) == []
    assert course.step() == course.step() == []
    assert course.step() == [("channel:1", "resolved")]


def test_who_cannot_look_changes_nothing():
    course = Course(rule())
    course.step(DOWN)
    assert [course.step(blind=True) for _ in range(3)] == [[]] * 3
    assert course.step() == [("channel:1", "resolved")]


def test_quiet_hours_put_off_what_lasts_and_swallow_what_does_not():
    quiet = Recipient(key="channel:1", quiet=Quiet(begin=time(22), end=time(7)))
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
    hours = Quiet(begin=time.fromisoformat(begin), end=time.fromisoformat(end), zone=zone, critical_passes=passes)
    at = datetime.combine(NOW.date(), time.fromisoformat(moment), UTC)
    assert hours.holds(at, severity) is quiet


def test_it_escalates_once_unless_somebody_takes_care():
    escalating = rule(escalate_after=30 * MINUTE, escalate_to=(PAGER, MAIL))
    course = Course(escalating)
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert course.step(DOWN, after=29 * MINUTE) == []
    assert course.step(DOWN) == [("channel:2", "escalated")]  # who knows is not told again
    assert course.step(DOWN, after=timedelta(hours=5)) == []
    assert sorted(course.step()) == [("channel:1", "resolved"), ("channel:2", "resolved")]
    course = Course(escalating)
    course.step(DOWN)
    course.acknowledge()
    assert course.step(DOWN, after=timedelta(hours=5)) == []
    assert course.step() == [("channel:1", "resolved")]


def test_a_rule_that_is_switched_off_or_gone_ends_what_it_told():
    course = Course(rule())
    course.step(DOWN)
    course.rule = replace(course.rule, enabled=False)
    assert course.step(DOWN) == [("channel:1", "resolved")]
    course.rule = replace(course.rule, enabled=True)
    course.step(DOWN)
    decisions = deciding.evaluate([], {}, course.states, NOW, {"channel:1": MAIL})
    assert [decision.state.ended_by for decision in decisions] == ["The rule was removed."]
    assert decisions[0].tells == (Tell(recipient="channel:1", event=Event.RESOLVED),)


def test_a_recipient_that_is_gone_is_owed_nothing():
    course = Course(rule(recipients=(MAIL, PAGER)))
    course.step(DOWN)
    course.rule = replace(course.rule, recipients=(PAGER,))
    assert course.step() == [("channel:2", "resolved")]
    assert course.states == []


def test_a_clock_that_is_set_back_neither_fires_nor_ends_by_itself():
    course = Course(rule(lasting=10 * MINUTE, settle=10 * MINUTE))
    course.step(DOWN)
    assert course.step(DOWN, after=-timedelta(days=1)) == []
    assert [course.step(DOWN) for _ in range(9)] == [[]] * 9
    assert course.step(DOWN) == [("channel:1", "fired")]
    assert course.step(after=-timedelta(days=1)) == []
    assert course.step(after=11 * MINUTE) == [("channel:1", "resolved")]


def test_addresses_of_a_detection_hear_too():
    course = Course(rule(), Recipient(key="mail:anna@example.org"))
    told = course.step(replace(DOWN, also=("anna@example.org",)))
    assert told == [("channel:1", "fired"), ("mail:anna@example.org", "fired")]
    assert len(course.step()) == 2


SUBJECTS = ("a", "b", "")
_quiet = st.none() | st.builds(
    Quiet, begin=st.times(), end=st.times(), zone=st.sampled_from(["UTC", "Asia/Kolkata"]), critical_passes=st.booleans()
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
def test_whatever_happens_nobody_hears_twice_and_everybody_hears_the_end(looks, quiet, severity, lasting, settle, escalate):
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
    heard: dict[tuple[str, str, str], list[str]] = {}
    for subjects, minutes, acknowledged in looks:
        before = {state.detection.subject: state for state in course.states if state.resolved is None}
        found = tuple(Detection(subject=subject, text="x") for subject in subjects or ())
        course.step(*found, after=minutes * MINUTE, blind=subjects is None)
        lasting_now = [state.detection.subject for state in course.states if state.resolved is None]
        assert len(lasting_now) == len(set(lasting_now)), "one state of a subject at a time"
        for subject in lasting_now:
            state = next(s for s in course.states if s.detection.subject == subject and s.resolved is None)
            if state.fired is not None and (subject not in before or before[subject].fired is None):
                assert state.fired - state.since >= lasting * MINUTE, "it lasted before it fired"
        if quiet is not None and quiet.holds(course.now, severity):
            assert all(tell.recipient != "channel:1" for at, tell in course.told if at == course.now and minutes)
        told = len(course.told)
        course.step(*found, after=timedelta(0), blind=subjects is None)
        assert len(course.told) == told, "looking again tells nothing"
        if acknowledged:
            course.acknowledge()
    for hours in range(1, 26):  # past every quiet hour
        course.step(after=timedelta(hours=1, minutes=hours))
    assert course.states == [] or quiet is not None
    for _, tell in course.told:
        heard.setdefault((tell.recipient, "", ""), []).append(tell.event.value)
    for events in heard.values():
        begun = sum(event in ("fired", "escalated") for event in events)
        assert events.count("resolved") <= begun
        if course.states == []:
            assert events.count("resolved") == begun, "whoever heard of it heard of its end"


# Detectors: what is the case, from facts alone


def facts(**values) -> Facts:
    known = {name: values.pop(name) for name in ("sets", "repositories", "workers", "counts") if name in values}
    return Facts(now=NOW, verdict=verdict_facts.Facts(host="h1", **known), **values)


def backup(minutes: float, **values) -> BackupFact:
    return BackupFact(id="20261120T110000Z-full-aaaaaa", kind="full", time=NOW - minutes * MINUTE, **values)


def found(kind: str, known: Facts, threshold: float | None = None) -> list[str]:
    detector = detectors()[kind]
    return [one.text for one in detector.find(known, detector.default if threshold is None else threshold)]


GB = 1_000_000_000


def plan(failed: int = 0, **values) -> dict[str, object]:
    return {"plans": (PlanRuns(name="p", title="Nightly", failed_in_a_row=failed, **values),)}


def of_set(**values) -> dict[str, object]:
    return {"sets": (SetFact(name="default", **values),)}


def beat(**ago: float) -> dict[str, object]:
    return {"workers": (WorkerFact(host="h2", beat=NOW - timedelta(**ago)),)}


def clock(**values) -> dict[str, object]:
    return {"clocks": (Clock(host="h1", **values),)}


def silent(begin: int, end: int) -> dict[str, object]:
    return clock(silent_from=NOW - begin * MINUTE, silent_until=NOW - end * MINUTE)


def running(seconds: float, usual: float | None) -> dict[str, object]:
    return {"running": (Running(id="j", kind="backup", set="default", seconds=seconds, usual=usual),)}


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
        ("no_proven_backup", of_set(proven=backup(76)), 1.25, "No proven backup for 1.3 h; 1 h are promised"),
        ("no_proven_backup", of_set(), 1.25, "no proven backup"),
        ("unproven", of_set(newest=backup(100)), 90, "is not proven"),
        ("unproven", of_set(newest=backup(100, verification="hashes")), 90, ""),
        ("unproven", of_set(newest=backup(80)), 90, ""),
        (
            "damage",
            {"damaged": (Damaged(id="b1", set="default", problem="Block gone."),), "damaged_count": 1},
            0,
            "Block gone.",
        ),
        ("worker_silent", beat(minutes=4), 5, ""),
        ("worker_silent", beat(minutes=6), 5, "silent for 6 min"),
        ("worker_silent", beat(days=8), 5, ""),
        ("worker_silent", silent(90, 30), 5, "did nothing for 1 h"),
        ("worker_silent", silent(190, 61), 5, ""),
        ("job_slow", running(4000, usual=900), 4, "15 min are usual"),
        ("job_slow", running(3500, usual=900), 4, ""),
        ("job_slow", running(290, usual=1), 4, ""),
        ("job_slow", running(9999, usual=None), 4, ""),
        ("repository_away", disk(there=False), 0, "is not there"),
        ("space", disk(9), 10, "has 9"),
        ("space", disk(11), 10, ""),
        ("space", disk(size=0), 10, ""),
        ("full_soon", disk(13, grown_a_day=GB), 14, "full in about 13 days"),
        ("full_soon", disk(15, grown_a_day=GB), 14, ""),
        ("drill_overdue", {"drills": Drills(last_good=NOW - timedelta(days=9))}, 8, "9 days ago"),
        ("drill_overdue", {"drills": Drills(last_good=NOW - timedelta(days=7))}, 8, ""),
        ("drill_overdue", {"drills": Drills(could_be_since=NOW - timedelta(days=9))}, 8, "No restore was ever tested."),
        ("drill_overdue", {}, 8, ""),
        ("drill_failed", {"drills": Drills(failed_job="j", message="A row is gone.")}, 0, "A row is gone."),
        ("clock_jumped", clock(jumped=NOW - MINUTE, jumped_by=-7200.0), 120, "jumped back by 2 h"),
        ("clock_jumped", clock(jumped=NOW - MINUTE, jumped_by=60.0), 120, ""),
        ("channel_unheard", {"unheard": (Unheard(name="ops", id=1, count=1, answer="404"),)}, 1, "takes no messages: 404"),
        ("detector_broken", {"broken": {"papers": "KeyError: 'x'"}}, 0, "papers could not look"),
    ],
)
def test_detectors(kind, known, threshold, said):
    texts = found(kind, facts(**known), threshold)
    assert (said in " ".join(texts)) if said else texts == []


def test_many_damaged_backups_are_told_one_by_one_up_to_a_bound():
    damaged = tuple(Damaged(id=f"b{n}", set="default", problem="") for n in range(3))
    assert found("damage", facts(damaged=damaged, damaged_count=8))[-1] == "5 more backups are damaged."


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
        ("http://169.254.169.254/latest/meta-data", "no receiver"),
        ("http://[fe80::1]/", "no receiver"),
        ("http://[::ffff:169.254.169.254]/", "no receiver"),
        ("http://0.0.0.0/", "no receiver"),
        ("http://[::]/", "no receiver"),
        ("http://224.0.0.1/", "no receiver"),
        ("http://255.255.255.255/", "no receiver"),
        ("http://100.100.100.200/", "no receiver"),
        ("http://[fd00:ec2::254]/", "no receiver"),
        ("http://host:99999/", "no address"),
        ("http://host:0/", "port 0"),
    ],
)
def test_addresses_that_are_never_called(address, why):
    with pytest.raises(http.Refused, match=why):
        http.check(address)


@pytest.mark.parametrize(
    "address", ["https://hooks.slack.com/services/T/B/x", "http://127.0.0.1:9/", "http://10.0.0.5/", "http://[::1]/"]
)
def test_addresses_that_may_be_called(address):
    assert http.check(address).hostname


def test_secrets_are_not_shown():
    address = "https://hooks.slack.com/services/T0000/B0000/abcdefghijkl?key=topsecret"
    assert http.masked(address) == "https://hooks.slack.com/…cret"
    assert http.masked("https://host/short") == "https://host/…"
    told = http.without_secret("no such path /services/T0000/B0000/abcdefghijkl, key=topsecret", address)
    assert "abcdefghijkl" not in told and "topsecret" not in told


def test_keys_of_signatures():
    assert len(signature.key_bytes(signature.new_key())) == 32
    for wrong in ("whsec_kurz", "whsec_***", "whsec_" + "QUJD" * 3):
        with pytest.raises(ValueError):
            signature.key_bytes(wrong)
