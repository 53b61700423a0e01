"""Where everything is, read without Django: the same answers as `refserver.settings` gives."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dotenv import dotenv_values

from backups.engine.config import ENGINE_SETTINGS
from backups.engine.errors import UsageError
from backups.engine.types import Backup, Source, SourceKind

ROOT = Path(__file__).resolve().parents[2]
UNIT = "refserver.service"
CONTROL = "control"
DEFAULT = "default"

_DEFAULTS = {
    "REFSERVER_DATABASE": "var/data/refserver.sqlite3",
    "CHROMA_PATH": "var/data/chroma",
    "REFSERVER_FILES": "var/data/documents",
    "REFSERVER_CONTROL_DATABASE": "var/control.sqlite3",
    "REFSERVER_RUN_DIR": "var/run",
    "BACKUP_REPOSITORY": "var/backups",
}
_STORES = (
    (SourceKind.SQLITE, "refserver", "REFSERVER_DATABASE"),
    (SourceKind.CHROMA, "chroma", "CHROMA_PATH"),
    (SourceKind.FILES, "documents", "REFSERVER_FILES"),
)
_CONTROL_STORES = ((SourceKind.SQLITE, "control", "REFSERVER_CONTROL_DATABASE"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Absolute paths by the names of their settings, and all settings as they were found."""

    paths: Mapping[str, Path]
    values: Mapping[str, str]

    @property
    def repository(self) -> Path:
        return self.paths["BACKUP_REPOSITORY"]

    @property
    def pid_file(self) -> Path:
        return self.paths["REFSERVER_RUN_DIR"] / "serve.pid"

    @property
    def recovery(self) -> Path:
        """Where reports are kept, and what was stopped is remembered."""
        return ROOT / "var" / "recovery"

    def child_environment(self) -> dict[str, str]:
        """For a child of the engine: this process's environment, with the engine's settings from wherever they were found."""
        return {**os.environ, **{name: self.values[name] for name in ENGINE_SETTINGS if self.values.get(name)}}

    def stores(self, set_name: str) -> tuple[Source, ...]:
        """The live stores of a set: the control database, or the library's."""
        known = _CONTROL_STORES if set_name == CONTROL else _STORES
        return tuple(Source(kind=kind, name=name, path=self.paths[setting]) for kind, name, setting in known)

    def targets(self, backup: Backup) -> tuple[Source, ...]:
        """The live store that each store of *backup* goes back to.

        Stores of the library that the backup does not hold are named too, so that the engine refuses to mix times.
        Raises `UsageError` for a backup of another application: its data must not be written over this one's.
        """
        set_name = backup.manifest.set
        if set_name not in (CONTROL, DEFAULT) and not set_name.startswith(f"{DEFAULT}-"):
            raise UsageError(
                f"{backup.id} is of the set {set_name}, which is not this application's.",
                hint="Restore it into a folder: --to DIR. Nothing was changed.",
            )
        left = {(record.kind, record.name) for record in backup.manifest.sources}
        found = []
        for store in self.stores(set_name):
            also = store.path.stem if store.kind is SourceKind.SQLITE else store.path.name
            match = next((name for name in (store.name, also) if (store.kind, name) in left), None)
            if match:
                left.discard((store.kind, match))
                found.append(replace(store, name=match))
            elif set_name == DEFAULT:
                found.append(store)
        if left:
            names = ", ".join(sorted(f"{kind}:{name}" for kind, name in left))
            raise UsageError(
                f"{backup.id} holds {names}, which no setting of this application names.",
                hint="Restore it into a folder: --to DIR. Nothing was changed.",
            )
        return tuple(found)


def read_places(*, repository: str = "") -> Places:
    """Read the settings. What is set for this process wins over the service's own environment, and that over ``.env``.

    *repository* goes before all of them. Raises `UsageError` for one that is no folder.
    """
    named = os.environ.get("REFSERVER_ENV_FILE", "").strip()
    file = ROOT / (named or ".env")
    if named and not file.exists():
        raise UsageError(f"REFSERVER_ENV_FILE: {file} is not there.", hint="Name a file that exists, or unset it.")
    values = {**_texts(dotenv_values(file)), **unit_environment()}
    values |= {name: value for name, value in os.environ.items() if value.strip()}
    values = {name: value for name, value in values.items() if value.strip()}
    paths = {name: _absolute(values.get(name, default)) for name, default in _DEFAULTS.items()}
    place = repository or values.get("BACKUP_REPOSITORY", "")
    if "://" in place:
        raise UsageError(f"{place} is no folder.", hint="Give the folder of the repository: --repo PATH.")
    if repository:
        paths["BACKUP_REPOSITORY"] = Path(repository).absolute()
    return Places(paths=paths, values=values)


def _absolute(path: str) -> Path:
    return (ROOT / Path(path.strip()).expanduser()).resolve()


def _texts(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def unit_environment() -> dict[str, str]:
    """What the unit `UNIT` sets for the application: its files, and its own lines over them. Empty without such a unit."""
    found: dict[str, str] = {}
    own: dict[str, str] = {}
    for line in unit_properties("Environment", "EnvironmentFiles"):
        name, _, value = line.partition("=")
        if name == "EnvironmentFiles":
            place = Path(value.partition(" (")[0])
            if place.is_file() and os.access(place, os.R_OK):
                found |= _texts(dotenv_values(place))
        elif name == "Environment":
            own |= dict(pair.partition("=")[::2] for pair in shlex.split(value))
    return own | found  # as systemd does: a file wins over a line of the unit


def unit_properties(*names: str) -> list[str]:
    """``systemctl show`` as lines ``NAME=VALUE``; none where systemd does not run or does not know the unit."""
    command = ["systemctl", "show", UNIT, f"--property={','.join(('LoadState', *names))}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines()
    return [line for line in lines if not line.startswith("LoadState=")] if "LoadState=loaded" in lines else []
