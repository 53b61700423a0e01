"""Pages are not green when the repository is not available, backups are missing, or all of them are damaged."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from backups.conf import configuration
from backups.models import Job
from tests.control.rest import BACKUPS, bearer, problem, send
from tests.control.test_backup_pages import indexed

LIST, RESTORE = "/admin/backup/backups/", "/admin/backup/restore/"


def _main(client, address: str) -> str:
    page = client.get(address).content.decode()
    return page[page.index("</nav>", page.index("rb-tabs")) :]


@pytest.fixture
def away(empty_site):
    folder = configuration().repositories[configuration().default_repository]
    row = indexed(verification="restore")
    folder.rename(folder.with_name("renamed"))
    return row


@pytest.mark.parametrize("address", [LIST, RESTORE, "BACKUP"])
def test_a_repository_that_is_not_available_is_unknown(empty_site, away, address):
    client = empty_site.client("root", superuser=True)
    page = _main(client, away.get_absolute_url() if address == "BACKUP" else address)
    assert re.search("Unknown: (the|its) repository is not available", page) and ">Unknown</span>" in page
    assert not re.search(r'class="[^"]*\bgood\b', page) and "No backup is damaged" not in page
    assert "Mount its disk, or correct its path in the settings." in page and "refbackup init" not in page
    assert "Newest backup (" not in page and "restore/what/" not in page


def test_no_restore_is_prepared_from_a_repository_that_is_not_available(empty_site, away):
    client = empty_site.client("root", superuser=True)
    chosen = {"backup": away.backup_id, "folder": "there", "go": "1"}
    answer = client.get(f"{RESTORE}what/", chosen)
    assert answer.status_code == 200 and "The repository of this backup is not available" in answer.content.decode()
    assert client.post(f"{RESTORE}changes/", chosen).status_code == 302


def test_actions_on_a_missing_backup_are_not_offered(empty_site):
    row = indexed(verification="missing")
    page = _main(empty_site.client("root", superuser=True), row.get_absolute_url())
    assert "It is missing from its repository" in page and "Use “Verify” above" not in page
    for action in ('value="hashes"', 'value="drill"', "restore/what/", "SHA256SUMS"):
        assert action not in page, action


def test_damaged_backups_are_an_alarm_with_the_advice_to_back_up(empty_site):
    for hours in (1, 2):
        indexed(time=timezone.now() - timedelta(hours=hours), verification="damaged")
    client = empty_site.client("root", superuser=True)
    for address in (LIST, RESTORE, "/admin/backup/"):
        page = _main(client, address)
        assert "No proven backup." in page and "Back up now" in page, address
        assert "Verify the newest one" not in page and "No backup is damaged" not in page, address


def test_the_api_refuses_at_once_what_needs_a_repository_that_is_not_available(empty_site, away):
    client = bearer(empty_site, "ada", superuser=True)
    for address in (BACKUPS, f"{BACKUPS}/{away.backup_id}/verify"):
        assert "Mount its disk" in problem(send(client, address, {}), 503, "no_repository")["hint"]
    assert not Job.objects.exists()


def test_a_restore_request_without_its_kind_gets_a_sentence(empty_site):
    row = indexed()
    client = bearer(empty_site, "ada", superuser=True)
    found = problem(send(client, f"{BACKUPS}/{row.backup_id}/restore", {"target": "folder"}), 400, "invalid")
    assert "The field 'to' is missing" in found["detail"] and "discriminator" not in found["detail"]


def test_the_first_hour_after_a_backup_from_the_command_line(empty_site):
    client = empty_site.client("root", superuser=True)
    assert "Make the first backup" in _main(client, "/admin/backup/jobs/")
    indexed(verification="restore", restore_seconds=7.2, verified_at=timezone.now())
    page = _main(client, "/admin/backup/jobs/")
    assert "The first backup was made from the command line." in page and "Make the first backup" not in page
    assert "duration of the newest test restore" in _main(client, "/admin/backup/")
    page = _main(client, "/admin/backup/readiness/")
    assert "Run a drill now." in page and 'href="/admin/backup/readiness/">' not in page
    assert "Add a second repository" in page and '">Add a second repository' in page.replace('<span class="quiet">', '">')
