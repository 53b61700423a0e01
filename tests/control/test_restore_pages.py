"""The pages of a restore: steps that keep the selection, refusals, and the report."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from backups.jobs import submit
from backups.models import IndexedBackup, Job
from refserver.library import catalogue
from refserver.library.models import Paper
from tests.control.test_backup_pages import indexed

STEPS = "/admin/backup/restore/"


@pytest.fixture
def made(site) -> str:
    job = site.done(submit.back_up(site.actor, backup="full", verify="none", note="a good state"))
    assert job.state == Job.State.SUCCEEDED, job.error
    return job.backup_id


def link(page: str, text: str) -> str:
    """The address of the link with *text*."""
    found = re.search(rf'href="([^"]+)"[^>]*>[^<]*{text}', page)
    assert found, f"no link {text!r}"
    return unescape(found[1])


def text_of(response) -> str:
    return response.content.decode()


def form_of(page: str) -> dict[str, str]:
    """The hidden fields of the page's last form."""
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page[page.rindex("<form") :])
    return {name: unescape(value) for name, value in fields if name != "csrfmiddlewaretoken"}


def confirmation(client, backup_id: str, **chosen: str) -> dict[str, str]:
    """The confirmation of a restore in place as its page would send it, filled in."""
    page = text_of(client.get(f"{STEPS}confirm/", {"backup": backup_id, "target": "in_place", **chosen}))
    return {**form_of(page), "typed": backup_id}


def test_point_in_time_finds_newest_sound_backup(empty_site):
    now = timezone.now()
    good = indexed(time=now - timedelta(hours=5))
    indexed(time=now - timedelta(hours=4), verification="damaged")
    indexed(time=now - timedelta(hours=4), kind="snapshot")
    indexed(time=now - timedelta(hours=4), safety=True)
    later = indexed(time=now - timedelta(hours=2))
    client = empty_site.client("rita", "restorer")

    def at(moment):
        return text_of(client.get(STEPS, {"at": timezone.localtime(moment).strftime("%Y-%m-%dT%H:%M")}))

    page = at(now - timedelta(hours=3))
    assert good.backup_id in link(page, "Use this backup") and later.backup_id in link(page, "Use the next backup")
    assert "it lacks what was written in between" in page
    page = at(now - timedelta(hours=9))
    assert "The set default has no usable backup from that time or before" in page and good.backup_id in link(
        page, "Use that backup"
    )
    assert "in the future" in at(now + timedelta(hours=9))
    assert "is not a point in time" in text_of(client.get(STEPS, {"at": "then"}))


@pytest.mark.slow
def test_steps_keep_the_selection(site):
    client = site.client("rita", "restorer")
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    page = text_of(client.get(STEPS))
    page = text_of(client.get(link(page, "Select")))
    assert "All stores" in page and "SQLite refserver" in page and "In place" in page
    answer = client.get(f"{STEPS}what/", {"backup": made, "only": "sqlite:refserver", "target": "in_place", "go": "1"})
    assert answer.status_code == 302 and answer.url.startswith(f"{STEPS}changes/")
    page = text_of(client.get(answer.url))
    assert "Preview what would change" in page and not Job.objects.filter(kind="preview").exists(), "a GET starts nothing"
    back = link(page, "← Previous")
    page = text_of(client.get(back))
    assert re.search(r'value="sqlite:refserver" checked', page) and re.search(r'value="in_place" checked', page)
    asked = parse_qs(urlsplit(answer.url).query)
    started = client.post(f"{STEPS}changes/", {name: values[0] for name, values in asked.items()})
    job = Job.objects.get(kind="preview")
    assert parse_qs(urlsplit(started.url).query)["look"] == [str(job.pk)]
    assert "Queued" in text_of(client.get(started.url))
    site.work()
    page = text_of(client.get(started.url))
    assert "Nothing would change" in page and "the same as now, with the same permissions" in page
    again = text_of(client.get(answer.url))  # without the preview's id: the latest preview is shown, and no new one is started
    assert "Nothing would change" in again and Job.objects.filter(kind="preview").count() == 1
    assert "Replace the live data" in text_of(client.get(link(page, "Next: confirm")))


