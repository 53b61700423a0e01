"""Restore in a browser: from the list to the report and back, on a phone and in dark mode."""

from __future__ import annotations

import hashlib
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import served as serving
from tests.browser.served import PASSWORD

pytestmark = pytest.mark.slow

_THEN = """
from django.contrib.auth.models import User
from backups.jobs import submit
from backups.identity.audit import Actor
from backups.models import Job
User.objects.create_user("mallory", password="of-then-7", is_staff=True, is_superuser=True)
print(submit.back_up(Actor(name="tester", via=Job.Via.COMMAND), backup="full", note="a good state").pk)
"""
_WAIT = """
import time
from backups.models import Job
job = Job.objects.get(pk="{job}")
while not job.has_ended:
    time.sleep(0.2)
    job.refresh_from_db()
assert job.state == "succeeded", job.error
print(job.backup_id)
"""
_SINCE = """
from django.contrib.auth.models import User
from refserver.library import catalogue
from refserver.library.models import Paper
User.objects.filter(username="mallory").delete()
catalogue.remove(list(Paper.objects.order_by("pk")[:3]))
Paper.objects.filter(pk=Paper.objects.order_by("pk").first().pk).update(title="Mangled")
"""
_LOOKS = "from backups.models import Job\nprint(Job.objects.filter(kind='preview', arguments__only=None).count())"
_AGE = """
from django.contrib.sessions.models import Session
from backups.identity.sessions import SessionStore
for row in Session.objects.all():
    kept = row.get_decoded()
    kept["_confirmed"]["at"] -= 3600
    row.session_data = SessionStore().encode(kept)
    row.save()
"""
_PAPERS = "from refserver.library.models import Paper\nprint(Paper.objects.count())"


@pytest.fixture(scope="module")
def changed_site(sample_places, tmp_path_factory):
    """A site for this module with a backup and later changes of the live data; and the backup's id."""
    with serving.serve(sample_places, tmp_path_factory.mktemp("changed") / "site") as site:
        backup_id = site.script(_WAIT.format(job=site.script(_THEN).splitlines()[-1])).splitlines()[-1]
        site.script(_SINCE)
        yield site, backup_id


def choose(page: Page, address: str, backup_id: str, target: str) -> None:
    page.goto(f"{address}/admin/backup/restore/")
    page.get_by_role("link", name=f"Select {backup_id}").click()
    page.locator(f"input[name=target][value={target}]").check()


def test_backup_is_downloaded_from_the_list(signed_in, changed_site, assert_clean, tmp_path):
    site, backup_id = changed_site
    page = signed_in(site=site)
    page.goto(f"{site.address}/admin/backup/backups/")
    expect(page.locator(".rb-verdict")).to_contain_text("restore-tested")
    expect(page.get_by_role("button", name="Delete…")).to_be_disabled()
    page.get_by_label("Select all on this page").check()
    expect(page.locator("#ticked")).to_have_text("1 of 1")
    expect(page.get_by_role("button", name="Delete…")).to_be_enabled()
    assert_clean(page)
    page.locator(".made a").first.click()
    expect(page.locator(".rb-verdict")).to_contain_text("It is restore-tested: it was restored")
    expect(page.locator(".tables")).to_contain_text("tables,")
    assert_clean(page)
    page.get_by_text("Download ▾").click()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="data.tar.zst").click()
    content = (tmp_path / "data.tar.zst").with_name("got")
    downloading.value.save_as(content)
    stored = site.places.root / "backups" / "backups" / "default" / backup_id / "data.tar.zst"
    assert hashlib.sha256(content.read_bytes()).digest() == hashlib.sha256(stored.read_bytes()).digest()
    assert downloading.value.suggested_filename == f"{backup_id}-data.tar.zst"


def test_into_a_folder(signed_in, changed_site, assert_clean):
    site, backup_id = changed_site
    page = signed_in(site=site)
    choose(page, site.address, backup_id, "folder")
    page.get_by_text("Files documents").click()
    page.get_by_label("Folder in").fill("from-the-browser")
    assert_clean(page)
    page.get_by_role("button", name="Next: preview changes").click()
    expect(page.locator("#look")).to_contain_text("The live data will not change", timeout=30_000)
    page.get_by_role("link", name="Next: confirm").click()
    page.get_by_role("button", name="Restore into from-the-browser").click()
    expect(page.locator(".rb-verdict.good")).to_contain_text("Restored into", timeout=30_000)
    assert_clean(page)
    restored = site.places.root / "restored" / "from-the-browser" / "files" / "documents"
    assert sum(path.is_file() for path in restored.rglob("*")) == 65


