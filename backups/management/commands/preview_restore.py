"""`manage.py preview_restore`: what a restore in place would change, without changing anything."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.catalog import restore_preview
from backups.conf import configuration
from backups.engine import progress
from backups.engine.cli import cancel_on_signals
from backups.engine.errors import EngineError, from_os_error
from backups.engine.runtime.context import Context
from backups.engine.types import Source


class Command(BaseCommand):
    """Compares a backup with the live stores of its set; see `backups.catalog.restore_preview` for what it answers.

    Progress goes to standard error and the answer to standard output, with the exit codes of ``refbackup``.
    """

    help = "Say what restoring a backup in place would change. Nothing is changed."
    requires_system_checks: tuple[str, ...] = ()  # it must work while the application does not

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Choose a backup, and a form."""
        parser.add_argument("id", help="an id, a unique prefix, latest, latest:full or @2026-11-20T10:00Z")
        parser.add_argument("--repository", default="", help="its name in BACKUPS (default: the first)")
        parser.add_argument("--set", default=None, metavar="NAME", help="for latest and @TIME (default: the first set)")
        parser.add_argument("--only", metavar="KIND[:NAME]", help="one kind of store, or one store")
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
        parser.add_argument("--progress", choices=("auto", "lines", "json", "none"), default="auto", help="on standard error")

    def handle(self, *args: Any, **options: Any) -> None:
        """Look, and tell."""
        show, log, close = progress.chosen(options["progress"])
        try:
            with cancel_on_signals() as cancelled:
                answer = _look(options, Context(on_progress=show, on_log=log, should_cancel=cancelled))
        except OSError as problem:
            close()
            self._fail(from_os_error(problem, "Looking at what a restore would change"), options["json"])
        except EngineError as problem:
            close()
            self._fail(problem, options["json"])
        else:
            close()
            self.stdout.write(json.dumps(answer) if options["json"] else _text(answer))

    def _fail(self, problem: EngineError, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"error": problem.as_json()}))
        self.stderr.write(f"{problem.message}\n  -> {problem.hint}")
        sys.exit(problem.exit_code)


def _look(options: dict[str, Any], ctx: Context) -> dict[str, Any]:
    found = configuration()
    repository = found.open(options["repository"] or found.default_repository)
    by_id = "-" in options["id"] and not options["id"].startswith("@")
    backup = repository.find(options["id"], options["set"] or (None if by_id else found.default_set))
    sources: tuple[Source, ...] | None
    try:
        sources = found.live_sources(backup.manifest.set)
    except EngineError:
        sources = None
    return restore_preview.preview(repository, backup, sources, ctx, only=options["only"])


def _text(answer: dict[str, Any]) -> str:
    """The answer for a person, a line for each thing that changes."""
    seconds = answer["seconds"]["estimate"]
    takes = f", takes about {progress.duration(seconds)}" if seconds is not None else ""
    lines = [f"{answer['id']}, made {progress.duration(answer['age_seconds'])} ago{takes}. Nothing was changed."]
    if not answer["in_place"]["possible"]:
        lines.append(f"  It cannot be restored in place: {answer['in_place']['why']}")
    for store in (*answer["sqlite"], *answer["chroma"], *answer["files"]):
        if store["live"] != "ok":
            lines.append(f"  {store['store']}: the live one is {store['live']}: {store['why']}")
    for store, unit, items in (
        *((store, "rows", store["tables"]) for store in answer["sqlite"]),
        *((store, "records", store["collections"]) for store in answer["chroma"]),
    ):
        for item in items:
            if item["before"] != item["after"]:
                before, after = ("none" if item[side] is None else f"{item[side]:,}" for side in ("before", "after"))
                lines.append(f"  {store['store']} {item['name']}: {before} -> {after} {unit}")
    for store in answer["files"]:
        if store["counts"]:
            told = ", ".join(f"{count:,} {what}" for what, count in store["counts"].items())
            lines.append(f"  {store['store']}: {told}")
    people = answer["accounts"]
    if people:
        for what, word in (("appear", "comes back"), ("vanish", "goes"), ("change", "changes")):
            lines += [f"  account {one['name']} {word}" for one in people[what]]
    return "\n".join(lines)
