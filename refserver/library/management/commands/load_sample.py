"""`manage.py load_sample`: fill an empty library with well-known papers."""

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.engine.gate import GateTimeout
from refserver.library.embedding import EmbeddingUnavailable
from refserver.library.ingest import Outcome, ingest_document
from refserver.library.models import Paper
from refserver.library.sample import sample_documents


class Command(BaseCommand):
    """Loads the sample unless the library has other papers; an interrupted load is completed."""

    help = "Load the sample library, about sixty well-known papers, unless the library has other papers."

    def handle(self, *args: Any, **options: Any) -> None:
        sample = list(sample_documents())
        own = Paper.objects.exclude(content_hash__in=[document.content_hash for document in sample]).count()
        if own:
            self.stdout.write(f"The library has {own} other papers; the sample was not loaded.")
            return
        try:
            counts = Counter(ingest_document(document.file_name, document).outcome for document in sample)
        except (EmbeddingUnavailable, GateTimeout) as error:
            raise CommandError(f"The sample was not loaded completely: {error}") from error
        self.stdout.write(f"Sample library: {counts[Outcome.ADDED]} papers added, {counts[Outcome.DUPLICATE]} already present.")
