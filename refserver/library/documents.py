"""Reads PDF, Markdown and plain text into a `Document`, or raises `Unreadable` with the reason.

A Markdown file may begin with a block of facts between two lines of three dashes. The keys title, authors, year, venue, doi and
summary fill the paper's fields; others are kept as metadata::

    ---
    title: A Mathematical Theory of Communication
    authors: Claude E. Shannon
    year: 1948
    ---
"""

import io
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from refserver.library.catalogue import Document, Page

PDF_SUFFIXES = frozenset({".pdf"})
MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})
TEXT_SUFFIXES = frozenset({".txt", ".text"}) | MARKDOWN_SUFFIXES
SUFFIXES = PDF_SUFFIXES | TEXT_SUFFIXES

_PAGE_LENGTH = 2_000
_PARAGRAPHS = re.compile(r"\n\s*\n")
_FACT = re.compile(r"([A-Za-z][\w-]*)\s*:\s*(.*)")
_FIELDS = ("title", "authors", "venue", "doi", "summary")
_YEARS = range(1400, 2201)
_CONTROL_SHARE = 0.02


class Unreadable(Exception):
    """A document cannot be read; the message is the reason."""


def load(path: Path) -> Document:
    """Read the file *path*. Raises `Unreadable`."""
    if path.suffix.lower() not in SUFFIXES:
        raise Unreadable(f"unsupported file type “{path.suffix or 'none'}”; supported are {', '.join(sorted(SUFFIXES))}")
    limit = settings.REFSERVER_MAX_DOCUMENT_MB * 1_000_000
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable("it is not a regular file")
        if state.st_size > limit:
            raise Unreadable(_too_large(state.st_size))
        with path.open("rb") as stream:
            content = stream.read(limit + 1)  # it may have grown since
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from error
    return parse(path.name, content)


def parse(file_name: str, content: bytes) -> Document:
    """Read *content*, the bytes of a document called *file_name*. Raises `Unreadable`."""
    if not content:
        raise Unreadable("it is empty")
    if len(content) > settings.REFSERVER_MAX_DOCUMENT_MB * 1_000_000:
        raise Unreadable(_too_large(len(content)))
    suffix = Path(file_name).suffix.lower()
    if suffix in PDF_SUFFIXES:
        return _pdf(file_name, content)
    return _text(file_name, content, markdown=suffix in MARKDOWN_SUFFIXES)


def pages_of(text: str) -> list[Page]:
    """Split *text* into pages of about 2,000 characters, between paragraphs where there is a choice."""
    pages: list[str] = []
    for paragraph in _PARAGRAPHS.split(text.strip()):
        for piece in _pieces(paragraph.strip()):
            if pages and len(pages[-1]) + len(piece) + 2 <= _PAGE_LENGTH:
                pages[-1] += f"\n\n{piece}"
            else:
                pages.append(piece)
    return [Page(number=number, text=page) for number, page in enumerate(pages, start=1)]


def _pieces(paragraph: str) -> Iterator[str]:
    """Yield *paragraph*, cut at a space where it is longer than a page."""
    while len(paragraph) > _PAGE_LENGTH:
        cut = paragraph.rfind(" ", 1, _PAGE_LENGTH)
        cut = cut if cut > 0 else _PAGE_LENGTH
        yield paragraph[:cut].rstrip()
        paragraph = paragraph[cut:].lstrip()
    if paragraph:
        yield paragraph


def _text(file_name: str, content: bytes, *, markdown: bool) -> Document:
    text = _decoded(content)
    facts, body = _facts(text) if markdown else ({}, text)
    pages = pages_of(body)
    if not pages:
        raise Unreadable("it contains no text")
    year = facts.pop("year", "")
    known = {name: facts.pop(name, "") for name in _FIELDS}
    known["title"] = known["title"] or _first_line(body) or Path(file_name).stem
    return Document(
        file_name=file_name,
        content=content,
        pages=pages,
        year=int(year) if year.isdecimal() and int(year) in _YEARS else None,
        metadata=facts,
        **known,
    )


def _decoded(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 text (invalid byte at {error.start})") from error
    control = sum(1 for char in text if unicodedata.category(char) == "Cc" and char not in "\n\r\t\f")
    if "\0" in text or control > _CONTROL_SHARE * len(text):
        raise Unreadable("it is binary data, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _facts(text: str) -> tuple[dict[str, str], str]:
    """The facts at the beginning of Markdown *text*, and the rest. Without a closing line, there are none."""
    lines = text.split("\n")
    if lines[0].strip() != "---" or "---" not in (rest := [line.strip() for line in lines[1:]]):
        return {}, text
    end = rest.index("---")
    matches = (_FACT.fullmatch(line) for line in rest[:end])
    facts = {match[1].lower(): match[2].strip().strip("\"'") for match in matches if match}
    return facts, "\n".join(lines[end + 2 :])


def _first_line(text: str) -> str:
    line = next((line for line in text.split("\n") if line.strip()), "")
    return line.strip().lstrip("#").strip()[:200]


def _pdf(file_name: str, content: bytes) -> Document:
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it is encrypted; save it without a password first")
        texts = [_tidy(page.extract_text()) for page in reader.pages]
        facts = {str(key).lstrip("/"): _tidy(str(value)) for key, value in (reader.metadata or {}).items()}
    except Unreadable:
        raise
    except PyPdfError as error:
        raise Unreadable(f"it is not a readable PDF: {error}") from error
    except Exception as error:  # a broken PDF makes pypdf raise almost anything
        raise Unreadable(f"it is a broken PDF ({type(error).__name__}: {error})") from error
    pages = [Page(number=number, text=text) for number, text in enumerate(texts, start=1) if text]
    if not pages:
        raise Unreadable(f"none of its {len(texts)} pages contains text; a scan needs text recognition first")
    return Document(
        file_name=file_name,
        content=content,
        pages=pages,
        title=facts.get("Title") or _first_line(pages[0].text) or Path(file_name).stem,
        authors=facts.get("Author", ""),
        metadata={key: value for key, value in facts.items() if value and key not in {"Title", "Author"}},
    )


def _tidy(text: str) -> str:
    """*text* without the control characters and lone surrogates that PDFs may contain."""
    kept = (char for char in text if char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cs"})
    return "".join(kept).strip()


def _too_large(size: int) -> str:
    return f"it has {size / 1e6:.1f} MB; the limit is {settings.REFSERVER_MAX_DOCUMENT_MB} MB (REFSERVER_MAX_DOCUMENT_MB)"
