"""The glossary defines each term once, and documents use its terms and no synonyms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, documents, name
from tests.docs.test_documents import prose

GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
TERM = re.compile(r"^\*\*([^*]+)\*\*: ", re.MULTILINE)
TERMS = re.findall(
    r"[^,]+",
    "backup,set,chain,full,incremental,snapshot,cut,block,delta,manifest,repository,source,plan,job,job type,worker,"
    "proof,drill,restore,safety backup,hold,prune,retention,rpo,rto,finding,repair,condition,alert,channel,recipient,"
    "mark,control database,consistency check,preview,lock,trash",
)

# What must not stand for a term; code in backticks is exempt, so that fixed names such as `/schedules/` may be cited
SYNONYMS = {
    r"\bschedules?\b(?! for)": "plan",
    r"\bsigns? of life\b": "heartbeat",
    r"\bkinds? of jobs?\b": "job type",
    r"\bcalendar entr(?:y|ies)\b": "plan",
    r"\bretention polic(?:y|ies)\b": "retention",
    r"\bdead worker\b": "a worker that died",
}
# Documents that others write, and the glossary's own list of fixed names
EXEMPT = {"glossary.md", "api.md", "cli.md", "use-the-api.md", "CHANGELOG.md"}


def spoken(text: str) -> str:
    """The text without code in backticks, targets of links and addresses."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def test_every_term_is_defined_once() -> None:
    defined = [term.lower() for term in TERM.findall(GLOSSARY.read_text(encoding="utf-8"))]
    assert sorted(defined) == sorted(TERMS)


@pytest.mark.parametrize("page", [page for page in documents() if page.name not in EXEMPT], ids=name)
def test_a_document_uses_the_terms_of_the_glossary(page: Path) -> None:
    for synonym, term in SYNONYMS.items():
        used = re.search(synonym, spoken(prose(page)), re.IGNORECASE)
        assert not used, f"{name(page)} says {used[0]!r}; the glossary calls it {term!r}"
