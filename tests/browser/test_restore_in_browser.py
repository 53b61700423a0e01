"""Bringing something back as a person does it: from the list to the report, there and back, on a phone and in the dark."""

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
from backups import services
from backups.identity.audit import Actor
from backups.models import Job
User.objects.create_user("mallory", password="of-then-7", is_staff=True, is_superuser=True)
print(services.back_up(Actor(name="tester", via=Job.Via.COMMAND), backup="full", note="a good state").pk)
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
_PAPERS = "from refserver.library.models import Paper\nprint(Paper.objects.count())"


@pytest.fixture(scope="module")
def changed_site(sample_places, tmp_path_factory):
    """A site of this module's own with a backup, whose live state was changed since; and the backup's id."""
    with serving.serve(sample_places, tmp_path_factory.mktemp("changed") / "site") as site:
        backup_id = site.script(_WAIT.format(job=site.script(_THEN).splitlines()[-1])).splitlines()[-1]
        site.script(_SINCE)
        yield site, backup_id


def choose(page: Page, address: str, backup_id: str, target: str) -> None:
    page.goto(f"{address}/admin/backup/restore/")
    page.get_by_role("link", name=f"Choose {backup_id}").click()
    page.locator(f"input[name=target][value={target}]").check()


def test_from_the_list_to_a_file_on_disk(signed_in, changed_site, assert_clean, tmp_path):
    site, backup_id = changed_site
    page = signed_in(site=site)
    page.goto(f"{site.address}/admin/backup/backups/")
    expect(page.locator(".rb-verdict")).to_contain_text("proven by restoring it")
    expect(page.get_by_role("button", name="Delete…")).to_be_disabled()
    page.get_by_label("All on this page").check()
    expect(page.locator("#ticked")).to_have_text("1 of 1")
    expect(page.get_by_role("button", name="Delete…")).to_be_enabled()
    assert_clean(page)
    page.locator(".made a").first.click()
    expect(page.locator(".rb-verdict")).to_contain_text("It is proven: it was restored")
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
    page.get_by_text("Files documents alone").click()
    page.get_by_label("Folder below").fill("from-the-browser")
    assert_clean(page)
    page.get_by_role("button", name="See what will change").click()
    expect(page.locator("#look")).to_contain_text("Nothing that is live will change", timeout=30_000)
    page.get_by_role("link", name="Go on").click()
    page.get_by_role("button", name="Restore into the folder from-the-browser").click()
    expect(page.locator(".rb-verdict.good")).to_contain_text("Done: it is in", timeout=30_000)
    assert_clean(page)
    restored = site.places.root / "restored" / "from-the-browser" / "files" / "documents"
    assert sum(path.is_file() for path in restored.rglob("*")) == 65


def test_in_place_from_the_list_to_the_report_and_back_through_the_steps(signed_in, changed_site, assert_clean):
    site, backup_id = changed_site
    assert site.script(_PAPERS) == "62"
    page = signed_in(site=site)
    choose(page, site.address, backup_id, "in_place")
    page.get_by_role("button", name="See what will change").click()

    # What will change appears by itself, the accounts first
    look = page.locator("#look")
    expect(look.locator(".rb-verdict.warn")).to_contain_text("will come back", timeout=30_000)
    expect(page).to_have_url(re.compile("look="))
    expect(look.locator("section").first).to_contain_text("1 account will be able to do what they cannot do now")
    expect(look.locator("section").first).to_contain_text("mallory")
    expect(look.locator("tr", has_text="library_paper").first).to_contain_text("+3")
    assert_clean(page)

    # Back through the steps and the browser's history: nothing is lost, nothing is done twice
    page.get_by_label("Steps of a restore").get_by_role("link", name="What, and where to").click()
    expect(page.locator("input[value=in_place]")).to_be_checked()
    page.get_by_label("Steps of a restore").get_by_role("link", name="Which backup").click()
    page.get_by_role("link", name=f"Chosen: go on {backup_id}").click()
    expect(page.locator("input[value=in_place]")).to_be_checked()
    page.go_back()
    page.go_back()
    page.go_back()
    expect(look.locator(".rb-verdict.warn")).to_contain_text("will come back")
    assert site.script(_LOOKS) == "1"
    page.get_by_role("link", name="Go on: type").click()

    # Wrong id, wrong password, then both right
    confirm = page.get_by_role("button", name="Replace the live data now")
    page.get_by_label("Type the backup's id").fill("20200101T000000Z-full-000000")
    page.get_by_label("Your password").fill(PASSWORD)
    confirm.click()
    expect(page.get_by_role("alert")).to_contain_text("That is not the id of this backup. Nothing was changed.")
    page.get_by_label("Type the backup's id").fill(backup_id)
    page.get_by_label("Your password").fill("a guess")
    confirm.click()
    expect(page.get_by_role("alert")).to_contain_text("That is not your password. Nothing was done.")
    assert_clean(page)
    assert site.script(_PAPERS) == "62"
    page.get_by_label("Your password").fill(PASSWORD)
    confirm.click()

    # Nobody reloads: the card becomes the report, in the same session
    expect(page.get_by_role("heading", name="Report of a restore")).to_be_visible(timeout=60_000)
    expect(page.locator(".rb-verdict.good")).to_contain_text("Done: the live data is that of")
    expect(page.locator(".accounts")).to_contain_text("mallory")
    expect(page.get_by_role("button", name="Print")).to_be_visible()
    assert_clean(page)
    assert site.script(_PAPERS) == "65"

    # And back to what was there
    page.get_by_role("link", name="Go back to it…").click()
    expect(page.locator(".rb-verdict")).to_contain_text("It is what an earlier restore replaced")
    expect(page.locator("input[value=in_place]")).to_be_checked()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, True)])
def test_every_step_on_a_phone_and_in_the_dark(signed_in, changed_site, assert_clean, width, dark):
    site, backup_id = changed_site
    page = signed_in(site=site, width=width, dark=dark)
    wish = f"backup={backup_id}&target=in_place"
    for path in (
        "backups/",
        f"backups/{backup_id}/",
        f"backups/delete/?id={backup_id}",
        "restore/?at=2099-01-01T00:00",
        f"restore/what/?{wish}",
        f"restore/confirm/?{wish}",
    ):
        page.goto(f"{site.address}/admin/backup/{path}")
        assert_clean(page)
    page.goto(f"{site.address}/admin/backup/restore/changes/?{wish}")
    expect(page.locator("#look .rb-verdict")).to_be_visible(timeout=30_000)
    assert_clean(page)


def test_without_scripts(signed_in, changed_site):
    site, backup_id = changed_site
    page = signed_in(site=site, scripts=False)
    page.goto(f"{site.address}/admin/backup/restore/changes/?backup={backup_id}&only=files&target=in_place")
    page.get_by_role("button", name="Look at what will change").click()
    for _ in range(60):
        if page.locator("#look .rb-verdict").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(page.locator("#look .rb-verdict")).to_be_visible()
    page.get_by_role("link", name="Go on: type").click()
    expect(page.get_by_role("button", name="Replace the live data now")).to_be_visible()
