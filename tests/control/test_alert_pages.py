"""The pages of alerts: permissions, content, and secrets that are never shown."""

from __future__ import annotations

import re
from datetime import time, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from backups.alerts import evaluation, services
from backups.alerts.default_rules import DEFAULTS, install
from backups.models import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, AuditEntry, Plan
from consistency.models import Check
from tests.control.receivers import web_server

ALERTS = "/admin/backup/alerts/"


def channel(site, **values) -> AlertChannel:
    known = {"name": "ops", "kind": "slack", "target": "https://chat.example.org/hook/s3cr3t-token"}
    return services.save_channel(site.actor, AlertChannel(**(known | values)))


def fired(rule: str = "plan-failed", *, hours: float = 1, **values) -> Alert:
    moment = timezone.now() - timedelta(hours=hours)
    known = {"rule": rule, "title": "A plan failed in a row", "severity": "warning", "text": "Nightly failed: <b>no space</b>."}
    return Alert.objects.create(since=moment, seen=moment, fired=moment, **(known | values))


def text(answer) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def looked() -> None:
    AlertLook.objects.update_or_create(host="", defaults={"at": timezone.now()})


def test_a_condition_that_nothing_was_checked_for_is_not_ok(empty_site, settings):
    settings.BACKUPS = empty_site.settings | {"ALERT_DETECTORS": ["backups_consistency.alerts.CONSISTENCY"]}
    install()
    client = empty_site.client("ann", "viewer")

    def state() -> str:
        before, _, _ = text(client.get(ALERTS)).partition("SQLite and Chroma disagree")
        return before.rstrip()

    assert state().endswith("Not checked")
    Check.objects.create(source=Check.LIVE, state=Check.State.DONE, started=timezone.now())
    assert state().endswith("OK")


@pytest.mark.slow
def test_summary_sentence(empty_site):
    client = empty_site.client("admin", superuser=True)
    install()
    assert "Rules are not evaluated: the worker is not running." in text(client.get(ALERTS))
    looked()
    assert "No alerts, but nobody would be notified." in text(client.get(ALERTS))
    ops = channel(empty_site)
    assert "1 channel. Not tested successfully: ops." in text(client.get(ALERTS))
    AlertChannel.objects.filter(pk=ops.pk).update(tested=timezone.now(), tested_ok=True)
    answer = client.get(ALERTS)
    assert f"No alerts. {len(DEFAULTS)} rules enabled, 1 channel." in text(answer)
    assert 'class="rb-verdict good"' in answer.content.decode()
    fired(subject="a")
    fired("damage-found", severity="critical", text="Backup b1 is damaged.")
    answer = client.get(ALERTS)
    assert "2 alerts firing. Backup b1 is damaged." in text(answer)
    assert 'class="rb-verdict bad"' in answer.content.decode()
    assert "&lt;b&gt;no space&lt;/b&gt;" in answer.content.decode()


def test_permissions(empty_site):
    install()
    ops, alert = channel(empty_site), fired()
    name = "plan-failed"
    forms = {
        reverse("backups:alert_channel_new", args=["mail"]): "change",
        reverse("backups:alert_channel", args=[ops.pk]): "change",
        reverse("backups:alert_rule_new"): "change",
    }
    posts = {
        reverse("backups:alert_channel_test", args=[ops.pk]): "change",
        reverse("backups:alert_channel_key", args=[ops.pk]): "change",
        reverse("backups:alert_channel_remove", args=[ops.pk]): "change",
        reverse("backups:alert_rule", args=[name]): "change",
        reverse("backups:alert_rule_switch", args=[name]): "change",
        reverse("backups:alert_rule_remove", args=[name]): "change",
        reverse("backups:alert_acknowledge", args=[alert.pk]): "acknowledge",
    }
    viewer, restorer = empty_site.client("vera", "viewer"), empty_site.client("rita", "restorer")
    for address in (ALERTS, alert.get_absolute_url(), reverse("backups:alert_rule", args=[name]), f"{ALERTS}mine/"):
        page = viewer.get(address)
        assert page.status_code == 200 and "s3cr3t-token" not in page.content.decode()
        assert ">Test<" not in page.content.decode()
    for address in forms:
        assert viewer.get(address).status_code == restorer.get(address).status_code == 403
    for address, needed in posts.items():
        assert viewer.post(address).status_code == 403, address
        if needed == "change":
            assert restorer.post(address).status_code == 403, address
        assert viewer.get(address).status_code in (200, 405)
    assert restorer.post(reverse("backups:alert_acknowledge", args=[alert.pk]), {"note": "on it"}).status_code == 302
    assert Alert.objects.get().acknowledged_by == "rita"
    assert empty_site.client("nobody").get(ALERTS).status_code == 403


