"""Errors below /admin/backup/ and /admin/consistency/ stay in the frame, and say what is wrong and where to go."""

from __future__ import annotations

import re

from django.http import HttpResponse

from backups.jobs import submit
from tests.control.test_consistency_pages import joined_site

__all__ = ["joined_site"]


def text(answer: HttpResponse) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())


BACKUP, CONSISTENCY = "/admin/backup/", "/admin/consistency/"
NUMBER = "00000000-0000-4000-8000-000000000000"


UNKNOWN = (
    (f"{BACKUP}jobs/{NUMBER}/", f"There is no job {NUMBER}.", "Go to Jobs"),
    (f"{BACKUP}plans/nothing/", "There is no plan nothing.", "Go to Plans"),
    (f"{BACKUP}alerts/{NUMBER}/", f"There is no alert {NUMBER}.", "Go to Alerts"),
    (f"{BACKUP}alerts/channels/999/", "There is no channel 999.", "Go to Alerts"),
    (f"{BACKUP}alerts/rules/nothing/", "There is no rule nothing.", "Go to Alerts"),
    (
        f"{BACKUP}backups/20200101T000000Z-full-000000/",
        "There is no backup 20200101T000000Z-full-000000.",
        "Go to the overview",
    ),
    (f"{BACKUP}restore/report/{NUMBER}/", "There is no restore with that id.", "Go to Restore"),
    (f"{CONSISTENCY}checks/999/", "There is no check 999.", "Go to Consistency"),
    (f"{CONSISTENCY}findings/999/", "There is no finding 999.", "Go to Consistency"),
    (f"{CONSISTENCY}repairs/999/", "There is no repair 999.", "Go to Consistency"),
    (f"{BACKUP}nowhere/at/all/", "There is no page at this address.", "Go to the overview"),
    (f"{CONSISTENCY}nowhere/", "There is no page at this address.", "Go to Consistency"),
)


def test_unknown_addresses_keep_the_tabs(joined_site):
    eve = joined_site.client("eve", "operator", "restorer")
    for address, said, onward in UNKNOWN:
        answer = eve.get(address)
        page = text(answer)
        assert answer.status_code == 404 and said in page and onward in page, address
        assert 'aria-label="Backups"' in answer.content.decode() and f'href="{BACKUP}plans/"' in answer.content.decode()


def test_refused_addresses_keep_the_tabs_and_name_the_groups(joined_site):
    viewer, nobody = joined_site.client("vic", "viewer"), joined_site.client("nobody")
    answer = viewer.get(f"{BACKUP}tokens/")
    assert answer.status_code == 403 and "This needs the group operator or restorer." in text(answer)
    assert f'href="{BACKUP}jobs/"' in answer.content.decode() and f'href="{BACKUP}tokens/"' not in answer.content.decode()
    answer = nobody.get(BACKUP)
    assert answer.status_code == 403 and "This needs the group viewer, operator or restorer." in text(answer)
    assert "Go to Administration" in text(answer)
    job = submit.drill(joined_site.actor, backup_id="latest")
    assert "This needs the group operator or restorer." in text(viewer.post(f"{job.get_absolute_url()}cancel/"))


def test_other_errors_are_the_sites_own(joined_site, client):
    answer = client.get("/nothing/")
    assert answer.status_code == 404 and "rb-tabs" not in answer.content.decode()
    for address in (f"{BACKUP}jobs/{NUMBER}/", f"{BACKUP}nothing/"):
        assert client.get(address).status_code == 302, "to the form to sign in"
