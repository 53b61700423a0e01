"""`manage.py load_sample`: fill an empty library with well-known papers."""

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from backups.engine.gate import GateTimeout
from backups.engine.progress import counted
from refserver.library.embedding import EmbeddingUnavailable
from refserver.library.ingest import Outcome, ingest_document
from refserver.library.models import Paper
from refserver.library.sample import sample_documents


class Command(BaseCommand):
    """Loads the sample into a library that never had all of it; an interrupted load is completed."""

    help = "Load the sample library, about sixty well-known papers, into a library that never had papers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--again",
            action="store_true",
            help="also load papers of the sample that were deleted; without it they stay deleted",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        sample = list(sample_documents())
        own = Paper.objects.exclude(content_hash__in=[document.content_hash for document in sample]).count()
        if own:
            others = counted(own, "other paper")
            self.stdout.write(f"The library has {others} of its own; the sample was not loaded.")
            return
        if _papers_ever() >= len(sample) and not options["again"]:
            self.stdout.write("Sample library: loaded before; papers deleted since stay deleted (--again loads them).")
            return
        try:
            counts = Counter(ingest_document(document.file_name, document).outcome for document in sample)
        except (EmbeddingUnavailable, GateTimeout) as error:
            raise CommandError(f"The sample was not loaded completely: {error}") from error
        added = counted(counts[Outcome.ADDED], "paper")
        self.stdout.write(f"Sample library: {added} added, {counts[Outcome.DUPLICATE]} already present.")


def _papers_ever() -> int:
    """The highest number that a paper ever had; SQLite keeps it when papers are deleted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [Paper._meta.db_table])
        row = cursor.fetchone()
    return int(row[0]) if row else 0