@pytest.mark.slow
def test_preview_shows_accounts_first(site):
    site.person("mallory", superuser=True)
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    User.objects.filter(username="mallory").delete()
    catalogue.remove(list(Paper.objects.order_by("pk")[:3]))
    client = site.client("rita", "restorer")
    site.done(submit.preview_restore(site.actor, backup_id=made))
    page = text_of(client.get(f"{STEPS}changes/", {"backup": made, "target": "in_place"}))
    assert page.index("Accounts and permissions") < page.index("library_paper")
    assert "No account will gain permissions." in page and "mallory" in page and "superuser" in page
    assert "it was removed, and will be disabled" in page
    assert "Your account is not in this backup" in page, "rita was made since"
    assert re.search(r"library_paper.*?62</td>.*?65</td>.*?\+3", page, re.DOTALL)
    page = text_of(client.get(f"{STEPS}changes/", {"backup": made, "target": "folder", "folder": "there"}))
    assert "The live data will not change" in page and "Your account" not in page


@pytest.mark.slow
def test_in_place_requires_the_id(site, made):
    client = site.client("rita", "restorer")
    chosen = {"backup": made, "target": "in_place"}
    confirm = f"{STEPS}confirm/"
    page = text_of(client.get(confirm, chosen))
    assert "There is no preview of the changes" in page and made in page
    wrong_id = client.post(confirm, {**chosen, "typed": made[:-1]})
    assert "That is not the id of this backup" in text_of(wrong_id) and f'value="{made[:-1]}"' in text_of(wrong_id)
    assert not Job.objects.filter(kind="restore_in_place").exists()


@pytest.mark.slow
def test_restore_in_place_and_report(site):
    site.person("mallory", superuser=True)
    client = site.client("rita", "restorer")
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    User.objects.filter(username="mallory").delete()
    catalogue.remove(list(Paper.objects.order_by("pk")[:3]))
    site.done(submit.preview_restore(site.actor, backup_id=made))
    answer = client.post(f"{STEPS}confirm/", confirmation(client, made))
    job = Job.objects.get(kind="restore_in_place")
    assert answer.url == f"{STEPS}report/{job.pk}/" and job.by == "rita"
    assert "Replacing the live data" in text_of(client.get(answer.url))
    assert "Queued" in text_of(client.get(f"{answer.url}live/"))
    job = site.done(job)
    assert job.state == Job.State.SUCCEEDED, job.error
    assert client.get(answer.url).status_code == 302, "accounts changed, so everybody was signed out"
    client.force_login(User.objects.get(username="rita"), "django.contrib.auth.backends.ModelBackend")
    live = client.get(f"{answer.url}live/")
    assert live["HX-Refresh"] == "true" and live.status_code == 200
    page = text_of(client.get(answer.url))
    safety = IndexedBackup.objects.get(safety=True).backup_id
    assert "Restored: the live data is that of" in page and "it was removed, and is disabled" in page and "mallory" in page
    assert f"manage.py backup_restore {safety} --in-place" in page and safety in link(page, "Restore the safety backup")
    assert "integrity check ok" in page and "65 vectors" in page and "What changed" in page
    assert Paper.objects.count() == 65
    # undone with the safety backup that the report names
    page = text_of(client.get(link(page, "Restore the safety backup")))
    assert "It holds the live data before an earlier restore" in page and re.search(r'value="in_place" checked', page)
    client.post(f"{STEPS}confirm/", confirmation(client, safety))
    site.work()
    assert Paper.objects.count() == 62 and not User.objects.filter(username="mallory").exists()


@pytest.mark.slow
def test_user_missing_from_restored_data_gets_an_explanation(site, made):
    client = site.client("rita", "restorer")  # made after the backup
    job = site.done(submit.restore_in_place(site.actor, backup_id=made, typed=made))
    assert job.state == Job.State.SUCCEEDED, job.error
    live = client.get(f"{STEPS}report/{job.pk}/live/", headers={"HX-Request": "true"})
    assert (
        live.status_code == 286
        and "You were signed out because the accounts were restored" in text_of(live)
        and "HX-Refresh" not in live
    )
    assert client.get(f"{STEPS}report/{job.pk}/").status_code == 302
    report = text_of(site.client("other", superuser=True).get(f"{STEPS}report/{job.pk}/"))
    assert "rita" in report and "created after the backup was made" in report


