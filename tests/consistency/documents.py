"""Documents to ingest."""

from __future__ import annotations

from refserver.library.catalogue import Document, Page


def document(name: str, pages: int = 2) -> Document:
    """A document with *pages* pages; its content depends on the name."""
    texts = [Page(number=number, text=f"{name} on page {number}") for number in range(1, pages + 1)]
    return Document(file_name=f"{name}.md", content=name.encode(), pages=texts, title=name.title(), metadata={"kind": "test"})
