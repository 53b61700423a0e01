"""Retention: tables for each rule, golden cases, and properties that hold for any set of backups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.engine.repository.retention import (
    Candidate,
    Decision,
    EmptyPolicyError,
    Policy,
    PolicyError,
    decide,
    format_duration,
    parse_duration,
    removal_order,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BARE: dict[str, Any] = {"verified_floor": 0}


def backup(id_: str, time: datetime | str | None = None, **others: Any) -> Candidate:
    """Make a full backup; *time* is a moment, an ISO string in UTC, or else the id is one."""
    if not isinstance(time, datetime):
        time = datetime.fromisoformat(time or id_).replace(tzinfo=UTC)
    others["needs"] = frozenset(others.get("needs", ()))
    return Candidate(**{"id": id_, "time": time, "kind": "full", **others})


def kept(decisions: Iterable[Decision]) -> set[str]:
    return {decision.id for decision in decisions if decision.keep}


def reasons(decisions: Iterable[Decision]) -> dict[str, tuple[str, ...]]:
    return {decision.id: decision.reasons for decision in decisions}


def hourly(count: int, **others: Any) -> list[Candidate]:
    return [backup(f"h{n:03}", NOW - timedelta(hours=n), **others) for n in range(count)]


# Durations and policies


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("14d", timedelta(days=14), "14 days"),
        ("1d", timedelta(days=1), "1 day"),
        ("6h", timedelta(hours=6), "6 hours"),
        ("1h", timedelta(hours=1), "1 hour"),
        ("2w", timedelta(days=14), "14 days"),
        ("1y6m", timedelta(days=366 + 6 * 31), "552 days"),
        ("1m2w3d4h", timedelta(days=31 + 14 + 3, hours=4), "48 days 4 hours"),
        ("6h1d", timedelta(days=1, hours=6), "1 day 6 hours"),
        (" 7d ", timedelta(days=7), "7 days"),
        ("36h", timedelta(hours=36), "1 day 12 hours"),
    ],
)
def test_durations_are_read_and_shown(text: str, expected: timedelta, shown: str) -> None:
    assert parse_duration(text) == expected
    assert format_duration(expected) == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a duration"),
        ("14", "not a duration"),
        ("d", "not a duration"),
        ("-3d", "not a duration"),
        ("1.5d", "not a duration"),
        ("1d 6h", "not a duration"),
        ("14D", "not a duration"),
        ("14days", "not a duration"),
        ("٣d", "not a duration"),
        ("10s", "unknown unit 's'"),
        ("1d2d", "names the unit 'd' twice"),
        ("0d", "a duration of zero"),
        ("999999999999y", "too long"),
        ("9" * 5000 + "h", "too long"),
    ],
)
def test_bad_durations_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint):
        parse_duration(text)


@pytest.mark.parametrize(
    "numbers",
    [
        {"keep_last": -1},
        {"keep_yearly": -5},
        {"verified_floor": -1},
        {"keep_within": timedelta(0)},
        {"keep_within": timedelta(days=-1)},
    ],
)
def test_bad_policies_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=next(iter(numbers))):
        Policy(**numbers)


def test_a_policy_without_a_rule_is_refused() -> None:
    policy = Policy(verified_floor=7)
    assert policy.is_empty
    with pytest.raises(EmptyPolicyError, match=r"keep-last.*keep-within"):
        decide([], policy, NOW)


@pytest.mark.parametrize("numbers", [{"keep_last": 1}, {"keep_monthly": 2}, {"keep_within": timedelta(hours=1)}])
def test_one_rule_makes_a_policy(numbers: dict[str, Any]) -> None:
    policy = Policy(**numbers)
    assert not policy.is_empty
    assert decide([], policy, NOW) == ()


def test_times_need_a_zone_and_ids_are_unique() -> None:
    naive = datetime(2026, 11, 21)  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        Candidate(id="a", time=naive, kind="full")
    with pytest.raises(ValueError, match="time zone"):
        decide([], Policy(keep_last=1), naive)
    with pytest.raises(ValueError, match="same id"):
        decide([backup("a", NOW), backup("a", NOW)], Policy(keep_last=1), NOW)


# Rules, one at a time


@pytest.mark.parametrize(
    ("rule", "times", "expected"),
    [
        pytest.param(
            {"keep_last": 2},
            ["2026-11-20T10", "2026-11-20T11", "2026-11-20T12"],
            {"2026-11-20T11": "last 2", "2026-11-20T12": "last 2"},
            id="last",
        ),
        pytest.param(
            {"keep_hourly": 2},
            ["2026-11-20T10:05", "2026-11-20T10:55", "2026-11-20T12:00", "2026-11-20T12:59"],
            {"2026-11-20T10:55": "hourly 2026-11-20 10:00", "2026-11-20T12:59": "hourly 2026-11-20 12:00"},
            id="hourly: the newest of each, empty hours do not count",
        ),
        pytest.param(
            {"keep_daily": 3},
            ["2026-11-01T23", "2026-11-02T00", "2026-11-18T04", "2026-11-18T05", "2026-11-20T01"],
            {
                "2026-11-02T00": "daily 2026-11-02",
                "2026-11-18T05": "daily 2026-11-18",
                "2026-11-20T01": "daily 2026-11-20",
            },
            id="daily",
        ),
        pytest.param(
            {"keep_weekly": 2},
            ["2026-01-04T10", "2025-12-29T10", "2025-12-28T10"],
            {"2026-01-04T10": "weekly 2026-W01", "2025-12-28T10": "weekly 2025-W52"},
            id="weekly: ISO weeks run across the new year",
        ),
        pytest.param(
            {"keep_weekly": 1},
            ["2027-01-02T10", "2026-12-31T10"],
            {"2027-01-02T10": "weekly 2026-W53"},
            id="weekly: a 53rd week",
        ),
        pytest.param(
            {"keep_monthly": 2},
            ["2026-01-31T23", "2026-02-01T00", "2026-02-28T10"],
            {"2026-01-31T23": "monthly 2026-01", "2026-02-28T10": "monthly 2026-02"},
            id="monthly",
        ),
        pytest.param(
            {"keep_yearly": 2},
            ["2023-05-05", "2024-01-01", "2024-12-31", "2026-01-01"],
            {"2024-12-31": "yearly 2024", "2026-01-01": "yearly 2026"},
            id="yearly",
        ),
        pytest.param(
            {"keep_within": timedelta(days=2)},
            ["2026-08-01T10", "2026-08-01T11", "2026-08-03T11"],
            {"2026-08-01T11": "within 2 days", "2026-08-03T11": "within 2 days"},
            id="within: from the newest backup and not from now, its edge included",
        ),
    ],
)
def test_one_rule(rule: dict[str, Any], times: list[str], expected: dict[str, str]) -> None:
    """Exactly the expected ones are kept, for exactly that reason; the newest one always stays."""
    now = datetime(2027, 2, 1, tzinfo=UTC)
    newest = max(times)
    decisions = decide([backup(time) for time in times], Policy(**rule, **BARE), now)
    assert [decision.id for decision in decisions] == sorted(times, reverse=True)
    for id_, why in reasons(decisions).items():
        if id_ in expected:
            assert why == ((expected[id_], "newest good backup") if id_ == newest else (expected[id_],))
        else:
            assert why == ("no rule keeps it",)
    assert kept(decisions) == set(expected)


def test_calendar_periods_are_utc() -> None:
    east = timezone(timedelta(hours=9))
    early = backup("early", datetime(2026, 11, 20, 8, tzinfo=east))  # the 19th in UTC
    late = backup("late", datetime(2026, 11, 20, 10, tzinfo=east))
    decisions = decide([early, late], Policy(keep_daily=2, **BARE), NOW)
    assert reasons(decisions)["early"] == ("daily 2026-11-19",)


def test_rules_are_combined_with_or_and_each_gives_its_reason() -> None:
    decisions = decide(hourly(30), Policy(keep_last=3, keep_daily=2, **BARE), NOW)
    assert kept(decisions) == {"h000", "h001", "h002", "h013"}
    assert reasons(decisions)["h000"] == ("last 3", "daily 2026-11-21", "newest good backup")
    assert reasons(decisions)["h013"] == ("daily 2026-11-20",)


def test_backups_of_the_same_moment_go_by_id() -> None:
    decisions = decide([backup("a", NOW), backup("b", NOW)], Policy(keep_last=1, **BARE), NOW)
    assert [decision.id for decision in decisions] == ["b", "a"]
    assert kept(decisions) == {"b"}


@pytest.mark.parametrize(("text", "reason"), [("before migration", "hold: before migration"), ("", "hold")])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_hold_keeps_a_backup_in_any_state(text: str, reason: str, damaged: bool) -> None:
    backups = [backup("new", NOW), backup("old", "2020-01-01", hold=text, damaged=damaged)]
    assert reasons(decide(backups, Policy(keep_last=1, **BARE), NOW))["old"][0] == reason


def test_the_future_is_kept_and_takes_no_slot() -> None:
    future = backup("future", NOW + timedelta(days=400))
    backups = [future, *hourly(4)]
    decisions = decide(backups, Policy(keep_last=1, keep_within=timedelta(hours=2), **BARE), NOW)
    assert reasons(decisions)["future"] == ("in the future: 2027-12-26 12:00 UTC",)
    assert kept(decisions) == {"future", "h000", "h001", "h002"}


def test_the_present_moment_is_not_the_future() -> None:
    decisions = decide([backup("a", NOW)], Policy(keep_last=1, **BARE), NOW)
    assert reasons(decisions)["a"] == ("last 1", "newest good backup")


# What protects


def test_the_floor_keeps_the_newest_verified_ones() -> None:
    backups = [replace(one, verified=one.id in ("h005", "h007", "h009")) for one in hourly(12)]
    decisions = decide(backups, Policy(keep_last=1), NOW)
    assert kept(decisions) == {"h000", "h005", "h007"}
    assert reasons(decisions)["h005"] == ("verified floor",)


def test_the_floor_does_not_count_damaged_backups() -> None:
    backups = [replace(one, verified=True, damaged=one.id in ("h001", "h002")) for one in hourly(6)]
    assert kept(decide(backups, Policy(keep_last=1), NOW)) == {"h000", "h003"}


def test_the_floor_counts_whole_backups_apart_from_snapshots() -> None:
    snapshots = hourly(3, kind="snapshot", verified=True)
    whole = [backup(f"f{n}", NOW - timedelta(days=n), verified=True) for n in range(1, 4)]
    decisions = decide([*snapshots, *whole], Policy(keep_last=1), NOW)
    assert kept(decisions) == {"h000", "h001", "f1", "f2"}
    assert reasons(decisions)["f1"] == ("newest good backup of all stores", "verified floor")


def test_a_damaged_backup_takes_no_slot() -> None:
    """Every rule behaves as if the damaged one were not there."""
    backups = [replace(one, damaged=one.id == "h001") for one in hourly(5)]
    policy = Policy(keep_last=2, keep_hourly=2, keep_within=timedelta(hours=1), **BARE)
    decisions = decide(backups, policy, NOW)
    assert kept(decisions) == {"h000", "h002"}
    assert reasons(decisions)["h001"] == ("damaged, and a newer good backup exists: h000",)


def test_incomplete_backups_do_not_displace_complete_ones() -> None:
    backups = [
        *hourly(5, verified=True, incomplete=True),
        backup("noon", "2026-11-20T12:00", verified=True),
        backup("night", "2026-11-20T23:00", verified=True, incomplete=True),
        backup("older", "2026-11-18", verified=True),
        backup("never", "2026-11-17", verified=True, incomplete=True),
    ]
    last = decide(backups, Policy(keep_last=2, verified_floor=1), NOW)
    assert kept(last) == {"h000", "h001", "noon"}
    assert reasons(last)["noon"] == ("newest complete backup", "verified floor")
    assert kept(decide(backups, Policy(keep_last=1, verified_floor=2), NOW)) == {"h000", "h001", "noon", "older"}
    daily = decide(backups, Policy(keep_daily=4, **BARE), NOW)
    assert kept(daily) == {"h000", "noon", "older", "never"}, "of a day the newest complete one, or else the newest"


def test_a_set_that_is_always_incomplete_is_thinned_out() -> None:
    assert kept(decide(hourly(9, incomplete=True), Policy(keep_last=2), NOW)) == {"h000", "h001"}


def test_a_damaged_backup_newer_than_every_good_one_stays() -> None:
    backups = [replace(one, damaged=one.id in ("h000", "h001", "h003")) for one in hourly(5)]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert kept(decisions) == {"h000", "h001", "h002"}
    assert reasons(decisions)["h000"] == ("damaged, but no good backup is newer",)
    assert reasons(decisions)["h002"] == ("last 1", "newest good backup")
    assert reasons(decisions)["h003"] == ("damaged, and a newer good backup exists: h002",)


def test_if_all_backups_are_damaged_all_are_kept() -> None:
    assert kept(decide(hourly(3, damaged=True), Policy(keep_last=1), NOW)) == {"h000", "h001", "h002"}


def test_a_good_snapshot_does_not_replace_a_damaged_whole_backup() -> None:
    backups = [
        backup("snapshot", NOW, kind="snapshot"),
        backup("hurt", NOW - timedelta(hours=1), damaged=True),
        backup("hurt snapshot", NOW - timedelta(hours=2), kind="snapshot", damaged=True),
        backup("good", NOW - timedelta(days=1)),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert kept(decisions) == {"snapshot", "hurt", "good"}
    assert reasons(decisions)["hurt snapshot"] == ("damaged, and a newer good backup exists: snapshot",)


def test_a_backup_that_needs_a_damaged_or_missing_one_is_unsound() -> None:
    backups = [
        backup("good", NOW),
        backup("on missing", NOW - timedelta(hours=1), needs=["gone"], verified=True, kind="incremental"),
        backup("second", NOW - timedelta(hours=2), needs=["first"], kind="incremental"),
        backup("first", NOW - timedelta(hours=3), needs=["base"], kind="incremental"),
        backup("base", NOW - timedelta(hours=4), damaged=True),
    ]
    decisions = decide(backups, Policy(keep_last=9), NOW)
    assert kept(decisions) == {"good"}
    assert reasons(decisions)["second"] == ("needs base, which is damaged, and a newer good backup exists: good",)
    assert reasons(decisions)["on missing"] == ("needs gone, which is missing, and a newer good backup exists: good",)


@pytest.mark.parametrize("needs", [["first"], ["first", "base"]], ids=["direct", "resolved"])
def test_a_verified_backup_on_a_damaged_one_is_sound(needs: list[str]) -> None:
    """Its own verification read what it uses; it keeps the damaged one alive."""
    backups = [
        backup("second", NOW, needs=needs, kind="incremental"),
        backup("first", NOW - timedelta(hours=1), needs=["base"], kind="incremental", verified=True),
        backup("base", NOW - timedelta(hours=2), damaged=True),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert reasons(decisions) == {
        "second": ("needs base, which is damaged, but no good backup is newer",),
        "first": ("last 1", "newest good backup", "needed by second"),
        "base": ("needed by first",) if needs == ["first"] else ("needed by second and 1 other",),
    }


def test_snapshots_count_for_last_and_within_only() -> None:
    snapshots = hourly(2, kind="snapshot")
    whole = [backup(f"f{n}", NOW - timedelta(days=n)) for n in range(1, 4)]
    backups = [*snapshots, *whole]
    assert kept(decide(backups, Policy(keep_last=2, **BARE), NOW)) == {"h000", "h001", "f1"}
    assert kept(decide(backups, Policy(keep_within=timedelta(days=1), **BARE), NOW)) == {"h000", "h001", "f1"}
    assert kept(decide(backups, Policy(keep_daily=3, **BARE), NOW)) == {"h000", "f1", "f2", "f3"}


@pytest.mark.parametrize("resolved", [False, True])
def test_ancestors_of_a_kept_backup_are_kept(resolved: bool) -> None:
    backups = [
        backup("full", "2026-11-01"),
        backup("one", "2026-11-02", kind="incremental", needs=["full"]),
        backup("two", "2026-11-03", kind="incremental", needs=["one", "full"] if resolved else ["one"]),
        backup("side", "2026-11-04", kind="incremental", needs=["full"]),
        backup("new", "2026-11-05"),
        backup("other", "2026-11-06", kind="incremental", needs=["two", "one", "full"] if resolved else ["two"]),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert kept(decisions) == {"other", "two", "one", "full"}
    shown = reasons(decisions)
    assert shown["two"] == ("needed by other",)
    assert shown["full"] == (("needed by other and 2 others",) if resolved else ("needed by one",))
    assert shown["side"] == ("no rule keeps it",)


# The order of removal


def test_dependents_go_first() -> None:
    backups = [
        backup("full", "2026-11-01"),
        backup("one", "2026-11-02", needs=["full"]),
        backup("two", "2026-11-03", needs=["one", "full"]),
        backup("fork", "2026-11-04", needs=["one"]),
        backup("new", "2026-11-05"),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert removal_order(backups, decisions) == ("two", "fork", "one", "full")


def test_dependents_go_first_even_if_a_clock_was_set_back() -> None:
    backups = [
        backup("new", NOW),
        backup("full", "2026-11-03"),
        backup("one", "2026-11-01", needs=["full"]),
        backup("two", "2026-11-02", needs=["one"]),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert removal_order(backups, decisions) == ("two", "one", "full")


def test_a_circle_of_parents_does_not_hang() -> None:
    backups = [
        backup("new", NOW),
        backup("a", "2026-11-03", needs=["b"]),
        backup("b", "2026-11-02", needs=["a", "b"]),
        backup("c", "2026-11-01", needs=["a"]),
    ]
    decisions = decide(backups, Policy(keep_last=1, **BARE), NOW)
    assert kept(decisions) == {"new"}
    assert removal_order(backups, decisions) == ("c", "b", "a")


# Golden cases


def test_a_year_of_daily_backups() -> None:
    """A full one each Sunday, incrementals on it on the other days, all verified."""
    first = datetime(2025, 11, 23, 3, tzinfo=UTC)
    backups: list[Candidate] = []
    for day in range(364):
        time = first + timedelta(days=day)
        needs = {one.id for one in backups[day - day % 7 : day]}
        backups.append(backup(f"{time:%m-%d}", time, kind="incremental" if needs else "full", needs=needs, verified=True))
    policy = Policy(keep_daily=3, keep_weekly=2, keep_monthly=3, keep_yearly=2)
    decisions = decide(backups, policy, NOW)
    first_reasons = {one.id: one.reasons for one in decisions if one.keep and "needed by" not in one.reasons[0]}
    assert {id_: [why for why in all_ if "needed" not in why] for id_, all_ in first_reasons.items()} == {
        "11-21": [
            "daily 2026-11-21",
            "weekly 2026-W47",
            "monthly 2026-11",
            "yearly 2026",
            "newest good backup",
            "verified floor",
        ],
        "11-20": ["daily 2026-11-20", "verified floor"],
        "11-19": ["daily 2026-11-19"],
        "11-15": ["weekly 2026-W46"],
        "10-31": ["monthly 2026-10"],
        "09-30": ["monthly 2026-09"],
        "12-31": ["yearly 2025"],
    }
    chains = {"11-18", "11-17", "11-16", *(f"10-{n}" for n in range(25, 31)), "09-29", "09-28", "09-27"}
    chains |= {"12-30", "12-29", "12-28"}
    assert kept(decisions) == set(first_reasons) | chains
    assert reasons(decisions)["09-27"] == ("needed by 09-30 and 2 others",)


def test_protection_every_ten_seconds_thins_out() -> None:
    """A day of incrementals in chains of 60: what rules keep stays, and the heads of those chains."""
    start = NOW - timedelta(days=1)
    backups: list[Candidate] = []
    for n in range(8640):
        needs = [f"{n - 1:05}"] if n % 60 else []
        backups.append(backup(f"{n:05}", start + timedelta(seconds=10 * n), kind="incremental", needs=needs))
    policy = Policy(keep_hourly=3, keep_within=timedelta(hours=1), **BARE)
    decisions = decide(backups, policy, NOW)
    within = {f"{n:05}" for n in range(8279, 8640)}
    heads = {f"{n:05}" for n in range(8220, 8279)}
    earlier = {f"{n:05}" for last in (7919, 8279) for n in range(last - 59, last + 1)}
    assert kept(decisions) == within | heads | earlier


# Properties

unhurried = settings(deadline=None)  # a busy machine must not fail the test


@st.composite
def repositories(draw: st.DrawFn) -> list[Candidate]:
    """Up to 14 backups: chains with direct or resolved needs, holds, damage, missing ones, wrong clocks."""
    resolved = draw(st.booleans())
    backups: list[Candidate] = []
    for n in range(draw(st.integers(0, 14))):
        id_ = f"b{n:02}"
        time = NOW - timedelta(hours=draw(st.one_of(st.integers(0, 60), st.integers(-48, 24 * 800))))
        needs: set[str] = set()
        kind = draw(st.sampled_from(["full", "full", "incremental", "incremental", "incremental", "snapshot"]))
        if kind == "incremental" and backups:
            parent = draw(st.sampled_from(backups))
            needs = {parent.id} | (set(parent.needs) if resolved else set())
        if draw(st.integers(0, 20)) == 0:
            needs.add("lost")
        hold = draw(st.sampled_from([None, None, None, None, "", "before migration"]))
        damaged = draw(st.integers(0, 4)) == 0
        verified = draw(st.booleans())
        incomplete = draw(st.integers(0, 2)) == 0
        state = {"damaged": damaged, "verified": verified, "incomplete": incomplete}
        backups.append(backup(id_, time, kind=kind, needs=needs, hold=hold, **state))
    return draw(st.permutations(backups))


counts = st.integers(0, 4)
policies = st.builds(
    Policy,
    keep_last=counts,
    keep_hourly=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=counts,
    keep_within=st.none() | st.integers(1, 500).map(lambda hours: timedelta(hours=hours)),
    verified_floor=counts,
).filter(lambda policy: not policy.is_empty)


def closure(backups: Iterable[Candidate], ids: Iterable[str]) -> set[str]:
    needs = {one.id: one.needs for one in backups}
    found: set[str] = set()
    pending = list(ids)
    while pending:
        new = needs.get(pending.pop(), frozenset()) - found
        found |= new
        pending.extend(new)
    return found


def is_good(one: Candidate, backups: list[Candidate]) -> bool:
    by_id = {other.id: other for other in backups}
    needed = closure(backups, [one.id])
    return not one.damaged and needed <= by_id.keys() and (one.verified or not any(by_id[id_].damaged for id_ in needed))


@unhurried
@given(repositories(), policies)
def test_every_backup_gets_one_decision_newest_first_with_reasons(backups: list[Candidate], policy: Policy) -> None:
    decisions = decide(backups, policy, NOW)
    newest_first = sorted(backups, key=lambda one: (one.time, one.id), reverse=True)
    assert [decision.id for decision in decisions] == [one.id for one in newest_first]
    assert all(decision.reasons and all(decision.reasons) for decision in decisions)
    assert decisions == decide(list(reversed(backups)), policy, NOW)


@unhurried
@given(repositories(), policies)
def test_nothing_kept_needs_something_removed(backups: list[Candidate], policy: Policy) -> None:
    decisions = decide(backups, policy, NOW)
    removed = {decision.id for decision in decisions if not decision.keep}
    assert not closure(backups, kept(decisions)) & removed


@unhurried
@given(repositories(), policies)
def test_protected_backups_stay(backups: list[Candidate], policy: Policy) -> None:
    """Holds, the future, the newest good ones, and the floor, whatever the policy."""
    staying = kept(decide(backups, policy, NOW))
    present = sorted((one for one in backups if one.time <= NOW), key=lambda one: (one.time, one.id), reverse=True)
    for good in (
        [one for one in present if is_good(one, backups)],
        [one for one in present if is_good(one, backups) and one.kind != "snapshot"],
        [one for one in present if is_good(one, backups) and not one.incomplete],
        [one for one in present if is_good(one, backups) and one.kind != "snapshot" and not one.incomplete],
    ):
        assert {one.id for one in good[:1]} <= staying
        assert {one.id for one in [one for one in good if one.verified][: policy.verified_floor]} <= staying
    assert {one.id for one in backups if one.hold is not None or one.time > NOW} <= staying


@unhurried
@given(repositories(), policies, st.data())
def test_raising_a_number_never_removes_more(backups: list[Candidate], policy: Policy, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([field.name for field in fields(Policy)]))
    before = getattr(policy, name)
    if name == "keep_within":
        after: Any = (before or timedelta(0)) + timedelta(hours=data.draw(st.integers(1, 500)))
    else:
        after = before + data.draw(st.integers(1, 3))
    assert kept(decide(backups, policy, NOW)) <= kept(decide(backups, replace(policy, **{name: after}), NOW))


@unhurried
@given(repositories(), policies)
def test_bad_backups_never_displace_good_ones(backups: list[Candidate], policy: Policy) -> None:
    """Without the bad ones, the same good ones would stay: they take no slot and move no window."""
    bad = {one.id for one in backups if not is_good(one, backups)}
    ordinary = [replace(one, needs=one.needs - bad, hold=None if one.id in bad else one.hold) for one in backups]
    bad_too = [one if one.id not in bad else replace(one, damaged=True, needs=frozenset()) for one in ordinary]
    good_alone = [one for one in ordinary if one.id not in bad]
    assert kept(decide(bad_too, policy, NOW)) - bad == kept(decide(good_alone, policy, NOW))


@unhurried
@given(repositories(), policies)
def test_incomplete_backups_never_displace_the_last_complete_one(backups: list[Candidate], policy: Policy) -> None:
    """Whatever incomplete backups follow, however many of them are verified."""
    complete = [one for one in backups if one.time <= NOW and is_good(one, backups) and not one.incomplete]
    if complete:
        last = max(complete, key=lambda one: (one.time, one.id))
        later = [backup(f"z{n}", NOW - timedelta(seconds=9 - n), verified=True, incomplete=True) for n in range(9)]
        assert last.id in kept(decide([*backups, *later], policy, NOW))


@unhurried
@given(repositories(), policies)
def test_a_bad_backup_goes_only_when_a_good_one_is_newer(backups: list[Candidate], policy: Policy) -> None:
    removed = {one.id for one in decide(backups, policy, NOW) if not one.keep}
    for bad in (one for one in backups if one.id in removed and not is_good(one, backups)):
        assert any(
            is_good(good, backups) and (good.time, good.id) > (bad.time, bad.id)
            for good in backups
            if good.kind != "snapshot" or bad.kind == "snapshot"
        )


@unhurried
@given(repositories(), policies)
def test_the_order_of_removal_is_valid_at_every_step(backups: list[Candidate], policy: Policy) -> None:
    decisions = decide(backups, policy, NOW)
    order = removal_order(backups, decisions)
    assert sorted(order) == sorted({decision.id for decision in decisions if not decision.keep})
    left = {one.id: one for one in backups}
    for id_ in order:
        del left[id_]
        assert all(id_ not in one.needs for one in left.values())


@unhurried
@given(repositories(), policies)
def test_a_second_prune_removes_nothing(backups: list[Candidate], policy: Policy) -> None:
    staying = kept(decide(backups, policy, NOW))
    left = [one for one in backups if one.id in staying]
    assert kept(decide(left, policy, NOW)) == staying
