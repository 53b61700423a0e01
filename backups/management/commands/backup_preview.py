"""`manage.py backup_preview`: preview what a restore in place would change."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from django.core.management.base import BaseCommand

from backups.catalog import restore_preview
from backups.conf import configuration
from backups.engine import cli, progress
from backups.engine.cli.call import Call, Outcome
from backups.engine.config import environment, read_settings
from backups.engine.errors import EngineError
from backups.engine.types import Source


class Command(BaseCommand):
    """Compares a backup with the live stores of its set; the JSON is that of `backups.catalog.restore_preview`.

    Progress, exit codes and errors are those of ``refbackup``.
    """

    help = "Print what restoring a backup in place would change. Nothing is changed."
    requires_system_checks: tuple[str, ...] = ()  # it must work when the application does not

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="id, unique prefix, latest, latest:full or @2026-11-20T10:00Z")
        parser.add_argument("--repository", default="", help="name in BACKUPS (default: the first)")
        parser.add_argument("--set", default=None, metavar="NAME", help="for latest and @TIME (default: the first set)")
        parser.add_argument("--only", metavar="KIND[:NAME]", help="one kind of store, or one store")
        parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        parser.add_argument(
            "--progress", choices=("auto", "lines", "json", "none"), default="auto", help="form of progress on standard error"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            outcome = cli.perform(Namespace(run=_preview, **options), read_settings(environment()))
        except EngineError as problem:
            sys.exit(cli.fail(problem, options["json"], "backup_preview"))
        cli.answer(outcome, options["json"])


def _preview(call: Call) -> Outcome:
    project = configuration()
    arguments = call.arguments
    repository = project.open(arguments.repository or project.default_repository)
    by_id = "-" in arguments.id and not arguments.id.startswith("@")
    backup = call.find(repository, arguments.id, arguments.set or (None if by_id else project.default_set))
    sources: tuple[Source, ...] | None
    try:
        sources = project.live_sources(backup.manifest.set)
    except EngineError:
        sources = None
    answer = restore_preview.preview(repository, backup, sources, call.ctx, only=arguments.only)
    return Outcome(answer, _text(answer))


def _text(answer: dict[str, Any]) -> str:
    seconds = answer["seconds"]["estimate"]
    takes = f", takes about {progress.duration(seconds)}" if seconds is not None else ""
    lines = [f"{answer['id']}, made {progress.duration(answer['age_seconds'])} ago{takes}. Nothing was changed."]
    if not answer["in_place"]["possible"]:
        lines.append(f"  A restore in place is not possible: {answer['in_place']['why']}")
    for store in (*answer["sqlite"], *answer["chroma"], *answer["files"]):
        if store["live"] != "ok":
            lines.append(f"  {store['store']}: the live store is {store['live']}: {store['why']}")
    for store, unit, items in (
        *((store, "rows", store["tables"]) for store in answer["sqlite"]),
        *((store, "records", store["collections"]) for store in answer["chroma"]),
    ):
        for item in items:
            if item["before"] != item["after"]:
                before, after = ("none" if item[side] is None else f"{item[side]:,}" for side in ("before", "after"))
                lines.append(f"  {store['store']} {item['name']}: {before} -> {after} {unit}{_differences(item)}")
            elif counts := _differences(item):
                lines.append(f"  {store['store']} {item['name']}: {item['after']:,} {unit}{counts}")
    for store in answer["files"]:
        if store["counts"]:
            counts = ", ".join(f"{count:,} {what}" for what, count in store["counts"].items())
            lines.append(f"  {store['store']}: {counts}")
    people = answer["accounts"]
    if people:
        for what, word in (("appear", "restored"), ("vanish", "removed"), ("change", "changed")):
            lines += [f"  account {one['name']} {word}" for one in people[what]]
        lines += [f"  account {one['name']}: access in the backup that it will not get" for one in people["withheld"]]
        lines += [f"  group {name}: permissions in the backup that it will not get" for name in people["groups_withheld"]]
    for one in answer["code"]:
        lines.append(f"  RUNS {one['store']}: {one['kind']} {one['name']} ({one['how']}): {one['text']}")
    return "\n".join(lines)


def _differences(item: dict[str, Any]) -> str:
    """How many rows of a table are removed, restored and changed back, or that a collection was written to; empty if none."""
    if item["before"] is None or item["after"] is None:
        return ""
    if "differs" not in item:
        return "" if item["same"] else ", written to since the backup"
    if item["differs"] is None:
        return ", not compared row by row"
    words = {"gone": "removed", "back": "restored", "changed": "changed back"}
    counts = [f"{item['differs'][key]:,} {word}" for key, word in words.items() if item["differs"][key]]
    return f" ({', '.join(counts)})" if counts else ""
