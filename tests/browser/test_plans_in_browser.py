"""Plans, tokens, the audit and the second factor in a browser: live previews, and the same without scripts."""

from __future__ import annotations

import base64
import json
import re
import time

import pytest
from django_otp.oath import TOTP
from playwright.sync_api import expect

from tests.browser.served import PASSWORD, sign_in, watched

pytestmark = pytest.mark.slow
PLANS = "/admin/backup/plans/"
PLACES = [
    PLANS,
    f"{PLANS}-/new/",
    f"{PLANS}-/new/?kind=backup",
    f"{PLANS}daily-prune/",
    f"{PLANS}daily-prune/delete/",
    f"{PLANS}-/import/",
    "/admin/backup/tokens/",
    "/admin/backup/audit/",
    "/admin/backup/second-factor/",
]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_every_page_is_clean(served_site, signed_in, assert_clean, width, dark):
    page = signed_in(width=width, dark=dark)
    for address in PLACES:
        page.goto(served_site.address + address)
        for details in page.locator(".rb details:not(.rb-menu)").all():
            details.evaluate("(element) => element.open = true")
        assert_clean(page)


def test_plan_is_added_with_live_preview_changed_and_deleted(served_site, signed_in, assert_clean):
    page = signed_in()
    page.goto(served_site.address + PLANS)
    page.get_by_role("link", name="Add a plan").click()
    page.get_by_role("link", name="Back up").click()
    page.fill("#id_name", "by-hand")
    page.fill("#id_cron", "45 4 * * 1-5")
    due = page.get_by_role("status", name="Next times")
    expect(due).to_contain_text("Monday to Friday at 04:45")
    expect(due.locator("li")).to_have_count(5)
    page.fill("#id_time_zone", "Asia/Tokyo")
    expect(due).to_contain_text("(Asia/Tokyo)")
    page.fill("#id_cron", "99 4 * * *")
    expect(due).to_contain_text("bad minute")
    page.get_by_role("button", name="Add plan").click()
    expect(page.get_by_role("alert").first).to_contain_text("Correct the marked fields")
    assert page.console_messages == ["error: Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    page.console_messages.clear()
    page.fill("#id_cron", "45 4 * * 1-5")
    page.get_by_role("button", name="Add plan").click()
    page.wait_for_url(f"**{PLANS}by-hand/")
    expect(page.locator(".rb-verdict")).to_contain_text("Monday to Friday at 04:45")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".rb-verdict")).to_contain_text("Paused by admin")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".rb-verdict")).not_to_contain_text("Paused")
    assert_clean(page)
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete plan by-hand").click()
    page.wait_for_url(f"**{PLANS}")
    expect(page.locator(".rb-plans")).not_to_contain_text("by-hand")


def test_retention_preview_follows_input(served_site, signed_in, assert_clean):
    page = signed_in()
    page.goto(f"{served_site.address}{PLANS}daily-prune/")
    found = page.get_by_role("status", name="Effect of these rules now")
    for field in page.locator(".rb-rules input").all():
        field.fill("")
    expect(found).to_contain_text("Give at least one rule")
    page.get_by_label("Newest").fill("5")
    expect(found).to_contain_text(re.compile("no backups yet|Keeps"))
    assert_clean(page)


def test_run_now_shows_the_job(served_site, signed_in):
    page = signed_in()
    page.goto(f"{served_site.address}{PLANS}weekly-audit/")
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url("**/admin/backup/jobs/*/")
    expect(page.locator("#content")).to_contain_text("Done", timeout=60_000)
    page.goto(f"{served_site.address}{PLANS}weekly-audit/")
    expect(page.locator(".rb-table")).to_contain_text("by admin")
    page.goto(f"{served_site.address}/admin/backup/audit/")
    expect(page.locator(".rb-verdict")).to_contain_text("The chain is intact")


def test_preview_without_scripts(served_site, signed_in):
    page = signed_in(scripts=False)
    page.goto(f"{served_site.address}{PLANS}weekly-full/")
    page.fill("#id_cron", "5 5 5 * *")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("status", name="Next times")).to_contain_text("The 5th of each month at 05:05 UTC")
    page.goto(f"{served_site.address}{PLANS}weekly-full/")
    assert page.input_value("#id_cron") == "30 23 * * 0", "nothing was saved"