@pytest.mark.slow
def test_into_a_folder(site, made):
    client = site.client("rita", "restorer")
    page = text_of(client.get(f"{STEPS}what/", {"backup": made}))
    folder = re.search(r'id="folder" name="folder" value="([^"]+)"', page)[1]
    assert folder == made
    for name, why in (("../x", "letters, digits"), ("", "letters, digits"), ("taken", "already")):
        (site.places.root / "restored" / "taken").mkdir(parents=True, exist_ok=True)
        (site.places.root / "restored" / "taken" / "file").touch()
        page = text_of(client.get(f"{STEPS}what/", {"backup": made, "folder": name, "go": "1"}))
        assert why in page
    chosen = {"backup": made, "only": "files:documents", "folder": "there"}
    assert client.get(f"{STEPS}what/", {**chosen, "go": "1"}).status_code == 302
    page = text_of(client.get(f"{STEPS}confirm/", chosen))
    assert "The live data is not touched" in page and "typed" not in page.split("<form", 2)[-1]
    answer = client.post(f"{STEPS}confirm/", chosen)
    site.work()
    page = text_of(client.get(answer.url))
    assert "Restored into" in page and "restored/there" in page and "How to undo this restore" not in page
    assert len(list((site.places.root / "restored" / "there" / "files" / "documents").rglob("*.*"))) == 65
    assert "already" in text_of(client.get(client.get(f"{STEPS}confirm/", chosen).url))


@pytest.mark.slow
def test_control_database_is_not_restored_in_place(site):
    made = site.done(submit.back_up(site.actor, backup="full", set="control", verify="none")).backup_id
    client = site.client("rita", "restorer")
    page = text_of(client.get(f"{STEPS}what/", {"backup": made}))
    assert "holds the control database" in page and 'value="in_place" disabled' in page
    chosen = {"backup": made, "target": "in_place"}
    assert client.get(f"{STEPS}changes/", chosen).url.endswith("go=1")
    assert "holds the control database" in text_of(client.get(f"{STEPS}what/", {**chosen, "go": "1"}))
    assert client.post(f"{STEPS}confirm/", {**chosen, "typed": made}).status_code == 302
    assert not Job.objects.filter(kind="restore_in_place").exists()
    assert client.get(f"{STEPS}what/", {"backup": made, "folder": "control", "go": "1"}).status_code == 302


@pytest.mark.slow
def test_report_of_refused_restore(site, made):
    data = site.repository.backup_folder("default", made) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    for place in range(1000, 60_000, 500):
        content[place] ^= 0xFF
    data.write_bytes(content)
    client = site.client("rita", "restorer")
    answer = client.post(f"{STEPS}confirm/", confirmation(client, made))
    site.work()
    page = text_of(client.get(answer.url))
    assert "Failed:" in page and "Start over" in page
    assert Paper.objects.count() == 65


@pytest.mark.slow
def test_restore_pages_require_permission(site, made):
    for name, wanted in (("viewer", 403), ("operator", 403), ("restorer", 200)):
        client = site.client(name, name)
        for path in ("", f"what/?backup={made}", f"changes/?backup={made}&folder=x", f"confirm/?backup={made}&folder=x"):
            assert client.get(f"{STEPS}{path}").status_code == wanted, (name, path)
        posted = client.post(f"{STEPS}confirm/", {"backup": made, "folder": f"by-{name}"})
        assert posted.status_code == (302 if wanted == 200 else 403)
    assert client.get(f"{STEPS}what/?backup=20200101T000000Z-full-000000").status_code == 404
    assert client.get(f"{STEPS}changes/").url == STEPS and client.get(f"{STEPS}confirm/").url == STEPS
