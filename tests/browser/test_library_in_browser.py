"""The library in a browser: sign in, search and read without violations of the Content-Security-Policy."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.library.places import ROOT, Places

pytestmark = pytest.mark.slow
PASSWORD = "only-for-this-test-7"


@contextmanager
def served(library: Places) -> Iterator[str]:
    """`manage.py serve` over *library*; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secrets = {"REFSERVER_ADMIN_PASSWORD": PASSWORD, "REFSERVER_OPEN_LIBRARY": "no"}
    environment = library.environment | secrets
    manage = [sys.executable, str(ROOT / "manage.py")]
    for command in ("make_admin", "collectstatic --no-input"):
        subprocess.run([*manage, *command.split()], env=environment, cwd=ROOT, check=True, capture_output=True)
    server = subprocess.Popen([*manage, "serve", "--port", str(port)], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def browsing(chromium: str, width: int, messages: list[str]) -> Iterator[Page]:
    """A page of a new browser; its console messages are added to *messages*."""
    os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        try:
            yield page
        finally:
            browser.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_sign_in_search_and_read(sample_library, chromium, width):
    messages: list[str] = []
    with served(sample_library) as address, browsing(chromium, width, messages) as page:
        page.goto(address)
        page.fill("#id_username", "admin")
        page.fill("#id_password", PASSWORD)
        page.press("#id_password", "Enter")
        page.wait_for_url(address + "/")
        page.get_by_role("searchbox").fill("double helix of DNA")
        page.get_by_role("searchbox").press("Enter")
        first = page.get_by_role("link", name="Molecular Structure of Nucleic Acids")
        first.first.click()
        assert "Watson" in page.inner_text("main")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow == 0, "nothing is wider than the window"
        page.goto(address + "/admin/")
        assert "Papers" in page.inner_text("#content")
    assert messages == []
