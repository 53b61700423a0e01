"""Searching the sample library, as a function and by HTTP."""

from __future__ import annotations

import json
import threading

import pytest
from django.test import Client

from backups.engine.gate import Gate
from refserver.library import catalogue, originals, vectors
from refserver.library.models import Embedding, Paper
from refserver.library.sample import sample_documents
from refserver.library.search import search, snippet


@pytest.mark.slow
def test_the_sample_is_complete_and_loads_once(sample_library):
    documents = list(sample_documents())
    assert len(documents) >= 60
    assert len({document.content_hash for document in documents}) == len(documents)
    for document in documents:
        assert 60 <= len(document.summary.split()) <= 150, document.title
        assert document.authors and document.venue and 1900 < (document.year or 0) < 2030
    assert Paper.objects.count() == vectors.store().count(vectors.PAPERS) == len(documents)
    assert all(originals.is_kept(paper) for paper in Paper.objects.all())
    assert "loaded before" in sample_library.manage("load_sample").stdout


@pytest.mark.slow
def test_deleted_papers_of_the_sample_stay_deleted(sample_library):
    catalogue.remove([Paper.objects.get(title="Attention Is All You Need")])
    left = Paper.objects.count()
    assert "loaded before" in sample_library.manage("load_sample").stdout and Paper.objects.count() == left
    assert "1 paper added" in sample_library.manage("load_sample", "--again").stdout and Paper.objects.count() == left + 1


@pytest.mark.slow
def test_the_sample_is_not_mixed_with_other_papers(library, tmp_path):
    (tmp_path / "a.md").write_text("# Mine")
    library.manage("ingest", tmp_path / "a.md")
    assert "The library has 1 other paper of its own;" in library.manage("load_sample").stdout
    assert Paper.objects.count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("attention in neural networks", "Attention Is All You Need"),
        ("gravitational waves", "Observation of Gravitational Waves"),
        ("recovery of a database after a crash", "ARIES"),
        ("public key encryption", "A Method for Obtaining Digital Signatures"),
        ("entropy of a noisy channel", "A Mathematical Theory of Communication"),
        ("shortest path in a graph", "A Note on Two Problems"),
        ("stem cells", "Induction of Pluripotent Stem Cells"),
        ("nearest neighbour search vectors", "Efficient and Robust Approximate Nearest Neighbor"),
        ("quantum factoring", "Polynomial-Time Algorithms for Prime Factorization"),
    ],
)
def test_the_expected_paper_is_found_first(sample_library, query, title):
    hits = search(query, 5)
    assert hits[0].paper.title.startswith(title)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.slow
def test_a_paper_finds_itself(sample_library):
    page = Paper.objects.get(title__startswith="The Chemical Basis").pages.get()
    best = search(page.text, 1)[0]
    assert (best.id, best.score) == (f"page-{page.pk}", pytest.approx(1, abs=1e-4))


@pytest.mark.slow
def test_a_vector_without_a_row_is_ignored(sample_library):
    Paper.objects.filter(title__startswith="Attention").delete()  # rows only, as a broken restore might leave it
    assert all(not hit.paper.title.startswith("Attention") for hit in search("attention", 20))


@pytest.mark.slow
def test_api_answers_by_similarity(sample_library, client: Client):
    response = client.get("/api/search", {"q": "structure of DNA", "limit": "3"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["count"] == len(answer["results"]) == 3
    best = answer["results"][0]
    assert best["title"].startswith("Molecular Structure of Nucleic Acids")
    assert best["url"] == f"http://testserver/papers/{best['paper']}/"
    assert (best["page"], best["year"], 0 < best["score"] <= 1) == (1, 1953, True)
    assert best["snippet"].startswith("Proposes the double helix")


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({}, "Add a query"),
        ({"q": "   "}, "Add a query"),
        ({"q": "x" * 501}, "longer than 500"),
        ({"q": "a\0b"}, "NUL"),
        *[({"q": "x", "limit": limit}, "limit must be a whole number") for limit in ("0", "51", "-1", "ten", "1e9", "²", "")],
    ],
)
def test_api_reports_errors(library, client: Client, parameters, detail):
    response = client.get("/api/search", parameters)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    problem = json.loads(response.content)
    assert (problem["status"], problem["title"]) == (400, "Bad Request")
    assert detail in problem["detail"]


def test_api_accepts_get_only(library, client: Client):
    assert client.post("/api/search").status_code == 405


@pytest.mark.slow
def test_search_reports_a_restore_that_uses_the_vectors(sample_library, client: Client, monkeypatch):
    monkeypatch.setattr(vectors, "GATE_TIMEOUT", 0.05)
    held, done = threading.Event(), threading.Event()

    def restore() -> None:
        with Gate(sample_library.chroma).exclusive():
            held.set()
            done.wait(20)

    thread = threading.Thread(target=restore)
    thread.start()
    held.wait(20)
    try:
        api, page = client.get("/api/search?q=dna"), client.get("/?q=dna")
        assert client.get("/").status_code == 200  # the list needs no vectors
    finally:
        done.set()
        thread.join()
    assert (api.status_code, page.status_code) == (503, 503)
    assert api["Retry-After"] == "30"
    assert "try again in a moment" in page.content.decode()
    assert client.get("/api/search?q=dna").status_code == 200


@pytest.mark.slow
def test_vectors_of_another_model_are_not_compared(sample_library, client: Client):
    Embedding.objects.filter(pk=Embedding.objects.first().pk).update(model="older")
    response = client.get("/api/search?q=dna")
    assert response.status_code == 503
    assert "manage.py reembed" in response.json()["detail"]
    assert "1 paper embedded" in sample_library.manage("reembed").stdout
    assert client.get("/api/search?q=dna").status_code == 200


def test_a_snippet_is_cut_at_words_around_the_query():
    text = "nothing here " * 40 + "the whales sing " + "and more follows " * 40
    part = snippet(text, "whales")
    assert part.startswith("… ") and part.endswith(" …") and "whales sing" in part
    assert len(part) < 300
    assert snippet("short", "whales") == "short"
