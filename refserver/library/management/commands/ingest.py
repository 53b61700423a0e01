"""`manage.py ingest PATH...`: add documents to the library."""

import json
from argparse import ArgumentParser
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from backups.engine.gate import GateTimeout
from backups.engine.progress import counted
from refserver.library.embedding import EmbeddingUnavailable
from refserver.library.ingest import Outcome, Result, files_in, ingest


class Command(BaseCommand):
    """Reads files and folders, reports each file, and fails if one of them fails."""

    help = (
        "Add PDF, Markdown and text files to the library; folders are read with their subfolders. "
        "To add deleted papers again as they were, use --details-from."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="a file or a folder")
        parser.add_argument(
            "--details-from",
            metavar="DATABASE",
            type=Path,
            help="take title, authors, year and summary of documents that it knows from this library database, such as the "
            "sqlite/refserver.sqlite3 of a backup restored with `refbackup restore --to`, and not from the documents",
        )
        parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ingest all paths. Exit code 1 if a file failed."""
        started = monotonic()
        details = options["details_from"]
        if details is not None and not details.is_file():
            raise CommandError(f"{details} is not a file. Nothing was added.")
        results: list[Result] = []
        try:
            for path, named in files_in(options["paths"]):
                results.append(ingest(path, named=named, details=details))
                self._report(results[-1])
        except EmbeddingUnavailable as error:
            raise CommandError(str(error)) from error
        except (GateTimeout, OperationalError) as error:
            done = sum(result.outcome is Outcome.ADDED for result in results)
            raise CommandError(f"{error}. {done} documents were added; run the same command again later.") from error
        self._summarise(results, monotonic() - started, as_json=options["json"])
        if any(result.outcome is Outcome.FAILED for result in results):
            raise SystemExit(1)

    def _report(self, result: Result) -> None:
        note = f": {result.reason}" if result.reason else f": “{result.title}”, {counted(result.pages, 'page')}"
        style = self.style.NOTICE if result.outcome is Outcome.FAILED else str
        self.stderr.write(f"{result.outcome:9} {result.path}{note}", style)

    def _summarise(self, results: list[Result], seconds: float, *, as_json: bool) -> None:
        counts = Counter(result.outcome for result in results)
        if as_json:
            summary: dict[str, Any] = {str(outcome): counts[outcome] for outcome in Outcome}
            summary |= {"seconds": round(seconds, 3), "results": [asdict(result) for result in results]}
            self.stdout.write(json.dumps(summary))
        else:
            parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)
            self.stdout.write(f"{parts} in {seconds:.1f} s.")
