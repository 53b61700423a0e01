"""Reading documents, and the reasons why some cannot be read."""

from __future__ import annotations

import os

import pytest

from refserver.library import documents
from refserver.library.documents import Unreadable
from tests.library.pdf import encrypted, make_pdf


def test_a_pdf_has_pages_title_and_facts():
    document = documents.parse("a.pdf", make_pdf("Whales sing", "", "They dive", title="On Whales", author="A. Hab"))
    assert [(page.number, page.text) for page in document.pages] == [(1, "Whales sing"), (3, "They dive")]
    assert (document.title, document.authors) == ("On Whales", "A. Hab")
    assert document.metadata == {"Producer": "a test"}


def test_a_pdf_without_a_title_uses_its_first_line():
    assert documents.parse("a.pdf", make_pdf("Whales sing")).title == "Whales sing"


def test_markdown_facts_are_read():
    facts = "title: On Whales\nauthors: A. Hab; I. Shmael\nyear: 1851\nship: Pequod"
    text = f"---\n{facts}\n---\n\n# Whales\n\nThey sing."
    document = documents.parse("a.md", text.encode())
    assert (document.title, document.year, document.authors) == ("On Whales", 1851, "A. Hab; I. Shmael")
    assert document.metadata == {"ship": "Pequod"}
    assert [page.text for page in document.pages] == ["# Whales\n\nThey sing."]


@pytest.mark.parametrize("year", ["soon", "99999", "-1", "²"])
def test_an_invalid_year_is_ignored(year):
    assert documents.parse("a.md", f"---\nyear: {year}\n---\nWhales".encode()).year is None


def test_an_unfinished_block_of_facts_is_text():
    assert documents.parse("a.md", b"---\ntitle: x\nWhales").pages[0].text.startswith("---")


def test_the_title_of_a_text_is_its_first_line():
    assert documents.parse("a.txt", b"\xef\xbb\xbfOn Whales\r\n\r\nThey sing.").title == "On Whales"


def test_pages_end_between_paragraphs():
    paragraphs = [f"{number} " + "word " * 150 for number in range(10)]
    pages = documents.pages_of("\n\n".join(paragraphs))
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    assert all(1_000 < len(page.text) <= 2_000 for page in pages)
    assert all(page.text[0].isdigit() for page in pages)


def test_a_long_paragraph_is_cut_at_spaces_without_loss():
    text = " ".join(f"word{number}" for number in range(2_000)) + "x" * 5_000
    pages = documents.pages_of(text)
    assert max(len(page.text) for page in pages) <= 2_000
    assert "".join(page.text for page in pages).replace(" ", "") == text.replace(" ", "")


GOOD_PDF = make_pdf("Whales sing")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "it is empty"),
        ("a.txt", b" \n\n ", "contains no text"),
        ("a.txt", b"\x00\x01\x02", "binary data"),
        ("a.txt", b"\x01\x02\x03abc", "binary data"),
        ("a.md", b"caf\xe9", "not UTF-8 text (invalid byte at 3"),
        ("a.pdf", b"no PDF at all", "not a readable PDF"),
        ("a.pdf", GOOD_PDF[: len(GOOD_PDF) // 2], "PDF"),
        ("a.pdf", GOOD_PDF.replace(b"/Pages", b"/Pxges"), "PDF"),
        ("a.pdf", make_pdf("", ""), "none of its 2 pages contains text"),
        ("a.pdf", encrypted(GOOD_PDF, "secret"), "it is encrypted"),
    ],
)
def test_an_unreadable_document_has_a_reason(name, content, reason):
    with pytest.raises(Unreadable) as caught:
        documents.parse(name, content)
    assert reason in str(caught.value)


def test_a_pdf_that_opens_without_a_password_is_read():
    assert documents.parse("a.pdf", encrypted(GOOD_PDF, "")).pages[0].text == "Whales sing"


def test_a_file_over_the_limit_is_not_read(tmp_path, settings):
    settings.REFSERVER_MAX_DOCUMENT_MB = 1
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 1_500_000)
    with pytest.raises(Unreadable, match=r"1\.5 MB; the limit is 1 MB"):
        documents.load(file)


def test_a_pipe_is_not_a_document(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(Unreadable, match="not a regular file"):
        documents.load(tmp_path / "a.txt")


def test_an_unsupported_type_is_named(tmp_path):
    with pytest.raises(Unreadable, match=r"unsupported file type “\.png”; supported are \.markdown"):
        documents.load(tmp_path / "a.png")
