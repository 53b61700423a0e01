"""The last step of a restore: one restore however often the form is sent, and of the state that was shown."""

from __future__ import annotations

import re
import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from backups.catalog.restore_preview.state import live_state
from backups.conf import configuration
from backups.engine.errors import RestoreRefused, UsageError
from backups.jobs import submit
from backups.models import Job
from refserver.library import catalogue
from refserver.library.models import Paper
from tests.control.test_backup_pages import indexed
from tests.control.test_restore_pages import STEPS, confirmation, link, text_of

SOURCES = [
    {"kind": kind, "name": name, "bytes": 1, "files": 1}
    for kind, name in (("sqlite", "refserver"), ("chroma", "chroma"), ("files", "documents"))
]
CONFIRM = f"{STEPS}confirm/"


def sent_at_once(client: Client, *forms: dict[str, str]) -> list[str]:
    """The addresses or pages that the same session gets for forms that it sends at the same moment."""
    together = threading.Barrier(len(forms))
    answers: list[str] = []

    def send(form: dict[str, str]) -> None:
        other = Client()
        other.cookies = client.cookies
        together.wait(10)
        answer = other.post(CONFIRM, form)
        answers.append(answer.headers.get("Location") or text_of(answer))
        connections.close_all()

    threads = [threading.Thread(target=send, args=(form,)) for form in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_form_that_is_sent_twice_queues_one_restore(empty_site):
    backup = indexed(sources=SOURCES).backup_id
    client = empty_site.client("rita", "restorer")
    form = confirmation(client, backup)
    answers = sent_at_once(client, form, form, form)
    job = Job.objects.get(kind="restore_in_place")
    assert answers == [f"{STEPS}report/{job.pk}/"] * 3
    Job.objects.update(state="succeeded")
    assert client.post(CONFIRM, form).url == answers[0] and Job.objects.count() == 1, "also after the restore has ended"


def test_two_forms_queue_one_restore(empty_site):
    backup = indexed(sources=SOURCES).backup_id
    client = empty_site.client("rita", "restorer")
    answers = sent_at_once(client, confirmation(client, backup), confirmation(client, backup))
    assert Job.objects.filter(kind="restore_in_place").count() == 1
    assert sum("Another restore in place is queued or running" in answer for answer in answers) == 1


def test_programs_queue_one_restore_in_place_a_host(empty_site):
    backup = indexed(sources=SOURCES).backup_id
    actor, request = empty_site.actor, {"backup_id": backup, "typed": backup}
    once = uuid.uuid4()
    job = submit.restore_in_place(actor, once=once, **request)
    assert submit.restore_in_place(actor, once=once, **request) == job
    with pytest.raises(UsageError, match="already been used"):
        submit.restore_in_place(actor, once=once, only="sqlite", **request)
    with pytest.raises(RestoreRefused, match="queued or running"):
        submit.restore_in_place(actor, **request)
    Job.objects.update(state="failed")
    assert submit.restore_in_place(actor, **request) != job


def test_restore_into_a_folder_is_queued_once(empty_site):
    backup = indexed(sources=SOURCES).backup_id
    client = empty_site.client("rita", "restorer")
    form = confirmation(client, backup, target="", folder="there")
    assert len(set(sent_at_once(client, form, form))) == 1 and Job.objects.filter(kind="restore").count() == 1


@pytest.mark.slow
def test_changes_after_the_preview_are_shown_before_the_restore(site):
    paper = Paper.objects.get(title="Attention Is All You Need")
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    client = site.client("rita", "restorer")
    site.done(submit.preview_restore(site.actor, backup_id=made))
    chosen = {"backup": made, "target": "in_place"}
    assert "Attention" not in text_of(client.get(f"{STEPS}changes/", chosen))
    form = confirmation(client, made)

    # A paper is deleted between the page and the confirmation: nothing is restored, and it is named
    catalogue.remove([paper])
    answer = client.post(CONFIRM, form)
    assert "restore/changes/" in answer.url and not Job.objects.filter(kind="restore_in_place").exists()
    site.work()
    page = text_of(client.get(answer.url))
    assert "Nothing was restored: the live data was written to" in page
    assert re.search(r"1 to be restored</span> in .*library_paper</span>: “Attention Is All You Need”", page)
    assert re.search(r"library_embedding</span>: “Attention Is All You Need”", page), "rows are named after what they belong to"
    page = text_of(client.get(link(page, "Next: confirm")))
    assert "“Attention Is All You Need”" in page and "Restore even if the live data is written to again" in page
    form = confirmation(client, made, again="1")

    # Again; an old preview is not confirmed at all, and accepting the changes once is enough
    Paper.objects.filter(title__startswith="Deep").update(venue="changed")
    assert "restore/changes/" in client.post(CONFIRM, form).url
    site.work()
    Job.objects.filter(kind="preview").update(finished=timezone.now() - timedelta(minutes=2))
    Paper.objects.filter(title__startswith="Deep").update(venue="changed again")
    assert "restore/changes/" in client.get(CONFIRM, {**chosen, "look": form["look"]}).url
    assert not Job.objects.filter(kind="restore_in_place").exists()
    assert "restore/report/" in client.post(CONFIRM, {**form, "accept": "yes"}).url


def test_state_changes_with_every_store_and_not_by_opening_it(site):
    sources = configuration().live_sources("default")
    state = live_state(sources)
    assert Paper.objects.count() and live_state(sources) == state
    connections.close_all()
    assert live_state(sources) == state
    Paper.objects.filter(title__startswith="Deep").update(venue="changed")
    assert live_state(sources) != state and live_state(sources, "files") == live_state(sources, "files:documents")
    state = live_state(sources)
    (sources[1].path / "chroma.sqlite3").touch()
    assert live_state(sources) != state
    state = live_state(sources)
    next(path for path in sources[2].path.rglob("*") if path.is_file()).write_text("other")
    assert live_state(sources) != state
