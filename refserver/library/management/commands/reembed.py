"""`manage.py reembed`: compute the vectors again after a change of the embedding."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.engine.progress import counted
from refserver.library import catalogue, embedding
from refserver.library.embedding import EmbeddingUnavailable
from refserver.library.models import Paper


class Command(BaseCommand):
    """Embeds the papers one by one, so that it can be stopped and run again."""

    help = "Compute the vectors again of papers whose model is not that of REFSERVER_EMBEDDING."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="also papers embedded with the configured model")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            model = embedding.configured().model
        except EmbeddingUnavailable as error:
            raise CommandError(str(error)) from error
        papers = Paper.objects.all() if options["all"] else Paper.objects.exclude(embedding__model=model)
        keys = list(papers.order_by("pk").values_list("pk", flat=True))
        for number, key in enumerate(keys, start=1):
            paper = Paper.objects.filter(pk=key).first()
            if paper is not None:  # it may have been removed
                catalogue.embed_again(paper)
            self.stderr.write(f"{number} of {len(keys)}", str)
        self.stdout.write(f"{counted(len(keys), 'paper')} embedded with {model}.")
