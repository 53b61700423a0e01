"""The pages of backups: the list, one backup, the actions on them, and resumed downloads."""

from __future__ import annotations

import hashlib
import html
import os
import re
import uuid
from datetime import timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from backups.catalog import holds, index
from backups.catalog.lineage import Lineage, Relative, draw, lineage
from backups.conf import configuration
from backups.engine import prune
from backups.engine.runtime import folders
from backups.engine.types import Depth, Proof, SourceKind
from backups.jobs import submit
from backups.models import AuditEntry, IndexedBackup, Job, Severity
from backups.monitoring import conditions
from backups.monitoring.gathering import gather
from backups.plans import retention_preview
from tests.control.many import many, vdbe_steps

LIST = "/admin/backup/backups/"


@pytest.fixture
def line(site):
    """An unverified full backup and two incrementals on it, made by the command."""
    made = []
    for kind in ("full", "incremental", "incremental"):
        job = site.done(submit.back_up(site.actor, backup=kind, verify="none", note=f"{kind} of a line"))
        assert job.state == Job.State.SUCCEEDED, job.error
        made.append(job.backup_id)
    return made


def indexed(**values) -> IndexedBackup:
    """A row of the index without files, for pages that read only the index."""
    moment = values.pop("time", timezone.now())
    kind = values.setdefault("kind", "full")
    backup_id = values.pop("backup_id", f"{moment:%Y%m%dT%H%M%SZ}-{kind}-{uuid.uuid4().hex[:6]}")
    given = {"repository": "main", "set": "default", "finished": moment, "verification": "restore", **values}
    return IndexedBackup.objects.create(backup_id=backup_id, time=moment, **given)


def listed(client, **query) -> list[str]:
    """The ids on a page of the list, in order."""
    page = client.get(LIST, query)
    assert page.status_code == 200
    return ids_on(page.content.decode())


def ids_on(page: str) -> list[str]:
    return re.findall(r'name="id" value="main/[^"/]+/([^"]+)"', page)


@pytest.mark.slow
def test_list_filters(empty_site):
    now = timezone.now()
    rows = {
        "old": indexed(time=now - timedelta(days=9), note="before the migration", host="alpha"),
        "held": indexed(time=now - timedelta(hours=5), kind="incremental", held=True, hold_note="for the auditor", host="beta"),
        "safety": indexed(time=now - timedelta(hours=4), kind="incremental", safety=True, held=True, verification="hashes"),
        "damaged": indexed(time=now - timedelta(hours=3), verification="damaged", problem="A block has another hash"),
        "control": indexed(time=now - timedelta(hours=2), set="control", verification="none"),
    }
    ids = {name: row.backup_id for name, row in rows.items()}
    client = empty_site.client("ann", "viewer")

    def names(**query):
        return {name for name, backup_id in ids.items() if backup_id in listed(client, **query)}

    assert listed(client) == [ids[name] for name in ("control", "damaged", "safety", "held", "old")]
    assert names(kind="incremental") == {"held", "safety"}
    assert names(proof="damaged") == {"damaged"} and names(proof="none") == {"control"}
    assert names(mark="held") == {"held", "safety"} and names(mark="safety") == {"safety"}
    assert names(set="control") == {"control"} and names(host="ALPHA") == {"old"}
    assert names(q="auditor") == {"held"} and names(q="MIGRATION before") == {"old"} and names(q=ids["damaged"][:20])
    since = timezone.localtime(now - timedelta(hours=4, minutes=30)).strftime("%Y-%m-%dT%H:%M")
    assert names(since=since) == {"safety", "damaged", "control"} and names(until=since) == {"held", "old"}
    page = client.get(LIST, {"kind": "odd", "since": "yesterday"}).content.decode()
    assert "There is no kind" in page and "is not a point in time" in page
    page = client.get(LIST).content.decode()
    assert "Damaged" in page and "Safety backup" in page and "for the auditor" in page
    assert "No backups match" in client.get(LIST, {"q": "nowhere"}).content.decode()


