"""The audit: every kind of tampering is found and refused by the database; the page searches, shows and exports."""

from __future__ import annotations

import csv
import io
import json
from contextlib import contextmanager
from itertools import pairwise

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections

from backups.identity import audit
from backups.identity.audit import Actor, EntryFilter
from backups.models import AuditEntry, Job
from tests.control.many import vdbe_steps

ADA = Actor(name="ada", via=Job.Via.PAGES, id="7", address="192.0.2.7")
BEN = Actor(name="ben", via=Job.Via.API, id="8", token="ci (rsb_abcd)")


@pytest.fixture
def entries(empty_site) -> list[AuditEntry]:
    for number in range(6):
        audit.record(
            ADA if number % 2 else BEN, "plan.changed", f"plan:p{number}", before={"cron": "a"}, after={"cron": number}
        )
    return list(AuditEntry.objects.order_by("number"))


@contextmanager
def tampering():
    """An attacker with the database's file: drops the triggers, and creates them again."""
    with connections["control"].cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'backups_auditentry'")
        triggers = cursor.fetchall()
        assert len(triggers) == 2
        for name, _ in triggers:
            cursor.execute(f"DROP TRIGGER {name}")
        yield cursor
        for _, sql in triggers:
            cursor.execute(sql)


def broken() -> tuple[int, int, str]:
    count, found = audit.verify_chain()
    assert found is not None
    return count, found.number, found.why


def test_intact_chain(entries):
    assert audit.verify_chain() == (6, None)
    assert audit.verify_chain(audit.head()) == (6, None)
    assert entries[0].previous == audit.FIRST
    assert all(later.previous == earlier.hash for earlier, later in pairwise(entries))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("who", "eve"),
        ("who_id", "9"),
        ("via", "system"),
        ("token", "other"),
        ("address", "192.0.2.99"),
        ("action", "plan.paused"),
        ("target", "plan:other"),
        ("time", "2020-01-01 00:00:00"),
        ("before", '{"cron": "b"}'),
        ("after", "null"),
        ("hash", "0" * 64),
    ],
)
def test_changed_field_is_found(entries, field, value):
    with tampering() as cursor:
        cursor.execute(f"UPDATE backups_auditentry SET {field} = %s WHERE number = 3", [value])
    assert broken() == (2, 3, "it is not what was written")


@pytest.mark.parametrize(("field", "value"), [("after", "{half"), ("time", "some day")])
def test_unreadable_field_is_found(entries, field, value):
    with tampering() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute(f"UPDATE backups_auditentry SET {field} = %s WHERE number = 3", [value])
        cursor.execute("PRAGMA ignore_check_constraints = OFF")
    count, number, why = broken()
    assert (count, number) == (2, 3) and ("not what was written" in why or "cannot be read" in why)


def test_removed_entry_is_found(entries):
    with tampering() as cursor:
        cursor.execute("DELETE FROM backups_auditentry WHERE number = 4")
    assert broken() == (3, 4, "entry 4 is missing; 5 follows")


def test_entry_removed_with_its_gap_closed_is_found(entries):
    with tampering() as cursor:
        cursor.execute("DELETE FROM backups_auditentry WHERE number = 4")
        cursor.execute("UPDATE backups_auditentry SET number = number - 1 WHERE number > 4")
    assert broken() == (3, 4, "it does not follow the entry before it")


def test_inserted_entry_is_found(entries):
    with tampering() as cursor:
        cursor.execute("UPDATE backups_auditentry SET number = -number WHERE number >= 4")
        cursor.execute("UPDATE backups_auditentry SET number = 1 - number WHERE number < 0")
    forged = AuditEntry(number=4, time=entries[2].time, who="ada", via="pages", action="x", previous=entries[2].hash)
    forged.hash = audit.digest(forged)
    forged.save(force_insert=True)
    assert broken() == (4, 5, "it does not follow the entry before it")


def test_swapped_entries_are_found(entries):
    with tampering() as cursor:
        cursor.execute("UPDATE backups_auditentry SET number = 100 WHERE number = 2")
        cursor.execute("UPDATE backups_auditentry SET number = 2 WHERE number = 3")
        cursor.execute("UPDATE backups_auditentry SET number = 3 WHERE number = 100")
    assert broken() == (1, 2, "it does not follow the entry before it")


