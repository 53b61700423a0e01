"""Every link of every page leads somewhere, for each role; and every route works with and without a trailing slash."""

import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.core.management import call_command
from django.test import Client, RequestFactory, override_settings
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from backups.jobs import submit
from backups.models import IndexedBackup, Job
from refserver.web import EitherSlash
from tests.control.consistency_site import joined, plant
from tests.control.test_alert_pages import fired
from tests.control.test_consistency_pages import QUICK

TOPS = ("/", "/admin/", "/admin/backup/", "/no/such/page", "/admin/backup/jobs/")
_WITHOUT_ZONE = re.compile(r">[^<>]*\d{4}-\d\d-\d\d \d\d:\d\d(?![:\d]| [A-Z+-])")
"""A time to the minute without its zone, in the text of a page."""

_EXAMPLES = 3
"""Addresses visited of each page: rows of a list differ only in their ids."""


def shape(address: str) -> str:
    """An address without ids and values, so that pages of one kind are the same."""
    parts = urlsplit(address)
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{8}T\d{6}Z-[a-z]+-[0-9a-f]{6}|\d+", "N", parts.path)
    names = sorted(item.partition("=")[0] for item in parts.query.split("&") if item)
    return f"{path}?{','.join(names)}"


def links_of(page: str, address: str) -> set[str]:
    """The addresses on this site that a page links to, with ``hx-get`` and without fragments."""
    found = (unescape(match) for match in re.findall(r'(?:<a [^>]*?href|hx-get)="([^"]*)"', page))
    absolute = {urljoin(address, link.partition("#")[0]) for link in found if link and not link.startswith("#")}
    return {link for link in absolute if link.startswith("/") and not link.startswith("//")}


def crawl(client: Client) -> dict[str, tuple[int, str]]:
    """Each visited address with its status and the page that links to it."""
    waiting, seen, visited = [(top, "") for top in TOPS], Counter(), {}
    while waiting:
        address, source = waiting.pop()
        kind = shape(address)
        if address in visited or seen[kind] >= _EXAMPLES:
            continue
        seen[kind] += 1
        answer = client.get(address)
        visited[address] = (answer.status_code, source)
        if answer.status_code in (301, 302):
            waiting.append((urljoin(address, answer.headers["Location"]), source or address))
        elif "text/html" in answer.headers.get("Content-Type", "") and not answer.streaming:
            page = answer.content.decode()
            assert not (bare := _WITHOUT_ZONE.search(page)), (address, bare and bare[0])
            waiting += [(link, address) for link in sorted(links_of(page, address))]
        answer.close()  # of downloads
    return visited


def dead_ends(client: Client) -> dict[str, tuple[int, str]]:
    found = crawl(client)
    assert len(found) > 10
    return {
        address: result
        for address, result in found.items()
        if address != "/no/such/page" and (result[0] in (400, 403, 404, 405) or result[0] >= 500)
    }


@pytest.fixture
def used(site):
    """A site on which everything has happened once: proofs, a restore, removed backups, alerts, findings."""
    with override_settings(BACKUPS=joined(site.places), CONSISTENCY=QUICK):
        made = site.done(submit.back_up(site.actor, backup="full", verify="hashes"))
        gone = site.done(submit.back_up(site.actor, backup="incremental", verify="none"))
        site.done(submit.verify(site.actor, backup_ids=[gone.backup_id]))
        site.done(submit.preview_restore(site.actor, backup_id=made.backup_id))
        site.done(submit.delete(site.actor, [gone.backup_id]))
        site.done(submit.restore_in_place(site.actor, backup_id=made.backup_id, typed=made.backup_id))
        call_command("backup_plans_install", verbosity=0)
        fired(link="backups:backup", arguments=[gone.backup_id])
        plant(site.places)
        call_command("consistency_check", "--json", "--progress", "none", "--exit-zero", "--actor", "ada")
        yield site


@pytest.mark.slow
def test_no_link_is_a_dead_end_for_any_role(used):
    assert IndexedBackup.objects.count() == 2 and Job.objects.filter(kind="restore_in_place", state="succeeded").exists()
    clients = {name: used.client(name, name) for name in ("viewer", "operator", "restorer")}
    clients |= {"root": used.client("root", superuser=True), "nobody": Client()}
    assert {name: found for name, client in clients.items() if (found := dead_ends(client))} == {}


VALUES = {
    "uuid": "7b8f0a52-5f0c-4b3e-9a55-2d2f5e9d9c11",
    "backup_id": "20200101T000000Z-full-000000",
    "rb_name": "main",
    "rb_file": "manifest.json",
    "rb_number": "7",
    "int": "7",
    "str": "nightly",
    "rb_download": "manifest.json",
    "rb_switch": "run",
}


def routes(resolver: URLResolver, before: str = "/") -> Iterator[tuple[str, str]]:
    """An address of every route of this project, and the name of its view; not the admin's own, which are expressions."""
    for item in resolver.url_patterns:
        place = before + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from routes(item, place) if item.namespace != "admin" else ()
        elif isinstance(item, URLPattern) and item.callback.__name__ != "not_found":
            yield re.sub(r"<(?:(\w+):)?\w+>", lambda found: VALUES[found[1] or "str"], place), item.callback.__name__


def test_every_route_works_with_and_without_a_trailing_slash():
    found = list(routes(get_resolver()))
    assert len(found) > 100
    for address, view in found:
        other = address.removesuffix("/") if address.endswith("/") else f"{address}/"
        if address == "/" or other in {known for known, _ in found}:
            continue  # the older REST route admin/backup/restore is another one than the page
        request = EitherSlash(lambda request: request)(RequestFactory().post(other))
        assert resolve(request.path_info).func.__name__ == view and request.path == request.path_info, other


@pytest.mark.parametrize("method", ["get", "post"])
def test_addresses_in_the_documents_work_with_both_endings(empty_site, method):
    client = empty_site.client("root", superuser=True)
    for address in ("/api/v1/docs", "/api/v1/schema", "/api/v1/backups", "/healthz", "/readyz", "/admin/backup/jobs", "/admin"):
        answers = [getattr(client, method)(end, follow=True) for end in (address, f"{address}/")]
        assert len({answer.status_code for answer in answers}) == 1 and answers[0].status_code != 404, address
        assert method == "post" or answers[0].status_code in (200, 503), address
    assert client.get("/api/v1/nothing/").status_code == 404 and client.get("/nothing/").status_code == 404


def test_site_and_backups_link_to_each_other(empty_site):
    client = empty_site.client("vera", "viewer")
    for address in ("/", "/admin/", "/no/such/page", "/admin/auth/none/"):
        assert 'href="/admin/backup/"' in client.get(address).content.decode(), address
    page = client.get("/admin/backup/").content.decode()
    assert 'href="/"' in page and 'href="/api/v1/docs"' in page and 'href="/admin/"' in page
    assert 'href="/admin/backup/"' not in empty_site.client("norma").get("/").content.decode(), "without the permission"
