"""A served library, a served site with its worker, and a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import served as serving
from tests.browser.served import Served
from tests.library.conftest import empty_places, sample_library, sample_places
from tests.library.places import Places

__all__ = ["empty_places", "sample_library", "sample_places"]

SignedIn = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium. CI has it, so nothing is skipped there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    return found


@pytest.fixture(scope="session")
def served_site(sample_places: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A site with web server and worker, shared by all tests: leave nothing running, and rely only on your own objects."""
    with serving.serve(sample_places, tmp_path_factory.mktemp("served") / "site") as site:
        yield site


@pytest.fixture
def browser(chromium: str) -> Iterator[Browser]:
    """A new browser for each test."""
    with serving.browser(chromium) as opened:
        yield opened


@pytest.fixture(scope="session")
def cookies() -> dict[tuple[str, str], list]:
    """The cookies of each account that has signed in, so that other tests need not sign in again."""
    return {}


@pytest.fixture
def signed_in(browser: Browser, served_site: Served, cookies: dict) -> SignedIn:
    """``signed_in(width=1200, dark=False, scripts=True, site=…, name="admin")``: a new watched page of a signed-in account."""

    def make(
        *,
        width: int = 1200,
        dark: bool = False,
        scripts: bool = True,
        site: Served | None = None,
        name: str = "admin",
        password: str = serving.PASSWORD,
    ) -> Page:
        address = (site or served_site).address
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", java_script_enabled=scripts
        )
        page = serving.watched(context.new_page(), address)
        if (address, name) in cookies:
            context.add_cookies(cookies[address, name])
        else:
            serving.sign_in(page, address, name=name, password=password)
            cookies[address, name] = context.cookies()
        return page

    return make


@pytest.fixture
def assert_clean() -> Callable[[Page], None]:
    """``assert_clean(page)``: see `served.assert_clean`."""
    return serving.assert_clean
