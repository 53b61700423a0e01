"""The glossary defines each term once."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
TERM = re.compile(r"^\*\*([^*]+)\*\*: ", re.MULTILINE)
TERMS = re.findall(
    r"[^,]+",
    "backup,set,chain,full,incremental,snapshot,cut,block,delta,manifest,repository,source,plan,job,job type,worker,"
    "proof,drill,restore,safety backup,hold,prune,retention,rpo,rto,finding,repair,condition,alert,channel,recipient,"
    "mark,control database,consistency check,preview,lock,trash",
)


def test_every_term_is_defined_once() -> None:
    defined = [term.lower() for term in TERM.findall(GLOSSARY.read_text(encoding="utf-8"))]
    assert sorted(defined) == sorted(TERMS)
