"""A restore in place brings back the application's data, and gives nobody access that was taken away since the backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections
from django.test import Client

from backups.identity import accounts, known_accounts, tokens
from backups.jobs import completion, restored_accounts, submit
from backups.models import ApiToken, AuditEntry, Job, KnownAccount
from tests.control.conftest import PASSWORD

API, PAGE = "/api/v1/backups", "/admin/backup/"


def backed_up(site) -> str:
    job = site.done(submit.back_up(site.actor, backup="full", only=["sqlite"], verify="none"))
    assert job.state == Job.State.SUCCEEDED, job.error
    return job.backup_id


def restored(site, backup_id: str) -> Job:
    job = site.done(submit.restore_in_place(site.actor, backup_id=backup_id, typed=backup_id, only="sqlite"))
    assert job.state == Job.State.SUCCEEDED, job.error
    connections["default"].close()
    return job


def asked(secret: str) -> int:
    return Client().get(API, headers={"Authorization": f"Bearer {secret}"}).status_code


def signs_in(name: str, password: str) -> bool:
    client = Client()
    client.post("/admin/login/", {"username": name, "password": password})
    return client.get(PAGE).status_code == 200


@pytest.mark.slow
def test_what_was_taken_away_stays_taken_away(empty_site):
    site = empty_site
    gone, off, demoted = (site.person(name, superuser=True) for name in ("gone", "off", "demoted"))
    changed = site.person("changed", "viewer", "restorer")
    old = tokens.issue(gone, "old", ["read"], None).secret
    other = tokens.issue(site.person("same", "viewer"), "same", ["read"], None).secret
    backup_id = backed_up(site)
    gone.delete()
    User.objects.filter(pk=off.pk).update(is_active=False)  # past every signal
    demoted.is_superuser = False
    demoted.save()
    changed.set_password("a new one, since it leaked")
    changed.save()
    changed.groups.remove(Group.objects.get(name="restorer"))
    mine = site.client("newcomer", superuser=True)
    assert asked(other) == 200 and asked(old) == 401
    job = restored(site, backup_id)
    assert not signs_in("gone", PASSWORD) and not signs_in("off", PASSWORD)
    assert User.objects.get(username="demoted").check_password(PASSWORD) and not signs_in("demoted", PASSWORD)
    assert not signs_in("changed", PASSWORD) and signs_in("changed", "a new one, since it leaked")
    assert [group.name for group in User.objects.get(username="changed").groups.all()] == ["viewer"]
    assert mine.get(PAGE).status_code == 302 and asked(old) == 401 and asked(other) == 200
    told = job.result["accounts"]
    assert {one["name"] for one in told["withheld"]} == {"gone", "off", "demoted", "changed"}
    assert not told["regained"] and told["counts"]["gives"] == 0 and told["sessions_ended"] == 1
    entry = AuditEntry.objects.get(action="restore_in_place.accounts").after
    assert {one["name"] for one in entry["withheld"]} == {"gone", "off", "demoted", "changed"} and entry["sessions_ended"] == 1
    log = " ".join(job.log.values_list("line", flat=True))
    assert "gone had more access in the backup than before the restore: it had been removed, and is disabled" in log
    call_command("backup_access_return", "gone")
    assert signs_in("gone", PASSWORD) and User.objects.get(username="gone").is_superuser
    with pytest.raises(CommandError, match="No restore has withheld"):
        call_command("backup_access_return", "gone")


@pytest.mark.slow
def test_what_is_remembered_counts_when_the_live_database_is_lost(empty_site):
    site = empty_site
    site.person("gone", superuser=True).delete()
    left = site.person("left", superuser=True)
    changed = site.person("changed", superuser=True)
    backup_id = backed_up(site)
    left.delete()
    changed.set_password("another")
    changed.save()
    known_accounts.observe(accounts.read_live())
    connections["default"].close()
    database = site.places.settings["REFSERVER_DATABASE"]
    for path in database.parent.glob(database.name + "*"):
        path.unlink()
    job = restored(site, backup_id)
    assert not User.objects.get(username="left").is_active
    assert not User.objects.get(username="changed").has_usable_password(), "the hash of the present one is lost"
    assert job.result["accounts"]["before"] is None
    assert {one["name"]: one["password"] for one in job.result["accounts"]["withheld"]} == {"left": "", "changed": "none"}


@pytest.mark.slow
def test_after_a_restore_without_the_application_a_command_does_it(empty_site, capsys):
    site = empty_site
    gone = site.person("gone", superuser=True)
    site.person("stays", superuser=True)
    backup_id = backed_up(site)
    call_command("backup_access_withhold")
    assert "No account has more access than is remembered of it." in capsys.readouterr().out
    gone.delete()
    database = site.places.settings["REFSERVER_DATABASE"]
    connections["default"].close()
    done = site.places.python(
        *("-m", "backups.engine", "restore", backup_id, "--in-place", "--yes", "--only", "sqlite"),
        *("--repo", site.repository.folder, "--sqlite", f"refserver={database}"),
    )
    assert done.returncode == 0 and User.objects.get(username="gone").is_active, done.stderr
    call_command("backup_access_withhold")
    assert "it had been removed, and is disabled" in capsys.readouterr().err
    assert not User.objects.get(username="gone").is_active and User.objects.get(username="stays").is_active


@pytest.mark.slow
def test_on_a_new_machine_accounts_are_as_the_backup_has_them(empty_site):
    site = empty_site
    site.person("ada", superuser=True)
    backup_id = backed_up(site)
    KnownAccount.objects.all().delete()  # a new control database
    User.objects.all().delete()
    KnownAccount.objects.all().delete()
    site.person("admin", superuser=True)
    job = restored(site, backup_id)
    assert signs_in("ada", PASSWORD) and not job.result["accounts"]["withheld"]


@pytest.mark.slow
def test_a_trigger_that_prevents_it_is_told(empty_site):
    site = empty_site
    site.person("gone", superuser=True)
    with closing(sqlite3.connect(site.places.settings["REFSERVER_DATABASE"])) as database, database:
        database.execute(
            "CREATE TRIGGER again AFTER UPDATE OF is_active ON auth_user WHEN new.username = 'gone'"
            " BEGIN UPDATE auth_user SET is_active = 1 WHERE id = new.id; END"
        )
    backup_id = backed_up(site)
    User.objects.filter(username="gone").delete()
    job = restored(site, backup_id)
    assert [one["name"] for one in job.result["accounts"]["regained"]] == ["gone"]
    assert "gone HAS REGAINED ACCESS: it had been removed." in " ".join(job.log.values_list("line", flat=True))
    page = site.client("rita", "restorer").get(f"/admin/backup/restore/report/{job.pk}/").content.decode()
    assert "Check these accounts now." in page


@pytest.mark.slow
def test_a_name_that_is_no_text_hides_nobody(empty_site):
    site = empty_site
    site.person("gone", superuser=True)
    site.person("odd")
    with connections["default"].cursor() as cursor:
        cursor.execute("UPDATE auth_user SET username = CAST(x'6162ff' AS TEXT) WHERE username = 'odd'")
    backup_id = backed_up(site)
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM auth_user WHERE username <> 'gone'")
    User.objects.filter(username="gone").delete()
    job = restored(site, backup_id)
    assert "gone" in {one["name"] for one in job.result["accounts"]["withheld"]} and not signs_in("gone", PASSWORD)


@pytest.mark.slow
def test_accounts_that_cannot_be_read_are_settled_later(empty_site, monkeypatch):
    site = empty_site
    site.person("gone", superuser=True)
    secret = tokens.issue(site.person("stays", "viewer"), "hers", ["read"], None).secret
    backup_id = backed_up(site)
    User.objects.filter(username="gone").delete()
    client = site.client("rita", "restorer")
    monkeypatch.setattr(accounts, "_TRIES", 1)
    remembered = completion.prepare

    def lock_before_settling(job):
        work = remembered(job)
        monkeypatch.setattr(accounts, "read", unreadable)
        return work

    def unreadable(query):
        raise DatabaseError("database is locked")

    readable = accounts.read
    monkeypatch.setattr(completion, "prepare", lock_before_settling)
    job = restored(site, backup_id)
    assert job.result["accounts"]["unread"] == "database is locked"
    assert "THE RESTORED ACCOUNTS CANNOT BE READ" in " ".join(job.log.values_list("line", flat=True))
    assert client.get(PAGE).status_code == 302 and asked(secret) == 401 and User.objects.get(username="gone").is_active
    restored_accounts.settle_later()
    restored_accounts.remove_orphans()
    assert restored_accounts.is_unsettled()
    monkeypatch.setattr(accounts, "read", readable)
    restored_accounts.settle_later()
    assert not User.objects.get(username="gone").is_active and not restored_accounts.is_unsettled()
    entries = AuditEntry.objects.filter(action="restore_in_place.accounts").order_by("number")
    assert ["unread" in entry.after for entry in entries] == [True, False]


@pytest.mark.slow
def test_groups_do_not_get_permissions_back(empty_site):
    site = empty_site
    editors = Group.objects.create(name="editors")
    change, delete = Permission.objects.filter(codename__in=["change_paper", "delete_paper"]).order_by("codename")
    editors.permissions.set([change, delete])
    backup_id = backed_up(site)
    editors.permissions.set([change])
    preview = site.done(submit.preview_restore(site.actor, backup_id=backup_id, only="sqlite")).result["accounts"]
    assert preview["groups_withheld"] == {"editors": ["library.delete_paper"]} and not preview["counts"]["groups"]
    job = restored(site, backup_id)
    assert job.result["accounts"]["groups_withheld"] == {"editors": ["library.delete_paper"]}
    assert [one.codename for one in Group.objects.get(name="editors").permissions.all()] == ["change_paper"]


@pytest.mark.slow
def test_tokens_of_accounts_that_change_are_suspended(empty_site):
    site = empty_site
    ada = site.person("ada", "viewer", "operator")
    secret = tokens.issue(ada, "nightly", ["read"], None).secret
    backup_id = backed_up(site)
    ada.groups.remove(Group.objects.get(name="operator"))
    job = restored(site, backup_id)
    assert job.result["accounts"]["tokens_suspended"] == ["ada"] and asked(secret) == 401
    ada = User.objects.get(username="ada")
    ada.groups.add(Group.objects.get(name="operator"))
    client, other = Client(), site.client("other", superuser=True)
    client.force_login(ada, "django.contrib.auth.backends.ModelBackend")
    token = ApiToken.objects.get(name="nightly")
    assert "Suspended" in client.get("/admin/backup/tokens/").content.decode()
    assert other.post(f"/admin/backup/tokens/{token.pk}/resume/").status_code == 404
    assert client.post(f"/admin/backup/tokens/{token.pk}/resume/").status_code == 302 and asked(secret) == 200
    assert AuditEntry.objects.filter(action="token.resumed").count() == 1


def test_a_token_does_not_work_for_a_later_account_of_the_same_name_and_key(empty_site):
    ada = empty_site.person("ada", "viewer")
    secret = tokens.issue(ada, "hers", ["read"], None).secret
    assert asked(secret) == 200
    key = ada.pk
    ada.delete()
    assert asked(secret) == 401
    later = get_user_model().objects.create_user("ada", password=PASSWORD, pk=key, is_staff=True)
    later.groups.add(Group.objects.get(name="viewer"))
    assert asked(secret) == 401
    own = tokens.issue(later, "own", ["read"], None).secret
    assert asked(own) == 200
    empty_site.person("bea")
    known_accounts.observe(accounts.read_live())
    with connections["default"].cursor() as cursor:  # past every signal
        cursor.execute("DELETE FROM auth_user_groups")
        cursor.execute("DELETE FROM auth_user WHERE username = 'ada'")
    known_accounts.observe(accounts.read_live())
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO auth_user (id, username, password, is_superuser, is_staff, is_active, first_name, last_name, email,"
            " date_joined) VALUES (%s, 'ada', '', 1, 1, 1, '', '', '', '2026-01-01')",
            [key],
        )
    known_accounts.observe(accounts.read_live())
    assert asked(own) == 401


def test_an_emptied_table_is_not_taken_for_removals(empty_site):
    for number in range(10):
        empty_site.person(f"person-{number}")
    known_accounts.observe(accounts.read_live())
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM auth_user WHERE username > 'person-1'")
    known_accounts.observe(accounts.read_live())
    assert not KnownAccount.objects.exclude(removed=None).exists()
    assert not Session.objects.exists()