def test_list_pages_in_both_directions(empty_site):
    moment = timezone.now()
    for number in range(130):
        indexed(time=moment - timedelta(minutes=number // 3), kind="full")  # three at each instant
    client = empty_site.client("ann", "viewer")
    wanted = list(IndexedBackup.objects.order_by("-time", "-backup_id").values_list("backup_id", flat=True))

    def follow(rel: str, page: str) -> str | None:
        found = re.search(rf'rel="{rel}" href="\?([^"]+)"', page)
        return found and client.get(f"{LIST}?{found[1].replace('&amp;', '&')}").content.decode()

    seen, page = [], client.get(LIST).content.decode()
    pages = []
    while page:
        pages.append(ids_on(page))
        seen += pages[-1]
        last, page = page, follow("next", page)
    assert seen == wanted and [len(one) for one in pages] == [50, 50, 30]
    middle = follow("prev", last)
    assert ids_on(middle) == pages[1]
    assert ids_on(follow("prev", middle)) == pages[0]
    assert follow("prev", follow("prev", middle)) is None


@pytest.mark.slow
def test_100_000_backups_are_listed_from_indexes(empty_site):
    many(backups=100_000, jobs=100_000)
    client = empty_site.client("ann", "restorer")
    deep = IndexedBackup.objects.order_by("time")[500]
    key = f"{deep.time.isoformat()}~{deep.backup_id}"
    queries = [{}, {"older": key}, {"kind": "full"}, {"proof": "damaged"}, {"set": "default", "older": key}]
    steps, one = "/admin/backup/restore/", deep.backup_id
    asked = [*((LIST, query) for query in queries), (f"{LIST}{one}/", {}), (f"{LIST}delete/", {"id": one})]
    asked += [(steps, {"at": "2026-01-01T00:00"}), (f"{steps}what/", {"backup": one})]
    for path, query in asked:
        with CaptureQueriesContext(connections["control"]) as captured:
            assert client.get(path, query).status_code == 200
        with connections["control"].cursor() as cursor:
            for ran in captured.captured_queries:
                if "backups_indexedbackup" in ran["sql"] or "backups_job" in ran["sql"]:
                    cursor.execute("EXPLAIN QUERY PLAN " + ran["sql"])
                    plan = [step for *_, step in cursor.fetchall()]
                    scans = [step for step in plan if re.match(r"SCAN (backups_|b\b)", step) and "INDEX" not in step]
                    assert not scans, (plan, ran["sql"])
                    assert path != LIST or "USE TEMP B-TREE FOR ORDER BY" not in plan, ran["sql"]
    for path, query in [*asked, (LIST, {"q": "nothing like it"})]:
        with vdbe_steps(connections["control"].connection) as work:
            client.get(path, query)
        # Two sums and counts over an index are read; a search for text reads all notes as well.
        assert work.taken <= (35 if "q" in query else 20) * 100_000, (path, query)


@pytest.mark.slow
def test_backup_page(site, line):
    full, middle, last = line
    client = site.client("olga", "viewer", "operator", "restorer")
    page = client.get(f"{LIST}{middle}/").content.decode()
    assert "It is not verified yet" in page and "1 backup needs it" in page and "It needs 1 other backup" in page
    assert page.count("<text") == 3 and f"{LIST}{full}/" in page and f"{LIST}{last}/" in page
    assert "papers" in page and "65" in page and "384" in page
    assert "Rows have not been counted yet" in page
    client.post(f"{LIST}{middle}/do/", {"do": "drill"})
    site.work()
    page = client.get(f"{LIST}{middle}/").content.decode()
    assert "It is restore-tested: it was restored" in page and "Restore test" in page
    assert "library_paper" in page and "rows <span" in page
    assert "Made by" in page and ">Job</a>" in page and "writers were held up" in page


@pytest.mark.slow
def test_damaged_backup_shows_findings_and_alternative(site, line):
    full, middle, last = line
    data = site.repository.backup_folder("default", full) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    for place in range(1000, 60_000, 500):
        content[place] ^= 0xFF
    data.write_bytes(content)
    sound = site.done(submit.back_up(site.actor, backup="full")).backup_id
    job = site.done(submit.verify(site.actor, backup_ids=[full, middle, last]))
    assert job.state == Job.State.FAILED
    page = site.client("ann", "viewer").get(f"{LIST}{middle}/").content.decode()
    assert "It is damaged. Do not rely on it" in page
    assert f'Use this backup instead: <a href="{LIST}{sound}/?repository=main&amp;set=default"' in page
    assert "Also needed by" in page and f'href="{LIST}{last}/">{last}</a>' in page


@pytest.mark.slow
def test_an_incomplete_backup_is_called_so_everywhere(site):
    """A file with a path that no restore could write: root, who runs these tests, can read everything else."""
    folder = next(source.path for source in configuration().sources("default") if source.kind is SourceKind.FILES)
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("x" * 250, dir_fd=descriptor)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    job = site.done(submit.back_up(site.actor, backup="full", verify="restore"))
    assert (job.state, job.exit_code, job.error, job.warning["code"]) == (Job.State.SUCCEEDED, 6, None, "incomplete")
    assert "its path is too long to be restored" in job.warning["message"]
    row = IndexedBackup.objects.get(backup_id=job.backup_id)
    assert row.incomplete and not row.damaged and row.verification == "restore"
    client = site.client("ann", "viewer")
    for address in (job.get_absolute_url(), "/admin/backup/jobs/"):
        page = client.get(address).content.decode()
        assert "Completed with warnings" in page and "Failed" not in page.partition("<table")[2], address
        assert job.warning["message"][:60] in html.unescape(page), address
    answer = client.get(f"/api/v1/jobs/{job.pk}").json()
    assert (answer["state"], answer["error"], answer["warning"]["code"]) == ("succeeded", None, "incomplete")
    page = client.get(row.get_absolute_url()).content.decode()
    assert "It is incomplete." in page and "what is missing (1)" in page and "its path is too long to be restored" in page
    assert "Incomplete" in client.get(LIST).content.decode()
    answer = client.get(f"/api/v1/backups/{row.backup_id}/").json()
    assert [source["missing"] for source in answer["sources"] if source["kind"] == "files"] == [1]
    held = {one.kind: one for one in conditions.present(gather(timezone.now()))}
    assert "failing" not in held, "a backup was made"
    assert held["incomplete"].arguments == (row.backup_id,) and held["incomplete"].severity == Severity.WARNING
    assert held["incomplete"].text.startswith("The newest backup is incomplete: ") and "too long" in held["incomplete"].text
    (candidate,) = retention_preview.candidates(list(IndexedBackup.objects.values()))
    assert candidate == prune.candidates([site.repository.find("latest", None)])[0] and candidate.incomplete
    folders.remove(folder / ("x" * 250))
    assert site.done(submit.back_up(site.actor, backup="full", verify="restore")).state == Job.State.SUCCEEDED
    assert "incomplete" not in {one.kind for one in conditions.present(gather(timezone.now()))}


def test_what_a_restore_could_not_check_is_said(site):
    job = site.done(submit.back_up(site.actor, backup="snapshot", verify="none"))
    checks = {"sqlite/app.sqlite3": {"integrity_check": "partial", "findings": ["The content of x cannot be checked here: y"]}}
    proof = Proof(id=job.backup_id, time=timezone.now(), ok=True, depth=Depth.RESTORE, seconds=1, bytes=1, checks=checks)
    site.repository.record_proof("default", proof)
    index.refresh_all()
    row = IndexedBackup.objects.get(backup_id=job.backup_id)
    page = html.unescape(site.client("ann", "viewer").get(row.get_absolute_url()).content.decode())
    said = "sqlite/app.sqlite3: The content of x cannot be checked here: y"
    assert "It is restore-tested, but not all of it could be checked." in page
    assert f"{said}." in page and f"Not checked: {said}" in page


@pytest.mark.slow
def test_backup_without_manifest_can_be_deleted(site):
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    (site.repository.backup_folder("default", made) / "manifest.json").write_text("{")
    index.refresh("main", everything=True)
    client = site.client("rita", "restorer")
    page = client.get(f"{LIST}{made}/").content.decode()
    assert "Its manifest cannot be read" in page and "manifest" in page
    client.post(f"{LIST}delete/", {"id": [made]})
    site.work()
    assert not IndexedBackup.objects.exists()


@pytest.mark.slow
def test_needed_and_held_backups_cannot_be_deleted(site, line):
    full, middle, last = line
    client = site.client("rita", "restorer", "operator")
    page = client.get(f"{LIST}delete/", {"id": [full, middle]}).content.decode()
    assert "None of these backups can be deleted" in page and f"{LIST}{last}/" in page
    answer = client.post(f"{LIST}delete/", {"id": [full, middle]})
    assert answer.status_code == 400 and "Nothing was deleted" in answer.content.decode()
    holds.hold(site.actor, holds.indexed(middle), "for the auditor")
    page = client.get(f"{LIST}delete/", {"id": line}).content.decode()
    assert "1 backup," in page and "It is held: for the auditor" in page
    assert page.count("1 backup still needs it") == 1  # the full one; the last, which needs the held one, is deleted
    assert client.post(f"{LIST}delete/", {"id": line}).status_code == 302
    site.work()
    assert set(IndexedBackup.objects.values_list("backup_id", flat=True)) == {full, middle}
    holds.release(site.actor, holds.indexed(middle))
    page = client.get(f"{LIST}delete/", {"id": [full, middle]}).content.decode()
    assert "2 backups," in page and "will have no proven backup" in page
    client.post(f"{LIST}delete/", {"id": [full, middle]})
    site.work()
    assert not IndexedBackup.objects.exists()
    assert "There are no backups yet" in client.get(LIST).content.decode()


@pytest.mark.slow
def test_selected_backups_are_verified_held_and_deleted(site, line):
    client = site.client("olga", "operator", "restorer")
    answer = client.post(f"{LIST}chosen/", {"id": line, "do": "hold", "note": "quarter's end", "back": f"{LIST}?kind=full"})
    assert answer.url == f"{LIST}?kind=full"
    assert set(IndexedBackup.objects.values_list("hold_note", flat=True)) == {"quarter's end"}
    client.post(f"{LIST}chosen/", {"id": line, "do": "verify"})
    job = Job.objects.get(kind="verify")
    assert sorted(job.arguments["backup_ids"]) == sorted(line) and job.by == "olga"
    answer = client.post(f"{LIST}chosen/", {"id": line, "do": "delete", "back": "https://elsewhere.example/"})
    assert answer.url.startswith(f"{LIST}delete/?id=") and "elsewhere" not in answer.url
    assert client.post(f"{LIST}chosen/", {"do": "verify"}).url == LIST
    assert client.post(f"{LIST}chosen/", {"id": line, "do": "format"}).status_code == 400


@pytest.mark.slow
def test_holds_are_released_after_a_page_that_shows_their_reasons(site, line):
    for backup_id in line[:2]:
        holds.hold(site.actor, holds.indexed(backup_id), f"for the audit of {backup_id[-6:]}")
    root = site.client("root", superuser=True)
    assert f"for the audit of {line[0][-6:]}" in root.get(LIST).content.decode()
    answer = root.post(f"{LIST}chosen/", {"id": line[:3], "do": "release", "back": LIST}, follow=True)
    page = answer.content.decode()
    assert "Release 2 holds?" in page and "1 selected backup is not held" in page
    assert page.count("for the audit of") == 2
    assert IndexedBackup.objects.filter(held=True).count() == 2, "nothing is released yet"
    assert site.client("restorer", "restorer").get(f"{LIST}release/?id={line[0]}").status_code == 403
    said = root.post(f"{LIST}release/", {"id": line[:2], "back": LIST}, follow=True).content.decode()
    assert "2 backups released." in said and not IndexedBackup.objects.filter(held=True).exists()


@pytest.mark.slow
def test_rights(site, line):
    full = line[0]
    asked = {
        ("viewer", "get", LIST): 200,
        ("viewer", "get", f"{LIST}{full}/"): 200,
        ("viewer", "get", f"{LIST}delete/?id={full}"): 403,
        ("viewer", "get", f"{LIST}{full}/manifest.json"): 403,
        ("operator", "get", f"{LIST}{full}/manifest.json"): 403,
        ("restorer", "get", f"{LIST}{full}/manifest.json"): 200,
        ("viewer", "post", f"{LIST}{full}/do/", "do", "hashes"): 403,
        ("restorer", "post", f"{LIST}{full}/do/", "do", "hold"): 403,
        ("operator", "post", f"{LIST}{full}/do/", "do", "hold"): 302,
        ("viewer", "post", f"{LIST}chosen/", "do", "verify"): 403,
        ("operator", "post", f"{LIST}chosen/", "do", "delete"): 403,
        ("operator", "get", f"{LIST}{full}/do/"): 405,
    }
    clients = {name: site.client(name, name) for name in ("viewer", "operator", "restorer")}
    for (name, method, path, *values), wanted in asked.items():
        data = {values[0]: values[1], "id": full} if values else {}
        found = status(getattr(clients[name], method)(path, data))
        assert found == wanted, (name, method, path, found)
    page = clients["viewer"].get(f"{LIST}{full}/").content.decode()
    assert (
        "Delete…" not in page
        and "Download" not in page
        and "Restore…" not in page
        and "Hold" not in page.split("Details</h2>")[0]
    )
    assert clients["viewer"].get(f"{LIST}20200101T000000Z-full-000000/").status_code == 404


# Downloads


@pytest.fixture
def download(site):
    """A backup, who may download it, and the address of its data."""
    made = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    content = (site.repository.backup_folder("default", made) / "data.tar.zst").read_bytes()
    return site.client("rita", "restorer"), reverse("backups:download", args=[made, "data.tar.zst"]), content


def body(response) -> bytes:
    content = b"".join(response.streaming_content) if response.streaming else response.content
    response.close()
    return content


def status(response) -> int:
    body(response)
    return response.status_code


@pytest.mark.slow
def test_interrupted_download_resumes(download, site):
    client, address, content = download
    whole = client.get(address)
    assert (whole.status_code, body(whole)) == (200, content)
    tag = whole["ETag"]
    assert tag == f'"{hashlib.sha256(content).hexdigest()}"' and whole["Accept-Ranges"] == "bytes"
    assert int(whole["Content-Length"]) == len(content) and "attachment" in whole["Content-Disposition"]
    half = len(content) // 2
    rest = client.get(address, headers={"Range": f"bytes={half}-", "If-Range": tag})
    assert rest.status_code == 206 and content[:half] + body(rest) == content
    assert rest["Content-Range"] == f"bytes {half}-{len(content) - 1}/{len(content)}"
    other = client.get(address, headers={"Range": f"bytes={half}-", "If-Range": '"another"'})
    assert other.status_code == 200 and body(other) == content, "parts of two files are never joined"
    by_date = client.get(address, headers={"Range": "bytes=0-9", "If-Range": whole["Last-Modified"]})
    assert by_date.status_code == 206 and body(by_date) == content[:10]
    entries = AuditEntry.objects.filter(action="backup.downloaded")
    assert entries.count() == 4 and entries.order_by("number")[1].after["range"].startswith(f"bytes {half}-")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=5-8", 5, 8), ("bytes=-4", -4, None), ("bytes=10-99999999999999", 10, None)],
)
def test_ranges(download, asked, first, last):
    client, address, content = download
    part = client.get(address, headers={"Range": asked})
    wanted = content[first:] if last is None else content[first : last + 1]
    assert (part.status_code, body(part), part["Content-Length"]) == (206, wanted, str(len(wanted)))


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "bytes=9-2", "bytes=0-1,4-5", "pages=0-1", "bytes=a-b", "bytes 0-1"])
def test_invalid_range_returns_whole_file(download, asked):
    client, address, content = download
    answer = client.get(address, headers={"Range": asked})
    assert (answer.status_code, body(answer)) == (200, content)


