"""About sixty well-known papers, with summaries written for this project, to try RefServer on."""

import json
from collections.abc import Iterator
from pathlib import Path

from refserver.library import documents
from refserver.library.catalogue import Document

_FILE = Path(__file__).with_name("papers.json")
_FACTS = ("title", "authors", "year", "venue", "doi", "field")


def sample_documents() -> Iterator[Document]:
    """Yield the sample's papers, each as a Markdown document.

    The bytes are the same each time, so that loading it twice finds duplicates.
    """
    for paper in json.loads(_FILE.read_text(encoding="utf-8")):
        yield documents.parse(f"{paper['slug']}.md", _markdown(paper).encode())


def _markdown(paper: dict[str, str | int]) -> str:
    facts = "\n".join(f"{name}: {paper[name]}" for name in _FACTS if paper.get(name))
    summary = paper["summary"]
    return f"---\n{facts}\nsummary: {summary}\n---\n\n# {paper['title']}\n\n{summary}\n"