def test_restore_in_place_through_all_steps(signed_in, changed_site, cookies, assert_clean):
    site, backup_id = changed_site
    assert site.script(_PAPERS) == "62"
    page = signed_in(site=site)
    choose(page, site.address, backup_id, "in_place")
    page.get_by_role("button", name="Next: preview changes").click()

    # The changes appear without a reload, the accounts first
    look = page.locator("#look")
    expect(look.locator(".rb-verdict.warn")).to_contain_text("restored", timeout=30_000)
    expect(page).to_have_url(re.compile("look="))
    expect(look.locator("section").first).to_contain_text("No account will gain permissions.")
    expect(look.locator("section").first).to_contain_text("mallory: it was removed, and will be disabled")
    expect(look.locator("tr", has_text="library_paper").first).to_contain_text("+3")
    assert_clean(page)

    # Back through the steps and the browser's history: the selection is kept, and no second preview is made
    page.get_by_label("Steps of a restore").get_by_role("link", name="Stores and target").click()
    expect(page.locator("input[value=in_place]")).to_be_checked()
    page.get_by_label("Steps of a restore").get_by_role("link", name="Backup").click()
    page.get_by_role("link", name=f"Selected: continue {backup_id}").click()
    expect(page.locator("input[value=in_place]")).to_be_checked()
    page.go_back()
    page.go_back()
    page.go_back()
    expect(look.locator(".rb-verdict.warn")).to_contain_text("restored")
    assert site.script(_LOOKS) == "1"
    page.get_by_role("link", name="Next: confirm").click()

    # A wrong id; a wrong and a right password after the session has aged; the page goes on with the restore
    confirm = page.get_by_role("button", name="Replace the live data")
    page.get_by_label("Type the id of the backup").fill("20200101T000000Z-full-000000")
    confirm.click()
    expect(page.get_by_role("alert")).to_contain_text("That is not the id of this backup. Nothing was changed.")
    page.get_by_label("Type the id of the backup").fill(backup_id)
    site.script(_AGE)
    confirm.click()
    page.get_by_label("Your password").fill("a guess")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("That is not your password. Nothing was done.")
    page.console_messages.clear()  # the browser logs the status of the question
    assert_clean(page)
    assert site.script(_PAPERS) == "62"
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Continue").click()

    # An account returned, so everybody is signed out; the card says so, and leads to the report
    expect(page.get_by_text("You were signed out because the accounts were restored.")).to_be_visible(timeout=60_000)
    assert_clean(page)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    cookies[site.address, "admin"] = page.context.cookies()
    expect(page.get_by_role("heading", name="Restore report")).to_be_visible(timeout=60_000)
    expect(page.locator(".rb-verdict.good")).to_contain_text("Restored: the live data is that of")
    expect(page.locator(".accounts")).to_contain_text("mallory")
    expect(page.get_by_role("button", name="Print")).to_be_visible()
    assert_clean(page)
    assert site.script(_PAPERS) == "65"

    # Undo: restore the safety backup
    page.get_by_role("link", name="Restore the safety backup…").click()
    expect(page.locator(".rb-verdict")).to_contain_text("It holds the live data before an earlier restore")
    expect(page.locator("input[value=in_place]")).to_be_checked()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, True)])
def test_every_step_in_dark_mode_and_on_a_phone(signed_in, changed_site, assert_clean, width, dark):
    site, backup_id = changed_site
    page = signed_in(site=site, width=width, dark=dark)
    chosen = f"backup={backup_id}&target=in_place"
    for path in (
        "backups/",
        f"backups/{backup_id}/",
        f"backups/delete/?id={backup_id}",
        "restore/?at=2099-01-01T00:00",
        f"restore/what/?{chosen}",
        f"restore/confirm/?{chosen}",
    ):
        page.goto(f"{site.address}/admin/backup/{path}")
        assert_clean(page)
    page.goto(f"{site.address}/admin/backup/restore/changes/?{chosen}")
    expect(page.locator("#look .rb-verdict")).to_be_visible(timeout=30_000)
    assert_clean(page)


def test_without_scripts(signed_in, changed_site):
    site, backup_id = changed_site
    page = signed_in(site=site, scripts=False)
    page.goto(f"{site.address}/admin/backup/restore/changes/?backup={backup_id}&only=files&target=in_place")
    page.get_by_role("button", name="Preview changes").click()
    for _ in range(60):
        if page.locator("#look .rb-verdict").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(page.locator("#look .rb-verdict")).to_be_visible()
    page.get_by_role("link", name="Next: confirm").click()
    expect(page.get_by_role("button", name="Replace the live data")).to_be_visible()