def test_truncated_or_rebuilt_chain_is_found_with_a_recorded_head(entries):
    noted = audit.head()
    with tampering() as cursor:
        cursor.execute("DELETE FROM backups_auditentry WHERE number > 4")
    assert audit.verify_chain() == (4, None), "the rest is intact"
    assert audit.verify_chain(noted)[1].why == "entries up to 6 were recorded elsewhere and are missing"
    with tampering() as cursor:
        cursor.execute("DELETE FROM backups_auditentry")
    for _ in range(7):
        audit.record(ADA, "nothing.happened")
    assert audit.verify_chain() == (7, None)
    assert audit.verify_chain(noted)[1].number == 6


def test_database_refuses_to_change_or_remove_an_entry(entries):
    with pytest.raises(DatabaseError, match="append-only"):
        AuditEntry.objects.filter(number=3).update(who="eve")
    with pytest.raises(DatabaseError, match="append-only"):
        AuditEntry.objects.filter(number=3).delete()
    with pytest.raises(DatabaseError, match="append-only"):
        entries[2].save()
    assert audit.verify_chain() == (6, None)


def test_entry_is_committed_with_what_it_records(entries):
    from django.db import transaction

    with pytest.raises(ZeroDivisionError), transaction.atomic(using="control"):
        audit.record(ADA, "plan.changed")
        1 / 0  # noqa: B018
    assert audit.head()[0] == 6
    audit.record(ADA, "plan.changed")
    assert audit.verify_chain() == (7, None)


WRITE = """
from backups.identity import audit
from backups.identity.audit import SYSTEM
for number in range(40):
    audit.record(SYSTEM, "test.written", f"n:{number}", after={"n": number})
"""


