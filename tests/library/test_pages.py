"""The library's pages: content, links and headers."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.test import Client

from backups.engine.gate import Gate
from refserver.library import originals, vectors
from refserver.library.embedding import HashedWords
from refserver.library.models import Paper
from tests.library.places import assert_equal_stores


@pytest.fixture
def admin(sample_library) -> Client:
    user = get_user_model().objects.create_superuser("root", "", "x")
    client = Client()
    client.force_login(user)
    assert Session.objects.using("control").count() == 1
    return client


def test_an_empty_library_says_what_to_do(library, client: Client):
    for address in ("/", "/?q=whales"):
        page = client.get(address).content.decode()
        assert "manage.py ingest" in page and "manage.py load_sample" in page


@pytest.mark.slow
def test_the_list_is_paged(sample_library, client: Client):
    first = client.get("/").content.decode()
    assert first.count("<h3>") == 20 and "Page 1 of" in first
    assert client.get("/?page=99").content.decode().count("<h3>") > 0


@pytest.mark.slow
def test_results_show_similarity_and_link_to_the_page(sample_library, client: Client):
    page = client.get("/", {"q": "attention <b>"}).content.decode()
    assert "Attention Is All You Need" in page
    assert re.search(r"\d+ % similar", page) and re.search(r'href="/papers/\d+/#page-1"', page)
    assert "<b>" not in page and "attention &lt;b&gt;" in page


@pytest.mark.slow
def test_no_results_say_what_to_try(sample_library, client: Client):
    assert "Try other or more words" in client.get("/?q=%F0%9F%90%8B").content.decode()


@pytest.mark.slow
def test_a_paper_shows_its_facts_and_its_original(sample_library, client: Client):
    paper = Paper.objects.get(title="Quicksort")
    page = client.get(paper.get_absolute_url()).content.decode()
    for part in ("C. A. R. Hoare", "1962", "10.1093/comjnl/5.1.10", paper.content_hash, 'id="page-1"'):
        assert part in page
    response = client.get(f"{paper.get_absolute_url()}original")
    assert b"".join(response.streaming_content) == originals.path(paper).read_bytes()
    assert response["Content-Disposition"] == 'attachment; filename="hoare-1962.md"'
    originals.path(paper).unlink()
    assert client.get(f"{paper.get_absolute_url()}original").status_code == 404
    assert "the original is missing" in client.get(paper.get_absolute_url()).content.decode()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["/", "/?q=dna", "/papers/1/", "/admin/login/", "/nowhere", "/healthz"])
def test_every_page_loads_only_from_this_server(sample_library, client: Client, address):
    response = client.get(address)
    policy = response["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert response["X-Frame-Options"] == "DENY"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    text = response.content.decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|<style", text)
    assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', text)


def test_pages_without_an_icon_get_one(library, client: Client):
    assert client.get("/favicon.ico")["Location"].startswith("/static/library/icon")


def test_health_needs_no_database(library, client: Client, django_db_blocker):
    with django_db_blocker.block():
        assert client.get("/healthz").json() == {"status": "alive"}


@pytest.mark.slow
def test_a_closed_library_requires_sign_in(sample_library, client: Client, admin, settings):
    settings.REFSERVER_OPEN_LIBRARY = False  # the default
    assert client.get("/?q=dna")["Location"] == "/admin/login/?next=/%3Fq%3Ddna"
    assert client.get("/papers/1/original").status_code == 302
    response = client.get("/api/search?q=dna")
    assert (response.status_code, response["Content-Type"]) == (401, "application/problem+json")
    assert admin.get("/api/search?q=dna").status_code == 200


def form_of(paper: Paper, **changes: str) -> dict[str, str]:
    fields = ("title", "authors", "year", "venue", "doi", "summary")
    form = {name: str(getattr(paper, name)) for name in fields}
    facts = list(paper.metadata.all())
    form |= {"metadata-TOTAL_FORMS": str(len(facts)), "metadata-INITIAL_FORMS": str(len(facts))}
    for number, fact in enumerate(facts):
        row = {"id": fact.pk, "paper": paper.pk, "key": fact.key, "value": fact.value}
        form |= {f"metadata-{number}-{name}": str(value) for name, value in row.items()}
    return form | changes


@pytest.mark.slow
def test_a_title_edited_in_the_admin_reaches_chroma(admin):
    paper = Paper.objects.get(title="Quicksort")
    response = admin.post(f"/admin/library/paper/{paper.pk}/change/", form_of(paper, title="Sorting quickly"))
    assert response.status_code == 302, response.content.decode()
    assert_equal_stores()
    record = vectors.store().records(vectors.PAPERS, [f"paper-{paper.pk}"])[f"paper-{paper.pk}"]
    assert record.metadata["title"] == "Sorting quickly"
    assert record.vector @ HashedWords().embed(["Sorting quickly"])[0] > 0.3


@pytest.mark.slow
def test_the_admin_reports_a_restore_that_uses_the_vectors(admin, sample_library, monkeypatch):
    monkeypatch.setattr(vectors, "GATE_TIMEOUT", 0.05)
    paper = Paper.objects.get(title="Quicksort")
    address = f"/admin/library/paper/{paper.pk}/change/"
    with Gate(sample_library.chroma).exclusive():
        response = admin.post(address, form_of(paper, title="Sorting quickly"), follow=True)
    assert response.redirect_chain == [(address, 302)]
    assert "Nothing was changed: a backup or restore is using the vectors" in response.content.decode()
    assert Paper.objects.filter(title="Quicksort").exists()
    assert_equal_stores()


@pytest.mark.slow
def test_an_invalid_form_changes_nothing(admin):
    paper = Paper.objects.get(title="Quicksort")
    response = admin.post(f"/admin/library/paper/{paper.pk}/change/", form_of(paper, title="", year="12"))
    assert response.status_code == 200
    assert_equal_stores()


@pytest.mark.slow
def test_papers_deleted_in_the_admin_are_gone_everywhere(admin):
    first, second, third = Paper.objects.order_by("pk")[:3]
    assert admin.get(f"/admin/library/paper/{first.pk}/delete/").status_code == 200
    assert admin.post(f"/admin/library/paper/{first.pk}/delete/", {"post": "yes"}).status_code == 302
    chosen = {"action": "delete_selected", "_selected_action": [second.pk, third.pk], "post": "yes"}
    assert admin.post("/admin/library/paper/", chosen).status_code == 302
    assert not Paper.objects.filter(pk__in=[first.pk, second.pk, third.pk]).exists()
    assert not any(originals.is_kept(paper) for paper in (first, second, third))
    assert_equal_stores()


@pytest.mark.slow
def test_vectors_are_read_only(admin):
    for model in ("embedding", "pageembedding", "metadata"):
        assert admin.get(f"/admin/library/{model}/").status_code == 200
        assert admin.get(f"/admin/library/{model}/add/").status_code == 403
        assert admin.get(f"/admin/library/{model}/1/change/").status_code == 200
        assert admin.post(f"/admin/library/{model}/1/delete/", {"post": "yes"}).status_code == 403
    assert admin.get("/admin/library/paper/add/").status_code == 403
