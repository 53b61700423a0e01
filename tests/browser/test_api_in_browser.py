"""The Swagger page in Chromium: it works, loads nothing from other sites, and violates no policy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from backups.engine.repository.folder import initialise
from tests.library.places import ROOT, Places

pytestmark = pytest.mark.slow

PASSWORD = "correct-horse-battery"
SWAGGERS_OWN = {"nested-interactive", "label", "select-name", "scrollable-region-focusable"}
"""How Swagger UI builds its blocks and forms; the description itself is also available as JSON."""


@pytest.fixture
def address(sample_library: Places) -> Iterator[str]:
    """A served site with an administrator."""
    from datetime import UTC, datetime

    places = sample_library
    initialise(Path(places.root / "backups"), datetime.now(UTC))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**places.environment, "REFSERVER_ADMIN_PASSWORD": PASSWORD}
    for command in (["make_admin"], ["collectstatic", "--noinput", "-v0"]):
        subprocess.run(
            [sys.executable, "manage.py", *command], env=environment, cwd=ROOT, check=True, timeout=60, capture_output=True
        )
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "refserver/gunicorn_conf.py",
        "-b",
        f"127.0.0.1:{port}",
        "refserver.wsgi",
    ]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                        break
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(40)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_swagger_page(chromium, address, width, scheme):
    asked, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}/api/v1/docs")
        page.fill("#id_username", "admin")
        page.fill("#id_password", PASSWORD)
        page.click("[type=submit]")
        expect(page.get_by_text("OAS 3.1")).to_be_visible(timeout=20_000)
        expect(page.locator(".opblock")).to_have_count(page.evaluate(_COUNT), timeout=20_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

        listed = _open(page, "#operations-Backups-list_backups")
        listed.get_by_role("button", name="Execute").click()
        expect(listed.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
        made = _open(page, "#operations-Backups-create_backup")
        made.locator("textarea.body-param__text").fill('{"kind": "full", "note": "from the page"}')
        made.get_by_role("button", name="Execute").click()
        expect(made.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("202")
        expect(made.locator(".live-responses-table")).to_contain_text("from the page")
        if os.environ.get("SCREENSHOTS"):
            made.scroll_into_view_if_needed()
            page.screenshot(path=f"{os.environ['SCREENSHOTS']}/api-{width}-{scheme}.png")
        serious = [
            (found["id"], node["html"][:120], node["any"][0]["message"] if node["any"] else "")
            for found in Axe().run(page).response["violations"]
            if found["impact"] in ("serious", "critical") and found["id"] not in SWAGGERS_OWN
            for node in found["nodes"]
        ]
        browser.close()
    assert not complaints
    assert {
        url.partition("/")[0] + url[: len(address)] for url in asked if not url.startswith((address, "data:", "blob:"))
    } == set()
    assert not serious, "\n".join(map(str, dict.fromkeys(serious)))


_COUNT = """async () => {
  const description = await (await fetch(document.getElementById("api").dataset.schema)).json();
  return Object.values(description.paths).reduce((sum, methods) => sum + Object.keys(methods).length, 0);
}"""


def _open(page: Page, block: str):
    found = page.locator(block)
    found.locator(".opblock-summary-control").click()
    return found
