"""The consistency pages: content, permissions, and paging of many findings."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone

from backups.models import Job
from backups_consistency.jobs import REPAIR
from consistency.engine.findings import FindingKind
from consistency.models import Check, Finding, Repair, Step
from consistency.web.labels import KINDS
from tests.control.consistency_site import joined, plant

TOP = "/admin/consistency/"
QUICK = {
    "DECLARATION": "refserver.library.consistency.DECLARATION",
    "SETTLE_SECONDS": 0.05,
}


@pytest.fixture
def joined_site(empty_site):
    with override_settings(BACKUPS=joined(empty_site.places), CONSISTENCY=QUICK):
        yield empty_site


@pytest.fixture
def spoiled(site):
    """A site with planted findings, checked in this process."""
    with override_settings(BACKUPS=joined(site.places), CONSISTENCY=QUICK):
        plant(site.places)
        call_command("consistency_check", "--json", "--progress", "none", "--exit-zero", "--actor", "ada")
        yield site


def text_of(answer, status: int = 200) -> str:
    assert answer.status_code == status, answer.content[:2000]
    content = answer.content.decode()
    assert "style=" not in re.sub(r'aria-[a-z]+="[^"]*"', "", content) and "<script>" not in content
    return re.sub(r"\s+", " ", content)


def test_the_overview_before_the_first_check(joined_site):
    eve = joined_site.client("eve", "operator")
    page = text_of(eve.get(TOP))
    assert "Rows and vectors were never compared." in page and "Check now" in page
    answer = eve.post(TOP + "check/")
    assert answer.status_code == 302 and answer.url == TOP
    assert Job.objects.get().kind == "check_consistency" and Job.objects.get().by == "eve"
    assert "Queued for" in text_of(eve.get(TOP))
    seen = re.search(r"running/\?seen=([\w-]+)", text_of(eve.get(TOP)))[1]
    assert "Queued for" in text_of(eve.get(TOP + "running/", {"seen": seen}))
    Job.objects.update(state=Job.State.CANCELLED)
    assert eve.get(TOP + "running/", {"seen": seen}).headers["HX-Refresh"] == "true"


@pytest.mark.slow
def test_findings_and_both_sides(spoiled):
    eve = spoiled.client("eve", "operator")
    page = text_of(eve.get(TOP))
    assert "Rows and vectors do not agree:</strong> 10 findings in" in page
    assert "Metadata differs" in page and "Plan a repair" in page and "6 safe, 3 need confirmation" in page
    check = Check.objects.get()
    whole = text_of(eve.get(f"{TOP}checks/{check.pk}/"))
    assert all(finding.message.split("'")[0] in whole for finding in check.findings.all())
    narrowed = text_of(eve.get(f"{TOP}checks/{check.pk}/", {"kind": "missing_in_sqlite", "q": "page-90001"}))
    assert "page-90001" in narrowed and "paper-1<" not in narrowed
    assert "No finding matches." in text_of(eve.get(f"{TOP}checks/{check.pk}/", {"q": "nowhere"}))

    renamed = check.findings.get(kind="metadata_mismatch")
    page = text_of(eve.get(f"{TOP}findings/{renamed.pk}/"))
    assert "<mark>&lt;b&gt;Wrong" in page and "<b>Wrong" not in page and "They are equal, bit for bit." in page
    turned = check.findings.get(kind="embedding_mismatch")
    page = text_of(eve.get(f"{TOP}findings/{turned.pk}/"))
    assert "First values that differ" in page and page.count('class="rb-vector"') == 2
    for finding in check.findings.all():
        text_of(eve.get(f"{TOP}findings/{finding.pk}/"))


@pytest.mark.slow
def test_a_repair_is_planned_queued_and_refused(spoiled):
    eve, vic = spoiled.client("eve", "operator"), spoiled.client("vic", "viewer")
    check = Check.objects.get()
    place = f"{TOP}checks/{check.pk}/repair/"
    page = text_of(eve.get(place))
    assert "6 safe repairs, 3 vectors to delete after confirmation." in page and "A snapshot is made and verified." in page
    assert "tick the box to confirm" in text_of(eve.post(place, {"scope": "all"}))
    assert "needs the permission to repair findings" in text_of(vic.post(place, {"scope": "safe"}))
    assert not Job.objects.exists()
    asked = {"scope": "all", "sure": "yes", "kind": ["missing_in_sqlite", "nonsense"], "finding": ["7", "x"]}
    assert eve.post(place, asked).url == TOP
    job = Job.objects.get()
    assert job.arguments | {"repository": ""} == {
        "of_check": check.pk,
        "scope": "all",
        "kinds": ["missing_in_sqlite"],
        "findings": [7],
        "repository": "",
    }
    command = " ".join(REPAIR.command(REPAIR.parse(job.arguments), str(job.pk)))
    assert f"--repair all --of {check.pk} --kind missing_in_sqlite --finding 7" in command and "--actor=eve" in command
    assert vic.get(place).status_code == 200 and "Apply safe repairs" not in text_of(vic.get(place))


def test_an_unfinished_repair_is_shown_and_resumed(joined_site):
    check = Check.objects.create(state=Check.State.DONE, verdict="consistent", ended=timezone.now())
    made = Repair.objects.create(of_check=check, actor="ada", snapshot="20260101T000000Z-snapshot-abcdef")
    finding = Finding.objects.create(belongs_to=check, kind="missing_vector", severity="error", repair="write", record="page-1")
    Step.objects.create(of_repair=made, finding=finding, action="write", mapping="pages", record="page-1")
    eve = joined_site.client("eve", "operator")
    for place in (TOP, f"{TOP}repairs/{made.pk}/"):
        assert f"Repair {made.pk} is unfinished" in text_of(eve.get(place))
    assert "/admin/backup/backups/20260101T000000Z-snapshot-abcdef/" in text_of(eve.get(f"{TOP}repairs/{made.pk}/"))
    eve.post(TOP + "repairs/resume/")
    eve.post(f"{TOP}repairs/{made.pk}/undo/")
    assert set(Job.objects.values_list("kind", flat=True)) == {"resume_repair", "undo_repair"}
    Repair.objects.update(state=Repair.State.UNDONE)
    assert "already undone" in text_of(eve.post(f"{TOP}repairs/{made.pk}/undo/", follow=True))


def test_permissions_of_each_page(joined_site):
    check = Check.objects.create(state=Check.State.DONE, verdict="consistent", ended=timezone.now())
    made = Repair.objects.create(of_check=check, state=Repair.State.DONE)
    nobody, viewer = joined_site.client("nobody"), joined_site.client("vic", "viewer")
    pages = ["", "checks/", f"checks/{check.pk}/", f"checks/{check.pk}/repair/", f"repairs/{made.pk}/", "running/"]
    changes = ["check/", "repairs/resume/", f"repairs/{made.pk}/undo/"]
    for page in pages:
        assert nobody.get(TOP + page).status_code == 403 and viewer.get(TOP + page).status_code in (200, 204)
    for page in changes:
        assert viewer.get(TOP + page).status_code == 405 and viewer.post(TOP + page).status_code == 403
    for page in (f"checks/{10**25}/", "checks/999/", "findings/999/", f"findings/{10**25}/", f"repairs/{10**25}/"):
        assert viewer.get(TOP + page).status_code == 404


@pytest.mark.slow
def test_many_findings_are_paged(joined_site, django_assert_max_num_queries):
    count = 12_000
    check = Check.objects.create(
        state=Check.State.DONE,
        verdict="inconsistent",
        ended=timezone.now(),
        findings_count=count,
        kinds={"missing_in_chromadb": count},
        severities={"error": count},
        mappings={"pages": {"rows": count, "records": 0, "vectors": 0}},
    )
    Finding.objects.bulk_create(
        Finding(
            belongs_to=check,
            kind="missing_in_chromadb",
            severity="error",
            repair="write",
            safe=True,
            mapping="pages",
            record=f"page-{number}",
            message="The row's vector is not in Chroma.",
        )
        for number in range(count)
    )
    vic = joined_site.client("vic", "viewer")
    place = f"{TOP}checks/{check.pk}/"
    first = text_of(vic.get(place, {"kind": "missing_in_chromadb"}))
    later = re.search(r'href="(\?[^"#]+)#findings" rel="next"', first)[1].replace("&amp;", "&")
    second = text_of(vic.get(place + later))
    assert "page-49<" in first and "page-50<" in second and "page-49<" not in second
    back = re.search(r'href="(\?[^"#]+)#findings" rel="prev"', second)[1].replace("&amp;", "&")
    assert "page-0<" in text_of(vic.get(place + back))
    with django_assert_max_num_queries(40):
        assert "12,000 findings" in text_of(vic.get(TOP))


def test_every_kind_has_a_label():
    assert set(KINDS) == {*FindingKind}


def test_without_a_frame_the_pages_use_the_plain_admin(joined_site):
    with override_settings(CONSISTENCY={"DECLARATION": QUICK["DECLARATION"], "FRAME": ""}):
        client = joined_site.client("root", superuser=True)
        assert "manage.py consistency_check" in text_of(client.get(TOP))
        assert "does not run consistency work in the background" in text_of(client.post(TOP + "check/", follow=True))
        assert not Job.objects.exists()


def test_a_silent_check_is_not_shown_as_running(joined_site):
    Check.objects.create(heard=timezone.now() - timedelta(hours=1))
    assert "hx-get" not in text_of(joined_site.client("vic", "viewer").get(TOP))


def test_a_broken_index_is_rebuilt_after_confirmation(joined_site):
    eve = joined_site.client("eve", "operator")
    kinds = {"broken_index": 1, "missing_in_sqlite": 1}
    check = Check.objects.create(
        state="done", verdict="inconsistent", ended=timezone.now(), findings_count=2, kinds=kinds, severities={"error": 2}
    )
    common = {"belongs_to": check, "severity": "error", "message": "It is broken."}
    sides = {"sqlite": {"rows": 1200}, "chroma": {"records": 1203, "records without a row": 3}}
    broken = Finding.objects.create(
        kind="broken_index", mapping="pages", record="pages", repair="rebuild_index", **sides, **common
    )
    page = text_of(eve.get(f"{TOP}findings/{broken.pk}/"))
    assert "<strong>cannot be undone</strong>: to keep the old collection, make a backup" in page
    assert "every vector (1,200 rows) is written again" in page and "<strong>loses</strong> 3 records of Chroma" in page
    assert "Yes, rebuild the index" in page and "It can be undone" not in page
    place = f"{TOP}checks/{check.pk}/repair/"
    page = text_of(eve.get(place))
    assert "1 index to rebuild after confirmation." in page and "<strong>loses</strong> 3 records of Chroma" in page
    assert "Repair all and rebuild 1 index<" in page and "Apply safe repairs" not in page
    Finding.objects.create(kind="missing_in_sqlite", mapping="papers", record="paper-1", repair="delete_vector", **common)
    page = text_of(eve.get(place))
    assert "1 vector to delete after confirmation, 1 index to rebuild after confirmation." in page
    assert "Repair all and delete 1 vector and rebuild 1 index<" in page
    asked = {"scope": "all", "finding": [str(broken.pk)]}
    assert "rebuilds an index, which cannot be undone: tick the box" in text_of(eve.post(place, asked))
    assert not Job.objects.exists()
    assert eve.post(place, asked | {"sure": "yes"}).url == TOP
    assert Job.objects.get().arguments["findings"] == [broken.pk]

    made = Repair.objects.create(of_check=check, state="done")
    Step.objects.create(
        of_repair=made, finding=broken, action="rebuild_index", mapping="pages", record="pages", state="applied"
    )
    for shown in (TOP, f"{TOP}repairs/{made.pk}/"):
        assert f"repairs/{made.pk}/undo/" not in text_of(eve.get(shown))
    assert eve.post(f"{TOP}repairs/{made.pk}/undo/").url == f"{TOP}repairs/{made.pk}/"
    assert Job.objects.count() == 1
    answer = eve.post(f"/api/v1/consistency/repairs/{made.pk}/undo", content_type="application/json")
    assert answer.status_code == 409 and "cannot be undone" in answer.json()["detail"]
    answer = eve.post("/api/v1/consistency/repairs/plan", {"scope": "all"}, content_type="application/json").json()
    assert (answer["asks"], answer["rebuilds"], answer["without_row"]) == (2, 1, 3)
