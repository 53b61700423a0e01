"""What has been selected for a restore, carried in the query string of every step, and whether it can be restored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from backups.catalog import holds
from backups.catalog.restore_preview.state import live_state
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.names import NAME
from backups.engine.types import Source
from backups.jobs import submit
from backups.models import IndexedBackup
from backups.models.listing import Filter
from backups.monitoring.stored import unavailable

from ..frame import render

_ONLY = re.compile(r"(sqlite|chroma|files)(:[A-Za-z0-9._-]{1,64})?")
_STEPS = (
    ("restore", "Backup"),
    ("restore_what", "Stores and target"),
    ("restore_changes", "Changes"),
    ("restore_confirm", "Confirm"),
)
_STORE_KINDS = {"sqlite": "SQLite", "chroma": "Chroma", "files": "Files"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSelection(Filter):
    """The selection so far.

    ``only`` is empty, a kind of store or one store; ``look`` is the id of the preview's job; ``again`` is set once a
    confirmation has come too late: the live data had changed since its preview.
    """

    backup: str = ""
    repository: str = ""
    backup_set: str = ""
    only: str = ""
    target: str = ""
    folder: str = ""
    look: str = ""
    again: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> RestoreSelection:
        """Read a query string or a form; invalid values are left out."""
        only = given.get("only", "")
        return cls(
            backup=given.get("backup", "")[:80],
            repository=given.get("repository", "")[:64],
            backup_set=given.get("backup_set", "")[:64],
            only=only if _ONLY.fullmatch(only) else "",
            target="in_place" if given.get("target") == "in_place" else "",
            folder=given.get("folder", "").strip()[:200],
            look=given.get("look", "")[:36],
            again="1" if given.get("again") else "",
        )

    @property
    def in_place(self) -> bool:
        """Whether it replaces the live data; else it goes into a folder."""
        return self.target == "in_place"

    @property
    def what(self) -> str:
        if not self.only:
            return "all stores"
        kind, _, name = self.only.partition(":")
        return f"{_STORE_KINDS[kind]} {name}".strip()


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """The selected backup, the live stores that it would replace, and why it cannot be restored in place, if it cannot."""

    row: IndexedBackup
    sources: tuple[Source, ...]
    refusal: str
    hint: str

    @classmethod
    def of(cls, selection: RestoreSelection) -> RestoreTarget:
        """Look the backup up. Raises `BackupNotFound`."""
        row = holds.indexed(selection.backup, selection.repository, selection.backup_set)
        try:
            sources = configuration().live_sources(row.set)
        except EngineError:
            reason = f"The set {row.set} is not configured in this project, so its live stores are not known."
            return cls(row, (), reason, "Restore it into a folder.")
        refusal, hint = submit.refusal_in_place(row)
        return cls(row, sources, refusal, hint)

    @property
    def live_stores(self) -> list[dict[str, str]]:
        return [{"name": f"{one.kind}:{one.name}", "path": str(one.path)} for one in self.sources]

    @property
    def away(self) -> frozenset[str]:
        """The backup's repository if it is not available."""
        return unavailable(configuration()) & {self.row.repository}

    def state(self, only: str) -> str:
        """The state of the live stores that *only* names, as `restore_preview.live_state`."""
        return live_state(self.sources, only)

    @property
    def stores(self) -> list[dict[str, Any]]:
        return [
            {
                "value": f"{one['kind']}:{one['name']}",
                "kind": _STORE_KINDS.get(one["kind"], one["kind"]),
                "name": one["name"],
                "bytes": one["bytes"],
                "files": one["files"],
                "raw": one.get("method") == "raw",
            }
            for one in self.row.sources
        ]

    @property
    def missing_stores(self) -> list[str]:
        """The live stores that the backup does not contain; they would be newer than the rest after a restore of all stores."""
        present = {store["value"] for store in self.stores}
        return [store["name"] for store in self.live_stores if store["name"] not in present]

    def bytes_of(self, only: str) -> int:
        """The size of the stores that *only* names, in bytes."""
        kind, _, name = only.partition(":")
        selected = [one for one in self.row.sources if not only or (one["kind"] == kind and name in ("", one["name"]))]
        return sum(int(one["bytes"]) for one in selected)

    def problems_of(self, selection: RestoreSelection) -> dict[str, str]:
        """What prevents the restore of *selection*, by form field."""
        problems = {}
        if self.row.missing:
            problems["target"] = "This backup is missing from its repository. Choose another one, or bring the repository back."
        elif self.away:
            problems["target"] = "The repository of this backup is not available. Mount its disk, or correct its path."
        if (
            selection.only
            and not self.bytes_of(selection.only)
            and selection.only not in {store["value"] for store in self.stores}
        ):
            problems["only"] = f"The backup does not contain {selection.only}."
        if selection.in_place:
            missing = self.missing_stores
            if self.refusal:
                problems["target"] = f"{self.refusal} {self.hint}"
            elif not selection.only and missing:
                problems["only"] = f"The backup does not contain {', '.join(missing)}. Choose one store, or another backup."
        elif not NAME.fullmatch(selection.folder):
            problems["folder"] = "Enter a folder name: letters, digits, dots, dashes and underscores, at most 64."
        elif is_occupied(selection.folder):
            folder = configuration().restore_folder / selection.folder
            problems["folder"] = f"{folder} already exists and is not empty. Choose another name."
        return problems


def is_occupied(name: str) -> bool:
    """Whether the restore folder already has something in a folder *name*."""
    place = configuration().restore_folder / name
    try:
        return place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir())))
    except OSError:
        return True


def render_step(request: HttpRequest, step: str, selection: RestoreSelection, context: dict[str, Any]) -> HttpResponse:
    """The page of a step, with links back to the steps before it."""
    current = [name for name, _ in _STEPS].index(step)
    query = selection.as_query()
    steps = [
        {
            "label": label,
            "address": f"{reverse(f'backups:{name}')}?{query}" if number < current else "",
            "now": number == current,
        }
        for number, (name, label) in enumerate(_STEPS)
    ]
    shared = {"selection": selection, "steps": steps, "query": query, "zone": timezone.get_current_timezone_name()}
    return render(request, f"backups/{step}.html", "Restore", shared | context)
