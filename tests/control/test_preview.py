"""The preview of a restore is correct in any state of the live stores, and leaves no files."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connections

from backups.catalog import index
from backups.identity import account_changes, accounts
from backups.jobs import submit
from backups.models import AuditEntry, Job
from refserver.library import catalogue
from refserver.library.models import Paper
from tests.control.conftest import environment_of
from tests.library.places import ROOT

HASHES = ("pbkdf2", "argon2", "bcrypt", "scrypt", "md5$")


def looked(site, backup_id, **arguments) -> dict:
    job = site.done(submit.preview_restore(site.actor, backup_id=backup_id, **arguments))
    assert job.state == Job.State.SUCCEEDED, job.error
    assert not any(site.repository.scratch.iterdir())
    told = json.dumps(job.result) + "".join(job.log.values_list("line", flat=True))
    assert not any(name in told for name in HASHES), "no password hash is shown"
    return job.result


def backed_up(site, **arguments) -> str:
    job = site.done(submit.back_up(site.actor, **{"backup": "full", "verify": "none", **arguments}))
    assert job.state == Job.State.SUCCEEDED, job.error
    return job.backup_id


def table(result, name):
    return next(one for one in result["sqlite"][0]["tables"] if one["name"] == name)


@pytest.fixture
def people(site):
    """Some accounts, and a backup of them."""
    mallory = site.person("mallory", superuser=True)
    olga = site.person("olga", "operator", "restorer")
    olga.user_permissions.add(Permission.objects.get(codename="add_user"))
    site.person("walter")
    site.person("steady", "viewer")
    return backed_up(site), mallory, olga


def change_people() -> None:
    User.objects.filter(username="mallory").delete()
    olga = User.objects.get(username="olga")
    olga.set_password("changed because it leaked")
    olga.save()
    olga.groups.set(Group.objects.filter(name="viewer"))
    olga.user_permissions.clear()
    User.objects.filter(username="walter").update(is_active=False)
    User.objects.create_user("newcomer", password="new-password")


@pytest.mark.slow
def test_rows_vectors_and_files_before_and_after(site):
    made = backed_up(site, verify="restore")
    papers = Paper.objects.count()
    catalogue.remove(list(Paper.objects.order_by("pk")[:3]))
    Paper.objects.filter(pk__in=Paper.objects.order_by("pk").values("pk")[:2]).update(title="Changed since")
    result = looked(site, made)
    row = table(result, "library_paper")
    assert (row["before"], row["after"]) == (papers - 3, papers)
    assert row["differs"] == {"gone": 0, "back": 3, "changed": 2}
    assert table(result, "django_content_type")["differs"] == {"gone": 0, "back": 0, "changed": 0}
    papers_now = next(one for one in result["chroma"][0]["collections"] if one["name"] == "papers")
    assert (papers_now["before"], papers_now["after"], papers_now["same"]) == (papers - 3, papers, False)
    assert papers_now["dimension_after"] == 384
    documents = result["files"][0]
    assert documents["counts"] == {"appear": 3, "vanish": 0, "change": 0}
    assert documents["files_after"] == papers and len(documents["appear"]) == 3
    targets = {target["store"]: target["how"] for target in result["in_place"]["targets"]}
    assert targets["sqlite/refserver.sqlite3"] == "online, in one transaction" and "gate" in targets["chroma/chroma"]
    assert result["in_place"]["possible"] and result["seconds"]["estimate"] > 0 and result["space"][0]["enough"]
    assert Paper.objects.count() == papers - 3, "nothing was changed"


@pytest.mark.slow
def test_restored_accounts_and_permissions_are_listed(site, people):
    change_people()
    told = looked(site, people[0])["accounts"]
    assert [(one["name"], one["superuser"], one["can_sign_in"]) for one in told["appear"]] == [("mallory", True, False)]
    assert [one["name"] for one in told["vanish"]] == ["newcomer"]
    changes = {one["name"]: {change["what"]: change for change in one["changes"]} for one in told["change"]}
    assert changes == {"olga": {"groups": {"what": "groups", "before": ["viewer"], "after": [], "gives": False}}}
    taken = {one["name"]: one for one in told["withheld"]}
    assert taken.keys() == {"mallory", "olga", "walter"}
    assert taken["mallory"]["removed"] and taken["walter"]["flags"] == ["active"]
    assert taken["olga"]["password"] == "kept" and taken["olga"]["groups"] == ["operator", "restorer"]
    assert taken["olga"]["permissions"] == ["auth.add_user"]
    assert told["counts"] == {"appear": 1, "vanish": 1, "change": 1, "groups": 0, "gives": 0, "gives_groups": 0}


@pytest.mark.slow
def test_restored_accounts_are_in_the_result_and_the_audit(site, people):
    change_people()
    Group.objects.get(name="operator").permissions.clear()
    backup_id = people[0]
    job = site.done(submit.restore_in_place(site.actor, backup_id=backup_id, typed=backup_id))
    assert job.state == Job.State.SUCCEEDED, job.error
    told = job.result["accounts"]
    assert [one["name"] for one in told["appear"]] == ["mallory"] and told["counts"]["gives"] == 0
    entry = AuditEntry.objects.get(action="restore_in_place.accounts")
    assert (entry.target, entry.who) == (f"job:{job.pk}", site.actor.name)
    assert entry.after["appear"] == ["mallory"] and entry.after["vanish"] == ["newcomer"]
    assert {one["name"] for one in entry.after["withheld"]} == {"mallory", "olga", "walter"}
    assert entry.after["backup"] == backup_id
    assert not any(name in json.dumps(entry.after) for name in HASHES)
    assert Group.objects.get(name="operator").permissions.filter(codename="create_backup").exists(), "groups are remade"
    olga = User.objects.get(username="olga")
    assert olga.check_password("changed because it leaked")
    assert not olga.groups.exists() and not olga.user_permissions.exists(), "neither the old nor the new ones"
    assert not User.objects.get(username="mallory").is_active and not User.objects.get(username="walter").is_active


@pytest.mark.slow
def test_differences_of_schema_and_migrations(site):
    made = backed_up(site)
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE made_since (a)")
        cursor.execute("INSERT INTO made_since VALUES (1), (2)")
        cursor.execute("DROP INDEX paper_newest_first")
        cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('library', '9999_later', 'x')")
    store = looked(site, made)["sqlite"][0]
    assert {"kind": "table", "name": "made_since", "how": "only now"} in store["schema"]
    assert {"kind": "index", "name": "paper_newest_first", "how": "only in the backup"} in store["schema"]
    assert store["migrations"] == {"missing": ["library.9999_later"], "unknown": []}
    row = next(one for one in store["tables"] if one["name"] == "made_since")
    assert (row["before"], row["after"], row["differs"]) == (2, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["broken", "missing"])
def test_unreadable_live_stores_are_reported(site, people, state):
    connections["default"].close()
    database, chroma = site.places.settings["REFSERVER_DATABASE"], site.places.chroma / "chroma.sqlite3"
    for path in (database, chroma):
        for log in path.parent.glob(f"{path.name}-*"):
            log.unlink()
        if state == "missing":
            path.unlink()
        else:
            path.write_bytes(b"this is not a database" * 1000)
    result = looked(site, people[0])
    store = result["sqlite"][0]
    assert store["live"] == state and store["why"] and store["rows_before"] is None and store["rows_after"] > 100
    assert table(result, "library_paper")["before"] is None and table(result, "library_paper")["after"] > 0
    assert result["chroma"][0]["live"] == state
    assert all(one["before"] is None and one["after"] for one in result["chroma"][0]["collections"])
    assert result["accounts"]["before"] is None
    assert {"mallory", "olga"} <= {one["name"] for one in result["accounts"]["appear"]}
    assert result["in_place"]["possible"]
    assert "as a file" in result["in_place"]["targets"][0]["how"]


@pytest.mark.slow
def test_database_that_breaks_half_way_is_reported(site):
    made = backed_up(site)
    connections["default"].close()
    path = site.places.settings["REFSERVER_DATABASE"]
    live = sqlite3.connect(path)
    live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (root,) = live.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'library_paper'").fetchone()
    (size,) = live.execute("PRAGMA page_size").fetchone()
    live.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    result = looked(site, made)
    assert result["sqlite"][0]["live"] == "broken"
    assert "library_paper" in result["sqlite"][0]["why"] and table(result, "library_paper")["differs"] is None
    assert table(result, "auth_permission")["before"] > 0 and table(result, "library_paper")["after"] > 0


@pytest.mark.slow
def test_part_of_a_backup_and_partial_backup(site):
    whole = backed_up(site)
    result = looked(site, whole, only="chroma:chroma")
    assert result["sqlite"] == [] and result["files"] == [] and result["accounts"] is None
    assert [target["store"] for target in result["in_place"]["targets"]] == ["chroma/chroma"]
    part = backed_up(site, only=["sqlite"])
    result = looked(site, part)
    assert not result["in_place"]["possible"] and "chroma:chroma" in result["in_place"]["why"]
    assert looked(site, part, only="sqlite")["in_place"]["possible"]


@pytest.mark.slow
def test_live_stores_of_another_application_are_not_opened(site):
    database = site.places.settings["REFSERVER_DATABASE"]
    made = site.places.python(
        *("-m", "backups.engine", "create", "--repo", site.repository.folder, "--set", "other"),
        *("--sqlite", f"refserver={database}", "--json", "--no-verify"),
    )
    index.refresh("main")
    result = looked(site, json.loads(made.stdout)["id"])
    assert result["sqlite"][0]["live"] == "unknown" and result["sqlite"][0]["target"] is None
    assert not result["in_place"]["possible"] and "not one of this project" in result["in_place"]["why"]
    assert result["accounts"] is None


@pytest.mark.slow
def test_damaged_backup_is_an_error_with_a_hint(site):
    made = backed_up(site)
    data = site.repository.backup_folder("default", made) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    for place in range(1000, 60_000, 500):
        content[place] ^= 0xFF
    data.write_bytes(content)
    job = site.done(submit.preview_restore(site.actor, backup_id=made))
    assert (job.state, job.error["code"]) == (Job.State.FAILED, "damaged") and "verify" in job.error["hint"]
    assert not any(site.repository.scratch.iterdir())


def started(site, backup_id, **environment):
    command = [sys.executable, str(ROOT / "manage.py"), "backup_preview", backup_id, "--json", "--progress", "json"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment_of(site.places), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_preview_leaves_no_files(site):
    made = backed_up(site)
    child = started(site, made, REFBACKUP_FAULT="restore-write:kill")
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(site.repository.scratch.iterdir()):
        assert time.monotonic() < deadline, "the guard did not remove the folder"
        time.sleep(0.05)


@pytest.mark.slow
def test_counting_a_huge_table_can_be_cancelled(site):
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE huge (filler TEXT)")
        cursor.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000)"
            " INSERT INTO huge SELECT hex(zeroblob(20)) FROM n"
        )
    made = backed_up(site)
    child = started(site, made)
    assert child.stderr is not None
    for line in child.stderr:
        if '"compare sqlite' in line:
            break
    child.send_signal(signal.SIGTERM)
    began = time.monotonic()
    answer, _ = child.communicate(timeout=30)
    assert time.monotonic() - began < 15
    if child.returncode != 0:  # it may have finished by then
        assert child.returncode == 9 and json.loads(answer)["error"]["code"] == "cancelled"
    assert not any(site.repository.scratch.iterdir())
    assert not os.path.exists(f"/proc/{child.pid}")


@pytest.mark.slow
def test_of_many_accounts_only_those_with_permissions_are_compared(site, monkeypatch):
    monkeypatch.setattr(accounts, "MOST_READ", 3)
    for name in ("a", "b", "c", "d"):
        User.objects.create_user(name, password="same-password")
    site.person("staff")
    in_group = User.objects.create_user("in-group")
    in_group.groups.add(Group.objects.get(name="viewer"))
    found = accounts.read_live()
    assert found.total == 6 and found.by_name.keys() == {"staff", "in-group"} and not found.whole


def test_change_of_second_factor_is_reported():
    old = accounts.Accounts(total=1, by_name={"a": accounts.Account(name="a", number="1", second_factor=True)}, groups={})
    new = accounts.Accounts(total=1, by_name={"a": accounts.Account(name="a", number="1")}, groups={})
    assert account_changes.compare(old, new)["change"][0]["changes"] == [
        {"what": "second_factor", "before": True, "after": False, "gives": True}
    ]
    assert not account_changes.compare(new, old)["change"][0]["gives"]
    assert "password" not in repr(accounts.Account(name="a", number="1", password="fingerprint"))


@pytest.mark.slow
def test_preview_as_text(site):
    made = backed_up(site)
    catalogue.remove(list(Paper.objects.order_by("pk")[:1]))
    Paper.objects.filter(pk__in=Paper.objects.order_by("pk").values("pk")[:2]).update(title="Changed since")
    Group.objects.create(name="later").delete()
    Group.objects.filter(pk=Group.objects.order_by("pk").values("pk")[:1]).update(name="renamed")
    done = site.places.manage("backup_preview", "latest", "--progress", "none")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith(made) and "library_paper: 64 -> 65 rows" in done.stdout and "Nothing was changed" in done.stdout
    )
    assert "library_paper: 64 -> 65 rows (1 restored, 2 changed back)" in done.stdout
    assert re.search(r"auth_group: [0-9]+ rows \(1 changed back\)", done.stdout), done.stdout
    none = site.places.manage("backup_preview", "20200101T000000Z-full-000000", "--json", "--progress", "none")
    assert none.returncode == 4 and json.loads(none.stdout)["error"]["code"] == "no_backup"
