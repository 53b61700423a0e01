"""The glossary defines each term once; documents, pages and e-mails use its terms and no synonyms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, documents, name
from tests.docs.test_documents import prose

GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
TERM = re.compile(r"^\*\*([^*]+)\*\*: ", re.MULTILINE)
TERMS = (  # noqa: SIM905
    "backup,set,chain,full,incremental,snapshot,cut,block,delta,manifest,repository,source,plan,job,job type,worker,"
    "proof,drill,restore,safety backup,hold,prune,retention,rpo,rto,finding,repair,condition,alert,channel,recipient,"
    "mark,control database,consistency check,preview,lock,trash,signing key,journal,adopt,chain key,recovery kit,locked,"
    "approval"
).split(",")

# What must not stand for a term; code in backticks is exempt, so that fixed names such as `/schedules/` may be cited
SYNONYMS = {
    r"\bschedules?\b(?! for)": "plan",
    r"\bsigns? of life\b": "heartbeat",
    r"\bkinds? of jobs?\b": "job type",
    r"\bcalendar entr(?:y|ies)\b": "plan",
    r"\bretention polic(?:y|ies)\b": "retention",
    r"\bdead worker\b": "a worker that died",
    r"\brestore points?\b": "backup",
}
TEMPLATES = sorted(
    path for app in ("backups", "consistency", ".") for path in (ROOT / app / "templates").rglob("*.*") if path.is_file()
)
# Documents that cite fixed names of the API, of commands and of older versions
EXEMPT = {"glossary.md", "api.md", "cli.md", "use-the-api.md", "CHANGELOG.md"}


def spoken(text: str) -> str:
    """The text without code in backticks, targets of links and addresses."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def test_every_term_is_defined_once() -> None:
    defined = [term.lower() for term in TERM.findall(GLOSSARY.read_text(encoding="utf-8"))]
    assert sorted(defined) == sorted(TERMS)


def shown(template: Path) -> str:
    """The text of a template with its visible attributes, without expressions, code and other markup."""
    text = re.sub(r"\{#.*?#\}|\{\{.*?\}\}", " ", template.read_text(encoding="utf-8"), flags=re.DOTALL)
    quoted = re.findall(r"""(?:title|placeholder|aria-label|alt)="([^"]*)\"""", text)
    text = re.sub(r"\{%.*?%\}|<(script|style|code|pre)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join([re.sub(r"<[^>]*>", " ", text), *quoted])


def assert_no_synonym(text: str) -> None:
    for synonym, term in SYNONYMS.items():
        used = re.search(synonym, text, re.IGNORECASE)
        assert not used, f"it says {used[0]!r}; the glossary calls it {term!r}"


@pytest.mark.parametrize("page", [page for page in documents() if page.name not in EXEMPT], ids=name)
def test_a_document_uses_the_terms_of_the_glossary(page: Path) -> None:
    assert_no_synonym(spoken(prose(page)))


@pytest.mark.parametrize("template", TEMPLATES, ids=name)
def test_a_template_uses_the_terms_of_the_glossary(template: Path) -> None:
    assert_no_synonym(shown(template))


def test_the_visible_text_of_a_template_is_found(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text(
        '{% if schedule %}<a title="A plan" href="/schedules/">Its {{ schedule.name }} runs</a><code>schedule</code>'
    )
    assert shown(template).split() == ["Its", "runs", "A", "plan"]
