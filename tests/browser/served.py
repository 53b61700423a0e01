"""A whole site for browser tests: the sample library, a repository, web server and worker; and the check of a clean page."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.control.conftest import environment_of
from tests.library.places import ROOT, Places

PASSWORD = "only-for-this-test-7"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Served:
    """A served site: its address and its files. ``admin`` with `PASSWORD` has every permission."""

    address: str
    places: Places

    @property
    def environment(self) -> dict[str, str]:
        return {**environment_of(self.places), "REFSERVER_ADMIN_PASSWORD": PASSWORD, "REFSERVER_OPEN_LIBRARY": "no"}

    def manage(self, *arguments: str) -> str:
        """The standard output of a management command of the site."""
        return self._run("manage.py", *arguments)

    def script(self, code: str) -> str:
        """The output of Python code that runs in its own process with Django set up."""
        return self._run("-W", "ignore", "-c", f"import django; django.setup()\n{code}").strip()

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout


_PREPARE = """
from datetime import timedelta
from django.core.management import call_command
from django.utils import timezone
from backups.conf import configuration
from backups.engine.evidence.keys import make_key
from backups.engine.repository.folder import initialise
from backups.models import Plan
call_command("make_admin")
call_command("collectstatic", interactive=False, verbosity=0)
call_command("backup_plans_install")
now = timezone.now()
Plan.objects.exclude(name="hourly-incremental").update(enabled=False)
Plan.objects.filter(enabled=True).update(cron=f"{(now - timedelta(minutes=3)).minute} * * * *", served=now)
folder = configuration().repositories["main"]
make_key(configuration().signing_key)
initialise(folder, now, configuration().keys(folder))
"""


@contextmanager
def serve(source: Places, root: Path) -> Iterator[Served]:
    """Serve a copy of *source* below *root*, with an empty repository and one plan that is not due for most of an hour."""
    shutil.copytree(source.root, root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = Served(f"http://127.0.0.1:{port}", Places(root))
    site.script(_PREPARE)
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "--port", str(port)]
    with (root / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=site.environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (_answers(port) and (root / "run" / "worker.heartbeat").exists()):
            assert server.poll() is None, (root / "serve.log").read_text()
            assert time.monotonic() < deadline, "the site does not answer: " + (root / "serve.log").read_text()[-2000:]
            time.sleep(0.1)
        yield site
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, (root / "serve.log").read_text()[-2000:]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def browser(chromium: str) -> Iterator[Browser]:
    """A browser for one test. While it is open Django's database cannot be used in this process: use `Served.script`."""
    os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


def watched(page: Page, address: str) -> Page:
    """Record in ``page.console_messages`` console messages, and requests to other sites than *address*."""
    messages: list[str] = []
    page.console_messages = messages  # type: ignore[attr-defined]
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    inside = (address, "data:", "blob:")
    page.on("request", lambda one: None if one.url.startswith(inside) else messages.append(f"outside: {one.url}"))
    return page


def sign_in(page: Page, address: str, path: str = "/admin/backup/", name: str = "admin", password: str = PASSWORD) -> None:
    """Sign in through the form."""
    page.goto(f"{address}/admin/login/?next={path}")
    page.fill("#id_username", name)
    page.fill("#id_password", password)
    page.press("#id_password", "Enter")
    page.wait_for_url(address + path)


def assert_clean(page: Page) -> None:
    """Check that the console is empty, no other host was used, axe finds nothing serious, and nothing overflows."""
    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in SERIOUS]
    problems = [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found]
    assert not problems, f"{page.url}: " + "\n".join(problems)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, f"{page.url} is {overflow} px wider than the window"
    assert not page.console_messages, f"{page.url}: {page.console_messages}"  # type: ignore[attr-defined]