def test_channel_test_shows_answer(empty_site):
    client = empty_site.client("olga", "operator")
    with web_server() as web:
        web.answer = b"taken, thank you"
        ops = channel(empty_site, target=web.url())
        page = client.post(reverse("backups:alert_channel_test", args=[ops.pk]), {"back": "list"}, follow=True)
        assert "Test of ops accepted. The receiver answered: 200 taken, thank you" in text(page)
        web.status, web.answer = 403, b"who are you?"
        page = client.post(reverse("backups:alert_channel_test", args=[ops.pk]), follow=True)
        assert "Test of ops failed: 403 who are you?" in text(page)
        assert "The last test failed" in text(page)
    assert list(AuditEntry.objects.filter(action="alert_channel.tested").values_list("who", flat=True)) == ["olga"] * 2


def test_channel_forms_hide_secrets(empty_site):
    client = empty_site.client("olga", "operator")
    new = reverse("backups:alert_channel_new", args=["webhook"])
    given = {"name": "Robots", "target": "file:///etc/passwd", "least": "critical", "time_zone": "UTC", "enabled": "on"}
    page = client.post(new, given)
    assert page.status_code == 400 and "It must begin with https:// or http://." in text(page)
    page = client.post(new, given | {"target": "http://169.254.169.254/latest/"})
    assert page.status_code == 400 and "not among the hosts" in text(page)
    page = client.post(new, given | {"target": "https://robots.example.org/in/s3cr3t-token"}, follow=True)
    made = AlertChannel.objects.get()
    assert made.key.startswith("whsec_") and (made.least, made.critical_passes) == ("critical", False)
    assert "Send a test now" in text(page) and "s3cr3t" not in page.content.decode() and made.key not in page.content.decode()
    changed = {"name": "Robots", "target": "", "key": "", "least": "", "time_zone": "Europe/Berlin", "enabled": "on"}
    client.post(made.get_absolute_url(), changed | {"quiet_from": "22:00", "quiet_until": "06:30"})
    after = AlertChannel.objects.get()
    assert (after.target, after.key, after.least) == (made.target, made.key, "")
    assert (after.quiet_from, after.quiet_until) == (time(22), time(6, 30))
    page = client.post(made.get_absolute_url(), changed | {"quiet_from": "22:00"})
    assert page.status_code == 400 and "Enter both times, or none." in text(page)
    page = client.post(reverse("backups:alert_channel_key", args=[made.pk]))
    assert made.key in page.content.decode() and AuditEntry.objects.filter(action="alert_channel.key_shown").exists()
    client.post(reverse("backups:alert_channel_remove", args=[made.pk]))
    assert not AlertChannel.objects.exists()


def test_mail_and_switch_forms(empty_site):
    client = empty_site.client("olga", "operator")
    install()
    mail = {"name": "Mail", "target": "anna@example.org\r\notto", "least": "warning", "time_zone": "UTC", "enabled": "on"}
    page = client.post(reverse("backups:alert_channel_new", args=["mail"]), mail)
    assert page.status_code == 400 and "is not a mail address" in text(page)
    client.post(reverse("backups:alert_channel_new", args=["mail"]), mail | {"target": "anna@example.org\r\notto@example.org"})
    assert "anna@example.org, otto@example.org" in text(client.get(ALERTS))
    plan = Plan.objects.create(name="nightly", title="Nightly", kind="backup", cron="0 3 * * *")
    ping = {"name": "Switch", "target": "https://hc.example.org/uuid", "beat_minutes": "0", "enabled": "on"}
    page = client.post(reverse("backups:alert_channel_new", args=["ping"]), ping)
    assert page.status_code == 400 and "Choose the plan whose jobs it watches" in text(page)
    client.post(reverse("backups:alert_channel_new", args=["ping"]), ping | {"plans": [plan.pk]})
    assert list(AlertChannel.objects.get(kind="ping").plans.all()) == [plan]


def test_rules_are_added_changed_disabled_and_removed(empty_site):
    client = empty_site.client("olga", "operator")
    install()
    ops = channel(empty_site)
    rule = AlertRule.objects.get(name="plan-failed")
    given = {
        "title": rule.title,
        "threshold": "2",
        "lasting_minutes": "5",
        "settle_minutes": "2",
        "severity": "critical",
        "enabled": "on",
    }
    page = client.post(rule.get_absolute_url(), given | {"escalate_minutes": "30"})
    assert page.status_code == 400 and "Select the channels to escalate to." in text(page)
    client.post(rule.get_absolute_url(), given | {"escalate_minutes": "30", "escalate_to": [ops.pk], "channels": [ops.pk]})
    rule.refresh_from_db()
    assert (rule.threshold, rule.lasting_minutes, rule.severity, rule.escalate_minutes) == (2, 5, "critical", 30)
    assert "2 or more in a row, for 5 min" in text(client.get(ALERTS)) and "ops; after 30 min ops" in text(client.get(ALERTS))
    client.post(reverse("backups:alert_rule_new"), given | {"title": "New", "kind": "space"})
    made = AlertRule.objects.get(title="New")
    assert made.name == "new-2", "the address of the form stays free"
    client.post(reverse("backups:alert_rule_switch", args=[made.name]), {"enabled": "no"})
    assert not AlertRule.objects.get(pk=made.pk).enabled
    client.post(reverse("backups:alert_rule_remove", args=[made.name]))
    assert not AlertRule.objects.filter(pk=made.pk).exists()
    refused = client.post(reverse("backups:alert_rule_remove", args=[rule.name]))
    assert refused.status_code == 400 and "Switch it off instead." in text(refused)
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {
        "alert_rule.changed",
        "alert_rule.made",
        "alert_rule.switched_off",
        "alert_rule.removed",
    }


