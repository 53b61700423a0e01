"""The overview in a browser: from an empty site to a proven backup, and a running backup that is cancelled."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, expect

from tests.browser import served as serving

pytestmark = pytest.mark.slow
BIG = 700 << 20


@pytest.fixture(scope="module")
def fresh_site(sample_places, tmp_path_factory):
    """An unused site for this module."""
    with serving.serve(sample_places, tmp_path_factory.mktemp("fresh") / "site") as site:
        yield site


def back_up(page: Page, kind: str, note: str = "") -> None:
    page.locator("#back-up summary").click()
    page.get_by_role("radio", name=kind).check()
    page.get_by_label("Note", exact=True).fill(note)
    page.get_by_role("button", name="Back up", exact=True).last.click()


def test_first_backup(signed_in, fresh_site, assert_clean):
    page = signed_in(site=fresh_site)
    page.goto(f"{fresh_site.address}/admin/backup/")
    expect(page.locator(".rb-verdict")).to_contain_text("No backup yet.")
    expect(page.locator(".rb-verdict")).to_contain_text("Make the first backup: about")
    assert_clean(page)

    page.locator("#back-up > summary").focus()
    page.keyboard.press("Enter")  # the menu opens by keyboard, and closes with Escape
    expect(page.get_by_label("Note")).to_be_visible()
    assert_clean(page)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Note")).to_be_hidden()

    back_up(page, "Full", "before the upgrade")
    expect(page.locator("#active article").first).to_contain_text("Full backup")
    # Without a reload, the card disappears when the job ends, and the verdict changes
    expect(page.locator(".rb-verdict.good")).to_contain_text("Newest proven backup", timeout=30_000)
    expect(page.locator("#active article")).to_have_count(0)
    expect(page.locator("#announced")).to_contain_text("Protected.")
    expect(page.locator(".rb-timeline a.point.proven")).to_have_count(1)
    expect(page.locator(".rb-plot canvas")).to_have_count(4)
    assert_clean(page)

    page.locator(".rb-timeline a.point").focus()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Full, ")
    page.get_by_role("link", name="Back up: done").click()
    expect(page.locator("#job-summary")).to_contain_text("restore-tested")
    expect(page.locator(".rb-phases tbody th")).to_contain_text(["Cut", "Store", "Restore"])
    expect(page.locator("#log-lines")).to_contain_text("writers were held up")
    expect(page.locator(".rb-facts")).to_contain_text("before the upgrade")
    assert_clean(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert "writers were held up" in download.value.path().read_text()


def test_every_page_is_clean_in_dark_mode_and_on_a_phone(signed_in, fresh_site, assert_clean):
    jobs = fresh_site.script("from backups.models import Job\nprint(Job.objects.latest('created').pk)")
    for width, dark in ((1200, True), (390, False), (390, True)):
        page = signed_in(site=fresh_site, width=width, dark=dark)
        for path in ("", "?range=24h", "figures/", "jobs/", "jobs/?state=failed&q=nothing", f"jobs/{jobs}/"):
            page.goto(f"{fresh_site.address}/admin/backup/{path}")
            page.wait_for_load_state("networkidle")
            assert_clean(page)


def test_running_backup_is_cancelled(signed_in, fresh_site, assert_clean):
    big = fresh_site.places.settings["REFSERVER_FILES"] / "big.bin"
    with open("/dev/urandom", "rb") as noise, big.open("wb") as file:
        for _ in range(BIG >> 20):
            file.write(noise.read(1 << 20))
    try:
        page = signed_in(site=fresh_site)
        page.goto(f"{fresh_site.address}/admin/backup/")
        back_up(page, "Full")
        card = page.locator("#active article").first
        expect(card.locator("progress[value]")).to_be_visible(timeout=20_000)
        expect(card).to_contain_text(re.compile(r"\d %.*MB of .*/s.* left.*elapsed.*writers paused for [\d.]+ ms", re.DOTALL))
        expect(card.locator("[aria-current=step]")).to_have_text(re.compile("Store|Prove"))
        card.get_by_role("link", name="Full backup").click()
        expect(page.locator("#job-summary")).to_contain_text("Running:")
        expect(page.get_by_label("Follow")).to_be_checked()
        assert_clean(page)
        page.get_by_role("button", name="Cancel", exact=True).click()
        # The page with the button is live: it shows the end without a reload
        expect(page.locator("#job-summary")).to_contain_text("Cancelled: Cancelled by admin", timeout=10_000)
        expect(page.get_by_role("button", name="Run again")).to_be_visible()
        assert_clean(page)
        assert not list((fresh_site.places.root / "backups" / "staging").glob("*"))
    finally:
        big.unlink()


def test_without_scripts(signed_in, fresh_site):
    page = signed_in(site=fresh_site, scripts=False)
    page.goto(f"{fresh_site.address}/admin/backup/")
    back_up(page, "Incremental", "without scripts")
    expect(page.locator(".messagelist")).to_contain_text("Incremental backup queued")
    deadline = time.monotonic() + 30
    while page.goto(f"{fresh_site.address}/admin/backup/jobs/?q=without") and "Done" not in page.inner_text(".rb-jobs"):
        assert time.monotonic() < deadline, page.inner_text(".rb-jobs")
        time.sleep(0.2)
    page.get_by_role("link", name="Incremental backup").click()
    page.get_by_label("Text").fill("chroma")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#log-lines li")).to_have_count(1)
