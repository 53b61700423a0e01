"""Changes without the key in the repository of a running site: status, health, an alert, pages and the audit name them."""

import json
import shutil

import pytest
from django.urls import reverse
from django.utils import timezone

from backups.alerts import default_rules
from backups.catalog import holds, notices
from backups.conf import configuration
from backups.engine.adopt import adopt
from backups.engine.evidence.keys import make_key, memory_folder
from backups.engine.repository import leases
from backups.models import Alert, AlertLook, AuditEntry, IndexedBackup
from backups.monitoring import health, verdict
from backups.worker import tasks
from tests.control.conftest import HOST
from tests.restore.stores import back_up, context

pytestmark = pytest.mark.slow
_HOLD = {"time": "2026-01-01T00:00:00Z", "note": "planted"}


@pytest.fixture
def signed_site(empty_site):
    """A site with one backup in a signed repository, after a quiet minute."""
    back_up(empty_site.repository, configuration().sources("control"), "full", set="default", verify="hashes")
    make_key(configuration().signing_key)
    adopt(configuration().open("main"), context())
    default_rules.install()
    notices._looked.clear()
    _minute()
    assert not AuditEntry.objects.filter(action="evidence.noticed").exists()
    return empty_site


def _minute() -> None:
    AlertLook.objects.filter(host="").delete()
    tasks.tick(HOST)


def _place(site):
    return site.repository.backup_folder("default", IndexedBackup.objects.get().backup_id)


def change_journal(site) -> None:
    journal = site.repository.folder / "backups/default/journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"do":"state"', b'"do":"State"'))


def roll_back(site) -> None:
    journal = site.repository.folder / "backups/default/journal.jsonl"
    earlier = journal.read_bytes()
    holds.hold(site.actor, IndexedBackup.objects.get(), "for the auditor")
    journal.write_bytes(earlier)


def plant_hold(site) -> None:
    (_place(site) / "hold.json").write_text(json.dumps(_HOLD))


def remove_proof(site) -> None:
    for proof in (_place(site) / "proofs").iterdir():
        proof.unlink()


def lose_key(site) -> None:
    configuration().signing_key.unlink()


PLANTED = {
    "changed journal": (change_journal, "journal_changed", "journal-changed", "it was changed|signed its last lines"),
    "rolled back": (roll_back, "journal_changed", "journal-changed", "it was rolled back"),
    "hold": (plant_hold, "holds_changed", "holds-changed", "Nothing vouches for 1 hold"),
    "proof": (remove_proof, "proofs_lost", "proofs-lost", "Signed proofs of 1 backup are gone"),
    "key": (lose_key, "key_lost", "signing-key-lost", "signing_key is missing"),
}


@pytest.mark.parametrize(("plant", "code", "rule", "words"), PLANTED.values(), ids=PLANTED)
def test_every_view_names_a_change(signed_site, plant, code, rule, words):
    plant(signed_site)
    _minute()
    [reason] = [one for one in verdict.now().reasons if one.code == code]
    assert any(word in reason.text for word in words.split("|")) and reason.todo
    assert code in {one.code for one in health.run_checks(timezone.now()).findings}
    assert Alert.objects.get(rule=rule, open=True).text == reason.text
    admin = signed_site.client("root", superuser=True)
    for address in ("/admin/backup/", "/admin/backup/backups/"):
        assert reason.text.split(":")[0] in admin.get(address).content.decode(), address
    entry = AuditEntry.objects.get(action="evidence.noticed")
    assert entry.target == "repository:main" and entry.before == {"noticed": []} and len(entry.after["noticed"]) == 1
    _minute()
    assert AuditEntry.objects.filter(action="evidence.noticed").count() == 1


def test_adopting_ends_it(signed_site):
    change_journal(signed_site)
    _minute()
    adopt(configuration().open("main"), context())
    _minute()
    assert notices.noticed(["main"]) == {"main": []}
    assert AuditEntry.objects.filter(action="evidence.noticed").latest("number").after["noticed"] == []


def test_a_lost_key_hides_nothing_that_was_noticed(signed_site):
    plant_hold(signed_site)
    _minute()
    lose_key(signed_site)
    _minute()
    assert [one.code for one in notices.noticed(["main"])["main"]] == ["key_lost", "tampered_hold"]


def test_a_repository_that_is_not_signed_yet_says_what_to_run(signed_site):
    """As after an upgrade that made a key: backups count as before."""
    shutil.rmtree(memory_folder(configuration().signing_key))
    for journal in signed_site.repository.folder.glob("backups/*/journal.jsonl"):
        journal.unlink()
    _minute()
    assert IndexedBackup.objects.get().verification == "hashes"
    [reason] = [one for one in verdict.now().reasons if one.code == "unsigned"]
    assert "refbackup adopt" in reason.todo and reason.level.value == "protected"


def test_a_hold_that_the_journal_does_not_take(signed_site, monkeypatch):
    monkeypatch.setattr(leases.journalling.__wrapped__, "__defaults__", (0.0,))
    admin = signed_site.client("root", superuser=True)
    row = IndexedBackup.objects.get()
    with leases.journalling(signed_site.repository.content):
        page = admin.post(
            reverse("backups:backup_act", args=[row.backup_id]), {"do": "hold", "note": "x"}, follow=True
        ).content.decode()
    assert "The backup is held: x" in page and "nothing vouches for that" in page
    assert AuditEntry.objects.get(action="backup.held").after["not_signed"]