@pytest.mark.slow
def test_conditional_head_and_missing_requests(download):
    client, address, content = download
    head = client.head(address)
    assert (head.status_code, head.content, head["Content-Length"]) == (200, b"", str(len(content)))
    assert client.head(address, headers={"Range": "bytes=0-1"}).status_code == 200
    tag, changed = head["ETag"], head["Last-Modified"]
    same = client.get(address, headers={"If-None-Match": f'"x", W/{tag}'})
    assert (same.status_code, same.content, same["ETag"]) == (304, b"", tag)
    assert status(client.get(address, headers={"If-Modified-Since": changed})) == 304
    assert status(client.get(address, headers={"If-None-Match": '"x"', "If-Modified-Since": changed})) == 200
    assert status(client.get(address, headers={"If-Match": '"x"'})) == 412
    assert status(client.get(address, headers={"If-Match": tag})) == 200
    assert status(client.get(address, headers={"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"})) == 412
    beyond = client.get(address, headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond["Content-Range"]) == (416, f"bytes */{len(content)}")
    assert status(client.get(address, headers={"Range": "bytes=-0"})) == 416
    assert status(client.post(address)) == 405
    assert status(client.get(address.replace("data.tar.zst", "hold.json"))) == 404
    assert status(client.get(address.replace("data.tar.zst", "..%2Fmanifest.json"))) == 404
    sums = client.get(address.replace("data.tar.zst", "SHA256SUMS"))
    assert hashlib.sha256(content).hexdigest().encode() in body(sums) and sums["Content-Type"].startswith("text/plain")


