"""What the library knows, in SQLite. Chroma holds a second copy of the vectors, for searching (`vectors`).

A row's vector is found in Chroma under an id derived from its primary key: `paper-7` in the collection
`papers` for the paper 7, `page-31` in the collection `pages` for the page embedding 31. To change what is
mirrored there, go through `catalogue`: it keeps the two stores equal.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

_sha256 = RegexValidator(r"\A[0-9a-f]{64}\Z", "A SHA-256 hash is 64 hexadecimal digits, in lower case.")


class Paper(models.Model):
    """A document of the library, with its bibliographic facts."""

    title = models.CharField(max_length=500)
    authors = models.TextField(blank=True, help_text="Separated by semicolons.")
    year = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1400), MaxValueValidator(2200)]
    )
    venue = models.CharField(max_length=300, blank=True, help_text="Journal, conference or publisher.")
    doi = models.CharField("DOI", max_length=200, blank=True)
    summary = models.TextField(blank=True)
    file_name = models.CharField(max_length=255, help_text="The name under which the document was ingested.")
    content_hash = models.CharField(
        max_length=64, unique=True, validators=[_sha256], help_text="SHA-256 of the document's bytes."
    )
    added = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("-added", "-pk")
        indexes = (models.Index(fields=["-added", "-id"], name="paper_newest_first"),)

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        """Return the address of the paper's page."""
        return reverse("library:paper", args=[self.pk])

    @property
    def author_list(self) -> list[str]:
        """The authors, one a member."""
        return [author.strip() for author in self.authors.split(";") if author.strip()]

    @property
    def original(self) -> Path:
        """Where the document's bytes are kept: under their hash, with the suffix that they came with."""
        return Path(settings.REFSERVER_FILES) / f"{self.content_hash}{Path(self.file_name).suffix.lower()}"


class Metadata(models.Model):
    """Any further fact about a paper, such as the producer of its PDF."""

    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="metadata")
    key = models.CharField(max_length=100)
    value = models.TextField()

    class Meta:
        ordering = ("paper_id", "key")
        verbose_name_plural = "metadata"
        constraints = (models.UniqueConstraint(fields=["paper", "key"], name="metadata_key_once_a_paper"),)

    def __str__(self) -> str:
        return f"{self.key}: {self.value}"


class Vector(models.Model):
    """A vector as it was computed: `dimension` float32 numbers, little-endian, made by `model`."""

    vector = models.BinaryField()
    model = models.CharField(max_length=100)
    dimension = models.PositiveIntegerField()

    class Meta:
        abstract = True


class Embedding(Vector):
    """The vector of a whole paper (its title and summary)."""

    paper = models.OneToOneField(Paper, on_delete=models.CASCADE, related_name="embedding")

    def __str__(self) -> str:
        return f"{self.paper}"


class PageEmbedding(Vector):
    """A page of a paper: its text and its vector."""

    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="pages")
    page = models.PositiveIntegerField(help_text="Counted from 1.")
    text = models.TextField()

    class Meta:
        ordering = ("paper_id", "page")
        constraints = (models.UniqueConstraint(fields=["paper", "page"], name="page_once_a_paper"),)

    def __str__(self) -> str:
        return f"{self.paper}, page {self.page}"
