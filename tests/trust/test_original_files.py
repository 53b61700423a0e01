"""Rows that name files outside the folder of originals, and links in it: nothing outside is shown, replaced or removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from refserver.library import catalogue, originals
from refserver.library.catalogue import Document, Page
from refserver.library.models import Paper

SECRET = b"a file of the service user"


@pytest.fixture
def outside(library, settings, tmp_path: Path) -> Path:
    """A file that the server can read, beside the library's folder."""
    settings.REFSERVER_OPEN_LIBRARY = True
    place = tmp_path / "secret.txt"
    place.write_bytes(SECRET)
    return place


def added(content: bytes = b"whales") -> Paper:
    return catalogue.add(Document(file_name="a.txt", content=content, pages=[Page(number=1, text="whales")], title="Whales"))


def shown(paper: Paper, client: Client) -> int:
    """The status of the page of the original; the paper's own page works in any case."""
    assert client.get(reverse("library:paper", args=[paper.pk])).status_code == 200
    response = client.get(reverse("library:original", args=[paper.pk]))
    response.close()
    return response.status_code


@pytest.mark.parametrize("way", ["absolute", "upwards", "no component", "too long", "zero byte"])
def test_a_row_cannot_name_a_file_elsewhere(outside: Path, settings, client: Client, way: str) -> None:
    paper = added()
    hashes = {
        "absolute": str(outside.with_suffix("")),
        "upwards": os.path.relpath(outside.with_suffix(""), settings.REFSERVER_FILES),
        "no component": "..",
        "too long": "a" * 5000,
        "zero byte": f"{'0' * 63}\0",
    }
    Paper.objects.filter(pk=paper.pk).update(content_hash=hashes[way])
    paper.refresh_from_db()
    assert shown(paper, client) == 404
    catalogue.remove([paper])
    assert outside.read_bytes() == SECRET


@pytest.mark.parametrize("planted", ["link", "dangling link", "pipe", "folder"])
def test_only_regular_files_are_opened(outside: Path, client: Client, planted: str) -> None:
    paper = added()
    place = originals.path(paper)
    place.unlink()
    if planted == "pipe":
        os.mkfifo(place)
    elif planted == "folder":
        place.mkdir()
    else:
        place.symlink_to(outside if planted == "link" else outside.with_name("nothing"))
    assert shown(paper, client) == 404


def test_a_link_in_place_of_an_original_is_replaced_and_removed_itself(outside: Path, client: Client) -> None:
    paper = added()
    place = originals.path(paper)
    place.unlink()
    place.symlink_to(outside)
    originals.keep(paper, b"whales")
    assert (outside.read_bytes(), place.read_bytes(), place.is_symlink()) == (SECRET, b"whales", False)
    assert shown(paper, client) == 200
    place.unlink()
    place.symlink_to(outside)
    catalogue.remove([paper])
    assert outside.read_bytes() == SECRET and not os.path.lexists(place)