def test_plans_are_exported_and_imported(served_site, signed_in, tmp_path):
    page = signed_in()
    page.goto(served_site.address + PLANS)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as YAML").click()
    file = tmp_path / "plans.yaml"
    text = download.value.path().read_text("utf-8")
    file.write_text(text.replace("title: Daily full\n", "title: Full every day\n"), "utf-8")
    page.get_by_role("link", name="Import").click()
    page.set_input_files("#file", file)
    page.get_by_role("button", name="Preview changes").click()
    expect(page.get_by_label("Changes of daily-full")).to_contain_text("+ title: Full every day")
    page.get_by_role("button", name="Apply changes").click()
    page.wait_for_url(f"**{PLANS}")
    expect(page.locator(".messagelist")).to_contain_text("1 plan changed.")
    expect(page.locator(".rb-plans")).to_contain_text("Full every day")


def test_token_is_created_and_copied(served_site, signed_in, assert_clean):
    page = signed_in()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served_site.address)
    page.goto(f"{served_site.address}/admin/backup/tokens/")
    page.get_by_label("Name").fill("a test")
    page.locator("input[name=scopes][value=read]").check()
    page.get_by_role("button", name="Create token").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("rsb_")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("[data-copied]")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    assert_clean(page)
    page.goto(f"{served_site.address}/admin/backup/tokens/")
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke a test").click()
    expect(page.locator(".rb-table")).to_contain_text("Revoked")


MAKE = """
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser("twofold", "", {password!r})
"""
TOLD = """
import json
from backups.models import AuditEntry
print(json.dumps(list(AuditEntry.objects.filter(who="twofold").order_by("number").values_list("action", flat=True))))
"""
MOVE = "from django_otp.plugins.otp_totp.models import TOTPDevice; TOTPDevice.objects.update(last_t=-1)"


def test_second_factor_enrolment_and_sign_in(served_site, browser, assert_clean):
    served_site.script(MAKE.format(password=PASSWORD))
    page = watched(browser.new_context().new_page(), served_site.address)
    sign_in(page, served_site.address, name="twofold")
    page.get_by_role("link", name="Second factor").click()
    page.get_by_role("button", name="Set up a second factor").click()
    picture = page.get_by_role("img", name="QR code of the key").locator("svg")
    box = picture.bounding_box()
    assert box is not None and box["width"] > 150 and abs(box["width"] - box["height"]) < 4, "it can be scanned"
    key = base64.b32decode(page.locator("#key").inner_text().replace(" ", ""))
    assert_clean(page)

    def code() -> str:
        return f"{TOTP(key).token():06d}"

    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_label("Six-digit code").fill("123456" if code() != "123456" else "654321")
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("alert")).to_contain_text("That code is wrong")
    page.console_messages.clear()  # the browser logs the status of the response
    time.sleep(1.1)  # a wrong code makes the next one wait for a second
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_label("Six-digit code").fill(code())
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#codes li")).to_have_count(10)
    codes = page.locator("#codes li").all_inner_texts()
    assert_clean(page)
    served_site.script(MOVE)

    page = watched(browser.new_context(viewport={"width": 390, "height": 800}).new_page(), served_site.address)
    page.goto(f"{served_site.address}/admin/login/?next={PLANS}")
    page.fill("#id_username", "twofold")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/second-factor/code/?next=*")
    assert_clean(page)
    page.goto(f"{served_site.address}/admin/")
    page.wait_for_url("**/second-factor/code/?next=*")
    page.get_by_label("Code").fill(codes[0])
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url("**/admin/")
    found = json.loads(served_site.script(TOLD))
    assert found[-2:] == ["account.signed_in", "second_factor.accepted"]


def test_wrong_passwords_show_waiting_time(served_site, browser):
    page = watched(browser.new_context().new_page(), served_site.address)
    for _ in range(5):
        page.goto(f"{served_site.address}/admin/login/")
        page.fill("#id_username", "nobody-in-particular")
        page.fill("#id_password", "wrong")
        page.press("#id_password", "Enter")
        expect(page.locator(".errornote")).to_be_visible()
    expect(page.locator(".errornote")).to_contain_text(re.compile(r"Wait (30|29) s"))
