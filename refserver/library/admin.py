"""The library in Django's admin. Changes are made in Chroma too, in the same transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet, TextField
from django.forms import Textarea
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from backups.engine.gate import GateTimeout
from refserver.library import catalogue
from refserver.library.models import Embedding, Metadata, PageEmbedding, Paper

if TYPE_CHECKING:
    from django.forms import ModelForm

    PaperAdminBase = admin.ModelAdmin[Paper]
    MetadataInlineBase = admin.TabularInline[Metadata, Paper]
    VectorAdminBase = admin.ModelAdmin[Any]
else:
    PaperAdminBase = VectorAdminBase = admin.ModelAdmin
    MetadataInlineBase = admin.TabularInline


class MetadataInline(MetadataInlineBase):
    model = Metadata
    extra = 0
    formfield_overrides: ClassVar = {
        TextField: {"widget": Textarea(attrs={"rows": 2, "cols": 40})}
    }  # wider ones leave the page


@admin.register(Paper)
class PaperAdmin(PaperAdminBase):
    """Edits and removes papers; `manage.py ingest` adds them.

    Django's own transaction around an admin page becomes part of a `change`: Chroma is written after all rows, including the
    admin's log, as the last step before the commit.
    """

    list_display = ("title", "first_author", "year", "venue", "added")
    list_filter = ("year",)
    search_fields = ("title", "authors", "venue", "doi", "content_hash")
    readonly_fields = ("file_name", "content_hash", "added")
    inlines = (MetadataInline,)

    @admin.display(description="First author")
    def first_author(self, paper: Paper) -> str:
        return next(iter(paper.author_list), "")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No: papers are ingested, a form cannot make vectors."""
        return False

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._changing(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._changing(request, super().delete_view, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._changing(request, super().changelist_view, *args, **kwargs)

    def _changing(self, request: HttpRequest, view: Callable[..., HttpResponse], *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        try:
            with catalogue.change():
                return view(request, *args, **kwargs)
        except GateTimeout:
            busy = "Nothing was changed: a backup or restore is using the vectors. Try again in a moment."
            self.message_user(request, busy, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Paper, form: ModelForm[Paper], change: bool) -> None:
        """Save the row and update its vectors."""
        with catalogue.change() as changed:
            super().save_model(request, obj, form, change)
            changed.touch(obj.pk)
            if {"title", "authors", "summary"} & set(form.changed_data):
                catalogue.embed_again(obj, pages=False)

    def delete_model(self, request: HttpRequest, obj: Paper) -> None:
        catalogue.remove([obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Paper]) -> None:
        catalogue.remove(list(queryset))


class VectorAdmin(VectorAdminBase):
    """Read-only pages for rows that are computed from a document.

    They are deleted only with their paper, whose confirmation page asks this class for permission.
    """

    exclude: ClassVar[tuple[str, ...] | None] = ("vector",)
    list_select_related = ("paper",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows without their vectors, which no page shows."""
        return super().get_queryset(request).defer("vector")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No: vectors are computed."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """No actions: deleting rows alone would leave their vectors in Chroma."""
        return {}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only as part of deleting a paper."""
        match = request.resolver_match
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        inside_own = match is not None and (match.url_name or "").startswith(own_pages)
        return not inside_own and super().has_delete_permission(request, obj)


@admin.register(Embedding)
class EmbeddingAdmin(VectorAdmin):
    list_display = ("paper", "model", "dimension")
    search_fields = ("paper__title",)


@admin.register(PageEmbedding)
class PageEmbeddingAdmin(VectorAdmin):
    list_display = ("paper", "page", "model", "dimension")
    search_fields = ("paper__title", "text")


@admin.register(Metadata)
class MetadataAdmin(VectorAdmin):
    """Further facts about papers, edited on the paper's page."""

    exclude = None
    list_display = ("paper", "key", "value")
    list_filter = ("key",)
    search_fields = ("paper__title", "key", "value")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return admin.ModelAdmin.get_queryset(self, request)
