"""Alerts in a browser: add and test a channel, acknowledge an alert, call a monitor."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.control.receivers import web_server

pytestmark = pytest.mark.slow

_FIRE = """
from django.utils import timezone
from backups.models import Alert, AlertRule
values = {"title": "In the browser", "kind": "detector_broken"}
AlertRule.objects.get_or_create(name="browser", defaults=values)
now = timezone.now()
alert = Alert.objects.create(
    rule="browser", title="In the browser", subject=SUBJECT, severity="critical", text=f"The disk of {SUBJECT} is nearly full.",
    todo="Free space.", link="backups:plans", since=now, seen=now, fired=now,
)
print(alert.pk)
"""
_PLAN = """
from backups.plans import scheduling
from backups.identity.audit import Actor
from backups.models import Job, Plan
print(scheduling.run(Plan.objects.get(name="daily-control"), Actor(name="test", via=Job.Via.COMMAND)).pk)
"""


@pytest.mark.parametrize(("width", "dark", "scripts"), [(1200, False, True), (390, True, True), (390, False, False)])
def test_channel_is_added_and_tested(signed_in, served_site, assert_clean, width, dark, scripts):
    def clean() -> None:
        if scripts:  # axe is a script
            assert_clean(page)

    name = f"Chat {width} {scripts}"
    with web_server() as web:
        web.answer = b"taken, thank you"
        page = signed_in(width=width, dark=dark, scripts=scripts)
        page.goto(f"{served_site.address}/admin/backup/alerts/")
        clean()
        page.locator("summary", has_text="Add a channel").click()
        page.get_by_role("link", name="Slack-shaped webhook", exact=True).click()
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Address").fill("ftp://chat.example.org/")
        page.get_by_label("Time zone").fill("Europe/Berlin")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#id_target_error")).to_contain_text("It must begin with https:// or http://.")
        page.console_messages.clear()  # the browser logs the 400 of the refused form
        page.get_by_label("Address").fill(web.url())
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".rb-verdict")).to_contain_text("Not tested.")
        page.get_by_role("button", name="Test").click()
        expect(page.locator(".messagelist")).to_contain_text("The receiver answered: 200 taken, thank you")
        expect(page.locator(".rb-verdict.good")).to_contain_text("The last test was accepted")
        assert web.requests[0].path == "/hook/s3cr3t-token" and "s3cr3t-token" not in page.content()
        clean()
        page.goto(f"{served_site.address}/admin/backup/alerts/")
        web.status, web.answer = 404, b"no such hook"
        page.get_by_role("button", name=f"Test to {name}").click()
        expect(page.locator(".messagelist .error")).to_contain_text("failed: 404 no such hook")
        clean()
        page.get_by_role("link", name=name).first.click()
        page.get_by_text("Delete channel…").click()
        page.get_by_role("button", name=f"Delete {name}").click()
        expect(page.locator(".messagelist")).to_contain_text(f"{name} deleted.")


@pytest.mark.parametrize(("width", "dark"), [(1200, True), (390, False)])
def test_alert_is_acknowledged(signed_in, served_site, assert_clean, width, dark):
    page = signed_in(width=width, dark=dark)
    subject = f"disk-{width}"
    alert = served_site.script(f"SUBJECT = {subject!r}\n{_FIRE}")
    page.goto(f"{served_site.address}/admin/backup/alerts/")
    expect(page.locator(".rb-verdict.bad")).to_contain_text(f"The disk of {subject} is nearly full.")
    assert_clean(page)
    card = page.locator(".rb-alerts li", has_text=subject)
    card.get_by_label("Note on").fill("ordered a bigger one")
    card.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".rb-alerts li", has_text=subject)).to_contain_text("Acknowledged by admin: ordered a bigger one")
    page.goto(f"{served_site.address}/admin/backup/alerts/{alert}/")
    expect(page.locator(".rb-facts")).to_contain_text("ordered a bigger one")
    assert_clean(page)
    for path in ("rules/plan-failed/", "rules/new/", "mine/", "channels/new/ping/") if dark else ():
        page.goto(f"{served_site.address}/admin/backup/alerts/{path}")
        assert_clean(page)
    served_site.script(f"from backups.models import Alert; Alert.objects.filter(pk={alert!r}).delete()")


def test_dead_mans_switch_is_called(served_site):
    with web_server() as web:
        served_site.script(
            "from backups.models import AlertChannel, Plan\n"
            f"made = AlertChannel.objects.create(name='Switch', kind='ping', target={web.url('/ping')!r})\n"
            "made.plans.set(Plan.objects.filter(name='daily-control'))"
        )
        job = served_site.script(_PLAN)
        deadline = time.monotonic() + 60
        while len(web.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert web.paths == [f"/ping/start?rid={job}", f"/ping?rid={job}"]
        assert "proven by restore" in web.requests[1].body.decode()
        served_site.script("from backups.models import AlertChannel; AlertChannel.objects.filter(name='Switch').delete()")