def test_subscription(empty_site):
    client = empty_site.client("vera", "viewer")
    install()
    page = client.get(f"{ALERTS}mine/")
    assert "Your account has no mail address" in text(page)
    rule = AlertRule.objects.get(name="damage-found")
    client.post(f"{ALERTS}mine/", {"least": "", "rules": [rule.pk], "time_zone": "UTC", "critical_passes": "on"})
    mine = AlertSubscription.objects.get()
    assert (mine.username, list(mine.rules.all())) == ("vera", [rule])
    page = client.post(f"{ALERTS}mine/", {"least": "info", "time_zone": "Nowhere"})
    assert page.status_code == 400 and "Unknown time zone" in text(page)


def test_history_filters_and_pages(empty_site):
    client = empty_site.client("vera", "viewer")
    install()
    for number in range(60):
        fired(hours=number + 1, subject=f"subject-{number}", text=f"Number {number}.", resolved=timezone.now(), open=False)
    fired("damage-found", hours=0.5, severity="critical", text="Damaged.")
    seen: list[str] = []
    query = ""
    for _ in range(3):
        page = client.get(f"{ALERTS}{query}")
        seen += re.findall(r"Number (\d+)\.", page.content.decode())
        older = re.search(r'href="(\?[^"#]*before=[^"#]*)#history" rel="next"', page.content.decode())
        query = older[1].replace("&amp;", "&") if older else ""
    assert seen == [str(number) for number in range(60)] and not query
    newer = re.search(r'href="(\?[^"#]*after=[^"#]*)#history" rel="prev"', page.content.decode())
    assert "Number 24." in client.get(ALERTS + newer[1].replace("&amp;", "&")).content.decode()
    assert "Number" not in client.get(f"{ALERTS}?severity=critical").content.decode()
    assert "Number" not in client.get(f"{ALERTS}?state=lasting&rule=damage-found").content.decode()
    assert "No alerts match these filters." in text(client.get(f"{ALERTS}?q=nothing+like+it"))
    assert client.get(f"{ALERTS}?before=nonsense&state=x").status_code == 200


def test_alert_shows_deliveries(empty_site, monkeypatch):
    ops = channel(empty_site)
    alert = fired(link="backups:plans", todo="Free space.", subject="nightly", told={f"channel:{ops.pk}": "fired"})
    delivery = AlertDelivery.objects.create(
        event="fired", recipient="channel:1", to="ops", thread="x", state="waiting", attempts=2, status=503, answer="busy"
    )
    delivery.alerts.set([alert])
    admin = empty_site.client("root", superuser=True)
    assert "0 of 1 recipient reached" in text(admin.get(ALERTS)), "a message that was given up told nobody"
    AlertDelivery.objects.filter(pk=delivery.pk).update(state="delivered")
    assert "1 of 1 recipient reached" in text(admin.get(ALERTS))
    AlertDelivery.objects.filter(pk=delivery.pk).update(state="waiting")
    page = empty_site.client("olga", "operator").get(alert.get_absolute_url())
    assert "2 attempts" in text(page) and "503 busy" in text(page) and reverse("backups:plans") in page.content.decode()
    assert "503 busy" not in text(empty_site.client("vera", "viewer").get(alert.get_absolute_url()))
    assert empty_site.client("admin", superuser=True).get(f"{ALERTS}00000000-0000-0000-0000-000000000000/").status_code == 404


@pytest.mark.slow
def test_page_cost_is_independent_of_history(empty_site, django_assert_max_num_queries):
    client = empty_site.client("admin", superuser=True)
    install()
    ops = channel(empty_site)
    now = timezone.now()
    Alert.objects.bulk_create(
        Alert(
            rule="plan-failed",
            title="x",
            severity="warning",
            text=f"Number {n}.",
            since=now,
            seen=now,
            fired=now - timedelta(minutes=20 * n),
            resolved=now,
            open=False,
        )
        for n in range(3_000)
    )
    AlertDelivery.objects.bulk_create(
        AlertDelivery(event="fired", recipient=f"channel:{ops.pk}", to="ops", thread="x", state="delivered")
        for _ in range(3_000)
    )
    client.get(ALERTS)
    with django_assert_max_num_queries(40, using="control"):
        began = timezone.now()
        assert client.get(ALERTS).status_code == 200
        took = timezone.now() - began
    assert took < timedelta(seconds=1), took  # 100 ms on a machine of its own
    began = timezone.now()
    evaluation.evaluate_rules("test-host", now)
    assert timezone.now() - began < timedelta(seconds=2)


@pytest.mark.parametrize("address", ["channels/new/pigeon/", "channels/99/", "rules/none/"])
def test_missing_objects_are_not_found(empty_site, address):
    assert empty_site.client("admin", superuser=True).get(ALERTS + address).status_code == 404
