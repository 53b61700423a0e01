"""Alerts end to end: real receivers, moved clocks, real jobs."""

from __future__ import annotations

import json
import logging
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.test import override_settings
from django.utils import timezone

from backups.alerts import default_rules, evaluation, http, mail, outbox, services, transitions
from backups.alerts.default_rules import DEFAULTS
from backups.engine.errors import UsageError
from backups.identity.audit import Actor
from backups.jobs import lifecycle, submit
from backups.models import (
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertLook,
    AlertRule,
    AlertSubscription,
    AuditEntry,
    IndexedBackup,
    Job,
    Plan,
)
from backups.monitoring.conditions import Condition, Observation, _all
from backups.plans import defaults, scheduling
from backups.worker import tasks
from tests.control.receivers import certificate, mail_server, tls_of, web_server
from tests.library.places import ROOT

State = AlertDelivery.State


def install() -> list[str]:
    """Install the default plans and alert rules."""
    return [*defaults.install(), *default_rules.install()]


DOWN = Observation(subject="nightly", text="Nightly failed: <disk> & more.", todo="Free space.", link="backups:plans")


@pytest.fixture
def web():
    with web_server() as server:
        yield server


@pytest.fixture(scope="session")
def pem(tmp_path_factory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


def channel(site, kind: str, target: str, name: str = "ops", **values) -> AlertChannel:
    plans = values.pop("plans", ())
    return services.save_channel(site.actor, AlertChannel(name=name, kind=kind, target=target, **values), plans)


def rule(**values) -> AlertRule:
    known = {"name": "r", "title": "A plan failed in a row", "kind": "plan_failed", "settle_minutes": 0}
    return AlertRule.objects.create(**(known | values))


class Clock:
    """A clock that is moved; it begins a little ahead of the machine's."""

    def __init__(self) -> None:
        self.now = timezone.now() + timedelta(seconds=10)

    def __call__(self):
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fire(monkeypatch, *found: Observation) -> None:
    """Make the condition of failed plans observe these."""
    every = {"plan_failed": Condition(name="plan_failed", title="", find=lambda facts, threshold: found)}
    monkeypatch.setattr(evaluation, "conditions", lambda: every)


# Mail


def with_mail(server, **more):
    values = {"EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": server.port, "EMAIL_USE_TLS": False, "EMAIL_TIMEOUT": 5}
    return override_settings(EMAIL_BACKEND=mail.SMTP, DEFAULT_FROM_EMAIL="RefServer <refserver@example.org>", **(values | more))


@pytest.mark.slow
def test_an_alert_is_mailed_once_and_its_end_is_a_reply(empty_site, monkeypatch, clock):
    rule()
    with mail_server() as server, with_mail(server):
        channel(empty_site, "mail", "anna@example.org, otto@example.org")
        fire(monkeypatch, DOWN)
        for _ in range(4):
            evaluation.decide(clock())
            outbox.turn(clock)
            clock.move(minutes=1)
        fire(monkeypatch)
        evaluation.decide(clock())
        assert outbox.turn(clock) == 1
    begun, ended = server.letters
    assert begun["Subject"].endswith("Warning: A plan failed in a row (nightly)")
    assert ended["Subject"].endswith("Resolved: A plan failed in a row (nightly)")
    assert begun["X-To"] == "anna@example.org, otto@example.org"
    assert begun["In-Reply-To"] == ended["In-Reply-To"] and begun["Message-ID"] != ended["Message-ID"]
    text = begun.get_body(("plain",)).get_content()
    assert "Nightly failed: <disk> & more." in text and "What to do: Free space." in text
    html = begun.get_body(("html",)).get_content()
    assert "&lt;disk&gt; &amp; more." in html and "<disk>" not in html
    assert "Resolved after 4 min: Nightly failed" in ended.get_body(("plain",)).get_content()
    alert = Alert.objects.get()
    assert alert.resolved and not alert.open and alert.deliveries.count() == 2
    assert AlertDelivery.objects.filter(state=State.DELIVERED, answer="2.0.0 taken as 4711", status=250).count() == 2


def test_mail_with_starttls_and_a_login(empty_site, pem, monkeypatch):
    with mail_server(tls=tls_of(pem), login=("refserver", "s3cret")) as server:
        ops = channel(empty_site, "mail", "anna@example.org")
        wanted = {"EMAIL_USE_TLS": True, "EMAIL_HOST_USER": "refserver"}
        with with_mail(server, **wanted, EMAIL_HOST_PASSWORD="s3cret"):
            assert "certificate is invalid" in services.send_test(empty_site.actor, ops).text
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            answer = services.send_test(empty_site.actor, ops)
            assert answer.ok and answer.text == "2.0.0 taken as 4711"
        with with_mail(server, **wanted, EMAIL_HOST_PASSWORD="wrong"):
            answer = services.send_test(empty_site.actor, ops)
            assert (answer.ok, answer.status) == (False, 535) and "refused the login" in answer.text
    assert [letter["X-TLS"] for letter in server.letters] == ["yes"]
    ops.refresh_from_db()
    assert ops.tested_ok is False and "535" in ops.tested_answer


def test_failed_mail_gives_the_reason(empty_site, monkeypatch):
    ops = channel(empty_site, "mail", "anna@example.org\notto@example.org")
    with override_settings(EMAIL_BACKEND=mail.SMTP, EMAIL_HOST=""):
        assert "No mail server is configured" in services.send_test(empty_site.actor, ops).text
    with mail_server() as server, with_mail(server):
        server.refuse = "otto@example.org"
        answer = services.send_test(empty_site.actor, ops)
        assert answer.ok and "otto@example.org was refused: 5.1.1 No such user" in answer.text
        with override_settings(EMAIL_USE_TLS=True):
            assert "offers no STARTTLS" in services.send_test(empty_site.actor, ops).text
    with with_mail(server):
        assert "cannot be reached: Connection refused" in services.send_test(empty_site.actor, ops).text
    with web_server() as web, with_mail(web):  # it does not speak first, as a mail server would
        monkeypatch.setattr(mail, "LONGEST", 0.4)
        began = time.monotonic()
        assert "did not answer in time" in services.send_test(empty_site.actor, ops).text
        assert time.monotonic() - began < 15


# Webhooks


def test_a_slack_shaped_webhook(empty_site, web, monkeypatch, clock):
    rule(severity="critical")
    channel(empty_site, "slack", web.url())
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    outbox.turn(clock)
    sent = json.loads(web.requests[0].body)
    assert sent["text"].startswith("*[") and "Critical: A plan failed in a row (nightly)*" in sent["text"]
    assert "Nightly failed: &lt;disk&gt; &amp; more.\nFree space." in sent["attachments"][0]["text"]
    assert web.requests[0].headers["content-type"] == "application/json"


def test_a_signed_webhook_is_verified_by_the_documented_code(empty_site, web, monkeypatch, clock):
    document = (ROOT / "docs" / "how-to" / "get-alerted.md").read_text(encoding="utf-8")
    lines = next(block for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "def verify" in block)
    scope: dict = {}
    exec(lines, scope)  # noqa: S102
    rule()
    ops = channel(empty_site, "webhook", web.url())
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    outbox.turn(clock)
    request = web.requests[0]
    assert scope["verify"](ops.key, request.headers, request.body)
    assert not scope["verify"](ops.key, request.headers, request.body.replace(b"nightly", b"weekly!"))
    assert not scope["verify"]("whsec_" + "A" * 44, request.headers, request.body)
    assert not scope["verify"](ops.key, request.headers | {"webhook-id": "msg_other"}, request.body)
    old = request.headers | {"webhook-timestamp": str(int(request.headers["webhook-timestamp"]) - 600)}
    assert not scope["verify"](ops.key, old, request.body)
    sent = json.loads(request.body)
    shown = json.loads(next(re.finditer(r"```json\n(.*?)```", document, re.DOTALL))[1])
    assert set(sent) == set(shown) and set(sent["alerts"][0]) == set(shown["alerts"][0])
    assert sent["event"] == "fired" and f"msg_{sent['delivery']}" == request.headers["webhook-id"]


@pytest.mark.parametrize(
    ("status", "headers", "answer", "said"),
    [
        (500, {}, b"broken", "broken"),
        (404, {}, b"no such path /hook/s3cr3t-token", "no such path …"),
        (
            302,
            {"Location": "http://169.254.169.254/latest"},
            b"",
            "It redirects to 169.254.169.254; redirects are not followed.",
        ),
        (200, {}, b"\x1b[31mok\x00\xff" + b"x" * 5000, None),
    ],
)
def test_a_receivers_answer_is_kept_short_and_without_secrets(empty_site, web, status, headers, answer, said):
    web.status, web.headers, web.answer = status, headers, answer
    ops = channel(empty_site, "slack", web.url())
    told = services.send_test(empty_site.actor, ops)
    assert (told.ok, told.status) == (status == 200, status)
    assert len(web.requests) == 1, "a redirect is not followed"
    kept = AlertDelivery.objects.get()
    assert kept.state == (State.DELIVERED if status == 200 else State.GIVEN_UP)
    if said is not None:
        assert said in told.text
    else:
        assert len(kept.answer) <= 300 and "\x1b" not in kept.answer and "\x00" not in kept.answer


@pytest.mark.parametrize(("manner", "said"), [("hang", "no answer within"), ("drip", "no answer within"), ("rude", "HTTP")])
def test_a_hanging_receiver_times_out(empty_site, web, monkeypatch, manner, said):
    monkeypatch.setattr(http, "LONGEST", 0.5)
    web.manner = manner
    ops = channel(empty_site, "slack", web.url())
    began = time.monotonic()
    answer = services.send_test(empty_site.actor, ops)
    assert not answer.ok and said in answer.text
    assert time.monotonic() - began < 15


def test_a_name_with_a_forbidden_address_is_not_called(empty_site, web, monkeypatch):
    ops = channel(empty_site, "slack", f"http://localhost:{web.port}/hook")
    assert services.send_test(empty_site.actor, ops).ok
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": ["*.example.org", "10.0.0.0/8"]}):
        answer = services.send_test(empty_site.actor, ops)
        assert not answer.ok and "not among the hosts" in answer.text
        with pytest.raises(UsageError, match="not among the hosts"):
            channel(empty_site, "slack", web.url(), name="other")
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": ["127.0.0.0/8", "::1/128"]}):
        assert services.send_test(empty_site.actor, ops).ok  # the name is not listed, its addresses are
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_HOSTS": ["localhost"]}):
        assert services.send_test(empty_site.actor, ops).ok
    assert len(web.requests) == 3


def test_logs_and_audit_contain_no_secrets(empty_site, web, caplog):
    caplog.set_level(logging.DEBUG)
    web.status = 500
    ops = channel(empty_site, "webhook", web.url())
    services.send_test(empty_site.actor, ops)
    ops.target = web.url("/hook/an0ther-token")
    services.save_channel(empty_site.actor, ops)
    services.remove_channel(empty_site.actor, ops)
    told = caplog.text + "".join(map(str, AuditEntry.objects.values_list("before", "after", "target")))
    told += "".join(AlertDelivery.objects.values_list("answer", flat=True)) + repr(ops) + str(ops)
    for secret in ("s3cr3t-token", "an0ther-token", ops.key):
        assert secret not in told
    assert AuditEntry.objects.filter(action="alert_channel.tested").exists()


# The outbox


def test_a_failing_delivery_is_retried_for_a_day(empty_site, web, monkeypatch, clock):
    rule()
    channel(empty_site, "webhook", web.url())
    web.status = 503
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    tries = []
    row = AlertDelivery.objects.get()
    while row.state == State.WAITING:
        clock.now = row.next_try - timedelta(seconds=1)
        assert outbox.turn(clock) == 0
        clock.move(seconds=1)
        assert outbox.turn(clock) == 1
        tries.append((clock.now - row.created) / timedelta(minutes=1))
        row.refresh_from_db()
    assert tries[:6] == [0, 0.5, 1.5, 6.5, 21.5, 81.5]
    assert 24 * 60 <= tries[-1] <= 25 * 60
    assert (row.state, row.status, row.answer, row.attempts) == (State.GIVEN_UP, 503, "ok", len(tries))
    assert len({request.headers["webhook-id"] for request in web.requests}) == 1, "the same message each time"
    rule(name="unheard", kind="channel_unheard", title="Unheard")
    monkeypatch.undo()
    evaluation.decide(row.finished)
    assert Alert.objects.get(rule="unheard").text == "Messages to ops fail: ok"


def test_retry_after_is_honoured(empty_site, web, monkeypatch, clock):
    rule()
    channel(empty_site, "slack", web.url())
    web.status, web.headers = 429, {"Retry-After": "600"}
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    outbox.turn(clock)
    assert AlertDelivery.objects.get().next_try - clock.now == timedelta(seconds=600)
    web.headers = {"Retry-After": "999999"}
    clock.move(minutes=10)
    outbox.turn(clock)
    assert AlertDelivery.objects.get().next_try - clock.now == timedelta(hours=1)


def test_deliveries_keep_their_order(empty_site, web, monkeypatch, clock):
    rule()
    channel(empty_site, "webhook", web.url())
    web.status = 500
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    assert outbox.turn(clock) == 1
    fire(monkeypatch)
    evaluation.decide(clock())
    assert outbox.turn(clock) == 0
    web.status = 204
    clock.move(minutes=1)
    assert outbox.turn(clock) == 2
    assert [json.loads(request.body)["event"] for request in web.requests] == ["fired", "fired", "resolved"]


def test_a_dead_senders_message_is_sent_again(empty_site, web, monkeypatch, clock):
    rule()
    channel(empty_site, "webhook", web.url())
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    taken = outbox.claim(clock())
    assert taken is not None and outbox.claim(clock()) is None
    outbox.hand_over(taken, clock())  # it arrived, and nobody wrote that down
    clock.move(minutes=1)
    assert (outbox.take_up(clock()), outbox.turn(clock)) == (0, 0)
    clock.move(minutes=2)
    assert (outbox.take_up(clock()), outbox.turn(clock)) == (1, 1)
    assert web.requests[0].headers["webhook-id"] == web.requests[1].headers["webhook-id"]
    assert AlertDelivery.objects.get().state == State.DELIVERED


def test_one_sender_per_host(empty_site, web, monkeypatch, clock):
    rule()
    channel(empty_site, "slack", web.url())
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    with outbox._alone() as mine:
        assert mine and outbox.turn(clock) == 0
    assert outbox.turn(clock) == 1


def test_a_receiver_that_hangs_delays_neither_the_tick_nor_the_others(empty_site, monkeypatch):
    monkeypatch.setattr(http, "LONGEST", 0.5)
    rule(name="plan-failed")
    with web_server() as slow, web_server() as quick:
        slow.manner = "hang"
        channel(empty_site, "slack", slow.url(), name="a slow one")
        channel(empty_site, "slack", quick.url(), name="quick")
        fire(monkeypatch, DOWN, Observation(subject="weekly", text="Weekly failed."))
        began = time.monotonic()
        tasks.tick("test-host")
        assert time.monotonic() - began < 15 and not slow.requests
        began = time.monotonic()
        outbox.turn()
        assert time.monotonic() - began < 15
        assert len(slow.requests) == len(quick.requests) == 1
        assert len(json.loads(quick.requests[0].body)["attachments"]) == 2, "one message for both"


# Who is told


def test_recipients_of_a_rule(empty_site, monkeypatch, clock):
    all_warnings = channel(empty_site, "slack", "https://a.example.org/", name="a")
    critical = channel(empty_site, "slack", "https://b.example.org/", name="b", least="critical")
    named = channel(empty_site, "slack", "https://c.example.org/", name="c", least="")
    rule(name="one")
    two = rule(name="two", severity="critical")
    three = rule(name="three")
    three.channels.add(named)
    rule(name="four", severity="info")
    anna = empty_site.person("anna", "viewer")
    services.subscribe(empty_site.actor, AlertSubscription(user_id=str(anna.pk), username="anna", least=""), [two])
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    told: dict[str, list[str]] = {}
    for delivery in AlertDelivery.objects.all():
        told.setdefault(delivery.message["rule"]["name"], []).append(delivery.to)
    assert {name: sorted(names) for name, names in told.items()} == {
        "one": ["a"],
        "two": ["a", "anna", "b"],
        "three": ["c"],
    }
    assert {all_warnings.name, critical.name, named.name} == {"a", "b", "c"}


def test_a_subscription_is_mailed_to_the_account_as_it_is_now(empty_site, monkeypatch, clock):
    rule()
    anna = empty_site.person("anna", "viewer")
    anna.email = "old@example.org"
    anna.save()
    services.subscribe(empty_site.actor, AlertSubscription(user_id=str(anna.pk), username="anna", least="warning"), [])
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    anna.email = "new@example.org"
    anna.save()
    with mail_server() as server, with_mail(server):
        outbox.turn(clock)
        assert [letter["X-To"] for letter in server.letters] == ["new@example.org"]
        anna.groups.remove(Group.objects.get(name="viewer"))
        fire(monkeypatch)
        evaluation.decide(clock())
        outbox.turn(clock)
    assert len(server.letters) == 1
    assert "may not see alerts" in AlertDelivery.objects.get(event="resolved").answer


def test_acknowledging_stops_escalation_and_is_audited(empty_site, web, monkeypatch, clock):
    pager = channel(empty_site, "slack", web.url(), name="pager", least="")
    ops = channel(empty_site, "slack", web.url(), name="ops")
    made = rule(escalate_minutes=30)
    made.escalate_to.add(pager)
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    services.acknowledge(Actor(name="anna", via=Job.Via.PAGES), Alert.objects.get(), "on it")
    clock.move(hours=1)
    evaluation.decide(clock())
    assert list(AlertDelivery.objects.values_list("to", flat=True)) == [ops.name]
    alert = Alert.objects.get()
    assert (alert.acknowledged_by, alert.acknowledged_note) == ("anna", "on it")
    services.acknowledge(Actor(name="otto", via=Job.Via.PAGES), alert, "me too")
    assert Alert.objects.get().acknowledged_by == "anna"
    assert AuditEntry.objects.filter(action="alert.acknowledged").count() == 1


def test_removing_a_rule_resolves_its_alerts(empty_site, web, monkeypatch, clock):
    channel(empty_site, "webhook", web.url())
    made = rule()
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    services.remove_rule(empty_site.actor, made)
    evaluation.decide(clock())
    outbox.turn(clock)
    assert json.loads(web.requests[1].body)["alerts"][0]["ended_by"] == "The rule was removed."
    made = rule(builtin=True)
    with pytest.raises(UsageError, match="is built in"):
        services.remove_rule(empty_site.actor, made)


# Detectors on real facts


@pytest.mark.slow
def test_the_default_rules_fire_on_a_real_site(empty_site, clock):
    made = install()
    assert sum(name.startswith("alert ") for name in made) == len(DEFAULTS) and not install()
    evaluation.evaluate_rules("test-host", clock())
    assert not Alert.objects.filter(fired__isnull=False).exists(), "nothing fires on a new installation at once"
    IndexedBackup.objects.create(
        repository="main",
        backup_id="20261120T110000Z-full-aaaaaa",
        set="default",
        kind="full",
        time=clock() - timedelta(hours=5),
        finished=clock(),
        verification="damaged",
        problem="A block is gone.",
    )
    empty_site.repository.folder.joinpath("repository.json").rename(empty_site.places.root / "aside.json")
    plan = Plan.objects.get(name="daily-full")
    for _ in range(3):
        job = scheduling.run(plan, empty_site.actor)
        Job.objects.filter(pk=job.pk).update(state=Job.State.RUNNING, claim="x", started=clock())
        job.refresh_from_db()
        assert lifecycle.end(job, Job.State.FAILED, error={"code": "no_space", "message": "The disk is full."})
    for _ in range(30):
        clock.move(minutes=1)
        evaluation.evaluate_rules("test-host", clock())
    fired = dict(Alert.objects.filter(fired__isnull=False).values_list("rule", "text"))
    assert fired["damage-found"].endswith("A block is gone.")
    assert "3 times in a row: The disk is full." in fired["plan-failed-thrice"]
    assert set(fired) >= {"plan-failed", "no-proven-backup", "no-proven-backup-for-long", "repository-away"}
    assert "channel-unheard" not in fired and "detector-broken" not in fired
    assert Alert.objects.filter(rule="repository-away").count() == 1


def broken(facts, threshold):
    raise KeyError("papers")


BROKEN = Condition(name="papers", title="Papers", find=broken)
WORKING = Condition(
    name="readers",
    title="Readers",
    gather=lambda now: 7,
    find=lambda facts, threshold: [Observation(subject="", text="Many.")] if facts.more["readers"] > threshold else [],
)


def test_a_project_adds_conditions_and_one_that_raises_is_reported(empty_site, clock, caplog):
    rule(name="papers", kind="papers")
    rule(name="readers", kind="readers", threshold=6)
    rule(name="broken", kind="detector_broken")
    rule(name="gone", kind="not-installed")
    paths = [f"{__name__}.BROKEN", f"{__name__}.WORKING"]
    with override_settings(BACKUPS=empty_site.settings | {"ALERT_DETECTORS": paths}):
        _all.cache_clear()
        evaluation.decide(clock())
    told = dict(Alert.objects.values_list("subject", "text"))
    assert told[""] == "Many."
    assert told["papers"] == "The detector papers failed: KeyError: 'papers'"
    assert "no longer installed" in told["not-installed"]
    assert "The detector papers raised" in caplog.text


def test_findings_of_a_consistency_check_fire_an_alert(empty_site, clock):
    from consistency.models import Check

    with override_settings(BACKUPS=empty_site.settings | {"ALERT_DETECTORS": ["backups_consistency.alerts.CONSISTENCY"]}):
        assert "alert consistency" in install()
        evaluation.decide(clock())
        assert not Alert.objects.filter(rule="consistency").exists()
        found = {"missing_in_chromadb": 3, "metadata_mismatch": 1}
        check = Check.objects.create(state="done", findings_count=9, severities={"error": 4, "info": 5}, kinds=found)
        evaluation.decide(clock())
        alert = Alert.objects.get(rule="consistency")
        assert alert.text == "SQLite and Chroma disagree: 4 findings (3 “Missing in Chroma”, 1 “Metadata differs”)."
        Check.objects.create(state="failed", error={"message": "Chroma is locked."}, started=clock())
        clock.move(minutes=5)
        evaluation.decide(clock())
        texts = Alert.objects.filter(rule="consistency", resolved=None).values_list("text", flat=True)
        assert list(texts) == ["The last consistency check failed: Chroma is locked."] and check.pk


def test_clock_jumps_and_absent_workers_are_noted(empty_site, clock):
    rule(name="clock", kind="clock_jumped", threshold=120)
    rule(name="worker", kind="worker_silent", threshold=5)
    evaluation.note_clock("test-host", clock(), 1000.0, "boot-1")
    clock.move(minutes=1)
    evaluation.note_clock("test-host", clock(), 1060.2, "boot-1")
    assert AlertLook.objects.get(host="test-host").jumped is None
    clock.move(hours=-2)
    evaluation.note_clock("test-host", clock(), 1120.0, "boot-1")
    evaluation.decide(clock())
    assert Alert.objects.get().text == "The clock of test-host jumped back by 2 h."
    clock.move(minutes=20)
    evaluation.note_clock("test-host", clock(), 30.0, "boot-2")
    evaluation.decide(clock())
    assert "did not run for 20 min" in Alert.objects.get(rule="worker").text
    clock.move(hours=2)
    evaluation.note_clock("test-host", clock(), 7230.0, "boot-2")
    clock.move(minutes=1)
    evaluation.note_clock("test-host", clock(), 7290.0, "boot-2")
    clock.move(hours=1)
    evaluation.decide(clock())
    assert not Alert.objects.filter(open=True, resolved=None).exists()


def test_hosts_take_turns(empty_site, clock):
    assert evaluation._my_turn(clock())
    assert not evaluation._my_turn(clock())
    clock.move(seconds=31)
    assert evaluation._my_turn(clock()) and not evaluation._my_turn(clock())
    clock.move(hours=-5)
    assert evaluation._my_turn(clock())


# Dead man's switches


@pytest.mark.slow
def test_a_real_job_calls_its_switch_at_start_success_and_failure(empty_site, web):
    site = empty_site
    install()
    plan = Plan.objects.get(name="daily-control")
    channel(site, "ping", web.url("/ping/s3cr3t-token?tag=a"), plans=[plan])
    job = site.done(scheduling.run(plan, site.actor))
    assert job.state == Job.State.SUCCEEDED, job.error
    site.done(submit.verify(site.actor, backup_ids=[job.backup_id]))  # no plan, no call
    assert outbox.turn() == 2
    assert web.paths == [f"/ping/s3cr3t-token/start?tag=a&rid={job.pk}", f"/ping/s3cr3t-token?tag=a&rid={job.pk}"]
    assert job.backup_id in web.requests[1].body.decode() and "proven by restore" in web.requests[1].body.decode()
    site.repository.folder.joinpath("repository.json").rename(site.places.root / "aside.json")
    failed = site.done(scheduling.run(plan, site.actor))
    outbox.turn()
    assert web.paths[2:] == [
        f"/ping/s3cr3t-token/start?tag=a&rid={failed.pk}",
        f"/ping/s3cr3t-token/fail?tag=a&rid={failed.pk}",
    ]
    assert "failed." in web.requests[3].body.decode()


def test_a_retried_failure_is_not_reported_and_old_calls_are_superseded(empty_site, web, clock):
    install()
    plan = Plan.objects.get(name="hourly-incremental")
    channel(empty_site, "ping", web.url("/ping"), plans=[plan])
    first = scheduling.run(plan, empty_site.actor)
    assert lifecycle.claim("test-host", "me") == first
    first.refresh_from_db()
    assert lifecycle.end(first, Job.State.FAILED, error={"code": "source_busy", "message": "locked"})
    assert list(AlertDelivery.objects.values_list("event", flat=True)) == ["start"]
    web.status = 500
    outbox.turn(clock)
    again = first.tried_again
    Job.objects.filter(pk=again.pk).update(not_before=timezone.now())
    assert lifecycle.claim("test-host", "me") == again
    again.refresh_from_db()
    assert lifecycle.end(again, Job.State.SUCCEEDED, result={})
    web.status = 200
    clock.move(minutes=1)
    outbox.turn(clock)
    assert [path.partition("?")[0] for path in web.paths] == ["/ping/start", "/ping/start", "/ping"]
    assert web.paths[1].endswith(str(again.pk))
    assert list(AlertDelivery.objects.order_by("id").values_list("state", flat=True)) == ["dropped", "delivered", "delivered"]


def test_a_switch_for_the_worker_itself(empty_site, web, clock):
    channel(empty_site, "ping", web.url("/alive"), beat_minutes=5)
    for _ in range(11):
        evaluation.evaluate_rules("test-host", clock())
        outbox.turn(clock)
        clock.move(minutes=1)
    assert web.paths == ["/alive"] * 3


@pytest.mark.parametrize(
    ("kind", "target", "more", "why"),
    [
        ("mail", "", {}, "at least one"),
        ("mail", "anna", {}, "not a mail address"),
        ("mail", "\n".join(f"a{n}@example.org" for n in range(51)), {}, "maximum is 50"),
        ("slack", "ftp://h/", {}, "https"),
        ("webhook", "https://h/", {"key": "short"}, "not a signing key"),
        ("ping", "https://h/", {}, "plan"),
        ("slack", "https://h/", {"time_zone": "Nowhere"}, "zone"),
        ("slack", "https://h/", {"quiet_from": "22:00"}, "both times"),
    ],
)
def test_invalid_channels_are_refused(empty_site, kind, target, more, why):
    with pytest.raises(UsageError, match=why):
        channel(empty_site, kind, target, **more)
    assert not AlertChannel.objects.exists() and not AuditEntry.objects.exists()


def test_old_messages_and_alerts_are_removed(empty_site, monkeypatch, clock):
    rule()
    channel(empty_site, "slack", "https://a.example.org/")
    fire(monkeypatch, DOWN)
    evaluation.decide(clock())
    fire(monkeypatch)
    evaluation.decide(clock())
    AlertDelivery.objects.update(state=State.DELIVERED)
    evaluation._tidy(clock() + timedelta(days=31))
    assert not AlertDelivery.objects.exists() and Alert.objects.count() == 1
    assert transitions.Event(next(iter(Alert.objects.get().told.values()))) is transitions.Event.RESOLVED
    evaluation._tidy(clock() + timedelta(days=401))
    assert not Alert.objects.exists()