@pytest.mark.slow
def test_writers_in_several_processes_make_one_chain(empty_site):
    import subprocess
    import sys

    from tests.control.conftest import environment_of
    from tests.library.places import ROOT

    command = [sys.executable, "-c", f"import django; django.setup()\n{WRITE}"]
    writers = [subprocess.Popen(command, env=environment_of(empty_site.places), cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert audit.verify_chain() == (120, None)


def test_command_names_the_first_broken_link(entries):
    def run(*arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        try:
            call_command("backup_audit_verify", *arguments, stdout=out, stderr=err)
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
        return 0, out.getvalue(), err.getvalue()

    code, said, _ = run()
    assert code == 0 and said.startswith("6 entries, all intact.")
    noted = said.rpartition(" ")[2].strip()
    assert run("--known", noted)[0] == 0
    with tampering() as cursor:
        cursor.execute("UPDATE backups_auditentry SET who = 'eve' WHERE number = 2")
    code, _, said = run("--known", noted)
    assert code == 5 and "Entry 2: it is not what was written. Intact entries before it: 1." in said
    code, said, _ = run("--json")
    told = json.loads(said)
    assert code == 5 and told["broken"] == {"number": 2, "why": "it is not what was written"} and not told["ok"]
    assert audit.verified().after["broken"]["number"] == 2


# Search


def test_search_pages_by_number_and_reads_a_bounded_window(entries, monkeypatch):
    assert [entry.number for entry in audit.search(EntryFilter(), count=4).entries] == [6, 5, 4, 3]
    first = audit.search(EntryFilter(), count=4)
    assert [entry.number for entry in audit.search(EntryFilter(), below=first.below, count=4).entries] == [2, 1]
    assert [entry.number for entry in audit.search(EntryFilter(who="ada")).entries] == [6, 4, 2]
    assert [entry.number for entry in audit.search(EntryFilter(action="plan.", who="ben")).entries] == [5, 3, 1]
    assert not audit.search(EntryFilter(action="plan")).entries and not audit.search(EntryFilter(action="pla.")).entries
    assert [entry.number for entry in audit.search(EntryFilter(target="plan:p3")).entries] == [4]
    assert [entry.number for entry in audit.search(EntryFilter(via="api", text="RSB_abcd p2")).entries] == [3]
    assert len(audit.search(EntryFilter(since=entries[3].time)).entries) == 3
    assert [entry.number for entry in audit.search(EntryFilter(until=entries[2].time)).entries] == [3, 2, 1]
    monkeypatch.setattr(audit, "WINDOW", 2)
    looked = audit.search(EntryFilter(text="p0"))
    assert not looked.entries and looked.below == 5 and looked.searched_to == 5
    while looked.below:
        looked = audit.search(EntryFilter(text="p0"), below=looked.below)
    assert [entry.number for entry in looked.entries] == [1]


def test_text_in_any_script_is_found(empty_site):
    audit.record(ADA, "backup.requested", after={"note": "vor dem Umzug nach Köln 100%"})
    for text in ("Köln", "100%", "umzug"):
        assert len(audit.search(EntryFilter(text=text)).entries) == 1, text
    assert not audit.search(EntryFilter(text="100_")).entries


def test_page_shows_changes_and_actors(entries, empty_site):
    client = empty_site.client("vera", "viewer")
    page = client.get("/admin/backup/audit/").content.decode()
    assert "<del>a</del> → <ins>5</ins>" in page and "192.0.2.7" in page and "token ci (rsb_abcd)" in page
    assert "has not been verified yet" in page
    assert 'href="/admin/backup/plans/p3/"' in page
    filtered = client.get("/admin/backup/audit/", {"who": "ben", "text": "p2"}).content.decode()
    assert "plan:p2" in filtered and "plan:p3" not in filtered and "who=ben&amp;text=p2" in filtered
    assert client.get("/admin/backup/audit/", {"since": "nonsense"}).status_code == 400
    audit.verify_and_record(ADA)
    assert "The chain is intact</strong>" in client.get("/admin/backup/audit/").content.decode()
    with tampering() as cursor:
        cursor.execute("UPDATE backups_auditentry SET who = 'eve' WHERE number = 2")
    audit.verify_and_record(ADA)
    assert "The chain is broken at entry 2:" in client.get("/admin/backup/audit/").content.decode()


def test_page_needs_its_permission(entries, empty_site):
    assert empty_site.client("nobody").get("/admin/backup/audit/").status_code == 403


@pytest.mark.slow
def test_verifying_is_a_job(entries, empty_site):
    client = empty_site.client("vera", "viewer")
    answer = client.post("/admin/backup/audit/verify/")
    job = Job.objects.get()
    assert answer.headers["Location"] == job.get_absolute_url() and job.kind == "audit_verify"
    with tampering() as cursor:
        cursor.execute("UPDATE backups_auditentry SET who = 'eve' WHERE number = 2")
    job = empty_site.done(job)
    assert (job.state, job.error["message"]) == (Job.State.FAILED, "Entry 2 of the audit: it is not what was written.")


def test_exports_contain_all_matches_and_can_be_verified(entries, empty_site):
    audit.record(ADA, "backup.requested", after={"note": "=1+1"})
    audit.record(Actor(name="=cmd()", via=Job.Via.PAGES), "backup.requested")
    client = empty_site.client("vera", "viewer")
    before = audit.head()[0]
    answer = client.get("/admin/backup/audit/export.jsonl")
    rows = [json.loads(line) for line in b"".join(answer.streaming_content).decode().splitlines()]
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="audit-')
    assert [row["number"] for row in rows] == list(range(1, before + 2)), "the export itself is recorded"
    assert rows[-1]["action"] == "audit.exported" and all("hash" in row for row in rows)
    table = b"".join(client.get("/admin/backup/audit/export.csv", {"who": "ada"}).streaming_content).decode()
    read = list(csv.DictReader(io.StringIO(table)))
    assert {row["who"] for row in read} == {"ada"} and len(read) == 4
    table = b"".join(client.get("/admin/backup/audit/export.csv").streaming_content).decode()
    assert "'=cmd()" in {row["who"] for row in csv.DictReader(io.StringIO(table))}
    assert client.get("/admin/backup/audit/export.exe").status_code == 404


MANY = """
INSERT INTO backups_auditentry
    (number, time, who, who_id, via, token, address, action, target, before, after, previous, hash)
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 200000)
SELECT x, datetime('2026-01-01', x || ' seconds'), 'w' || (x % 50), '', 'pages', '', '',
    CASE x % 3 WHEN 0 THEN 'backup.requested' WHEN 1 THEN 'account.signed_in' ELSE 'plan.changed' END, 'job:' || x,
    NULL, '{"n": ' || x || '}', printf('%064d', x - 1), printf('%064d', x)
FROM n
"""


@pytest.mark.slow
def test_page_of_200_000_entries_does_little_work(empty_site):
    with connections["control"].cursor() as cursor:
        cursor.execute(MANY)
    client = empty_site.client("vera", "viewer")
    client.get("/admin/backup/audit/")  # loads the templates
    for query in ({}, {"who": "w7"}, {"action": "backup."}, {"text": "nowhere to be found"}, {"who": "w7", "text": "59"}):
        with vdbe_steps(connections["control"].connection) as steps:
            assert client.get("/admin/backup/audit/", query).status_code == 200
        # Only a search for text without more reads all entries.
        assert steps.taken <= (7 * 200_000 if query.keys() == {"text"} else 50_000), query