# Lineage


def test_long_chains_are_abbreviated_and_branches_separated(empty_site):
    moment = timezone.now() - timedelta(days=1)
    parent, line = "", []
    for number in range(40):
        row = indexed(time=moment + timedelta(minutes=number), kind="incremental" if parent else "full", parent_id=parent)
        parent = row.backup_id
        line.append(row)
    branch = indexed(time=moment + timedelta(minutes=20, seconds=30), kind="incremental", parent_id=line[20].backup_id)
    found = lineage(line[20])
    assert [one.backup_id for one in found.ancestors] == [row.backup_id for row in reversed(line[:20])]
    assert {one.backup_id for one in found.dependents} == {branch.backup_id, *(row.backup_id for row in line[21:])}
    picture = draw(line[20], found)
    shown = [node.backup_id for node in picture.nodes if not node.gap]
    assert shown[0] == line[39].backup_id and shown[-1] == line[0].backup_id and branch.backup_id in shown
    assert sum(node.gap for node in picture.nodes) + len(shown) == 41 and len(picture.nodes) <= 13
    assert {node.lane for node in picture.nodes} == {0, 1} and len(picture.paths) == len(picture.nodes) - 1
    missing = indexed(kind="incremental", parent_id="20200101T000000Z-full-000000")
    assert lineage(missing) == Lineage(ancestors=(), dependents=(), broken="20200101T000000Z-full-000000")
    circle = [indexed(kind="incremental", parent_id="x") for _ in range(2)]
    for one, other in (circle, circle[::-1]):
        IndexedBackup.objects.filter(pk=one.pk).update(parent_id=other.backup_id)
    circle[0].refresh_from_db()
    assert Relative(circle[1].backup_id, circle[0].backup_id, 1) in lineage(circle[0]).ancestors
