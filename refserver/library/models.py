"""The library's data in SQLite. Chroma holds a second copy of the vectors, for searching (`vectors`).

The id of a row's vector in Chroma contains the primary key: `paper-7` in the collection `papers` for paper 7, `page-31` in the
collection `pages` for page embedding 31. Change mirrored rows through `catalogue`, which keeps the two stores equal.
"""

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
        return reverse("library:paper", args=[self.pk])

    @property
    def author_list(self) -> list[str]:
        return [author.strip() for author in self.authors.split(";") if author.strip()]


class Metadata(models.Model):
    """A further fact about a paper, such as the producer of its PDF."""

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
    """A vector of `dimension` float32 numbers, little-endian, computed with `model`."""

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
