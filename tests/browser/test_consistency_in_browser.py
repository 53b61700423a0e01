"""The consistency pages with a real worker: check, repair and undo; on a phone; without scripts."""

from __future__ import annotations

import re
import textwrap

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.served import Served

pytestmark = pytest.mark.slow

TOP = "/admin/consistency/"
PLANT = """
    import numpy as np
    from refserver.library.models import PageEmbedding
    from refserver.library.vectors import PAGES, Edit, Record, store
    one, two = PageEmbedding.objects.order_by("-pk").values_list("pk", flat=True)[:2]
    held, other = (store().records(PAGES, [f"page-{n}"])[f"page-{n}"] for n in (one, two))
    wrong = Record(held.id, np.flip(held.vector).copy(), held.document, {**held.metadata, "title": "Quite another title"})
    foreign = Record("page-90009", other.vector, other.document, other.metadata)
    store().apply(Edit(delete={PAGES: [f"page-{two}"]}, write={PAGES: [wrong, foreign]}))
"""


def verdict(page: Page, text: str) -> None:
    """Wait until the page shows the verdict, and all work is done: it may reload until then, and offers no other check."""
    expect(page.locator(".rb-verdict .say").first).to_contain_text(text, timeout=60_000)
    expect(page.get_by_role("button", name="Check now")).to_be_visible(timeout=60_000)


def test_page_does_not_reload_while_another_one_is_on_its_way(signed_in, served_site: Served):
    page = signed_in()
    page.goto(served_site.address + TOP)
    held: list[Route] = []
    told: list[str | None] = []
    page.route("**/admin/backup/jobs/", lambda route: held.append(route))  # playwright needs a function
    page.on("response", lambda answer: told.append(answer.headers.get("hx-refresh")) if "/running/" in answer.url else None)
    address = f"{TOP}running/?seen=work-that-ended"
    page.evaluate("address => { setTimeout(() => htmx.ajax('GET', address, {target: 'body', swap: 'none'}), 300) }", address)
    page.get_by_role("link", name="Jobs", exact=True).click(no_wait_after=True)
    for _ in range(100):
        page.wait_for_timeout(100)  # also after the answer, for the reload that must not come
        if told:
            break
    page.wait_for_timeout(200)
    assert told == ["true"] and len(held) == 1
    held[0].continue_()
    page.wait_for_url("**/admin/backup/jobs/")


def test_findings_are_repaired_and_undone(signed_in, served_site: Served, assert_clean):
    page = signed_in()
    page.goto(served_site.address + TOP)
    page.get_by_role("button", name="Check now").first.click()
    verdict(page, "Rows and vectors agree.")
    assert_clean(page)
    served_site.script(textwrap.dedent(PLANT))
    page.get_by_role("button", name="Check now").first.click()
    verdict(page, "Rows and vectors do not agree: 4 findings")
    assert_clean(page)

    page.get_by_role("link", name="Vectors differ").click()
    page.locator("table.rb-findings a.id").first.click()
    expect(page.locator("svg.rb-vector")).to_have_count(2)
    expect(page.get_by_role("heading", name="First values that differ")).to_be_visible()
    assert_clean(page)
    page.get_by_role("link", name="Metadata differs").click()
    expect(page.locator("tr.differs mark").first).to_be_visible()

    page.goto(served_site.address + TOP)
    page.get_by_role("link", name="Plan a repair").click()
    assert_clean(page)
    page.get_by_role("button", name=re.compile("Repair all")).click()
    expect(page.get_by_role("alert")).to_contain_text("tick the box to confirm")
    page.get_by_label("Yes, also delete the vector").check()
    page.get_by_role("button", name=re.compile("Repair all")).click()
    page.wait_for_url(served_site.address + TOP)
    verdict(page, "Rows and vectors agree.")
    page.locator(".rb-repairs a").first.click()
    expect(page.locator(".rb-verdict .say").first).to_contain_text("Repaired. 4 records repaired.")
    assert_clean(page)
    page.get_by_role("button", name="Undo this repair").click()
    page.wait_for_url(served_site.address + TOP)
    expect(page.locator(".rb-repairs")).to_contain_text("4 of 4 records undone", timeout=60_000)
    verdict(page, "Rows and vectors do not agree: 4 findings")

    plain = signed_in(width=390, dark=True, scripts=False)
    plain.goto(served_site.address + TOP)
    plain.get_by_role("button", name="Check now").first.click()
    expect(plain.locator("#running")).to_contain_text("Check consistency")
    page.reload()
    verdict(page, "Rows and vectors do not agree: 4 findings")
    phone = signed_in(width=390, dark=True)
    for place in (
        TOP,
        *(page.get_by_role("link", name=name).first.get_attribute("href") for name in ("All findings", "Plan a repair")),
    ):
        phone.goto(served_site.address + place)
        assert_clean(phone)
    phone.get_by_label("Yes, also delete the vector").check()
    phone.get_by_role("button", name=re.compile("Repair all")).click()
    phone.wait_for_url(served_site.address + TOP)
    verdict(phone, "Rows and vectors agree.")
