"""Where the stores, the repository and the pid file are, read without Django: the same paths as in `refserver.settings`."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dotenv import dotenv_values

from backups.engine.config import ENGINE_SETTINGS
from backups.engine.encryption.keyring import keyring_for
from backups.engine.errors import UsageError
from backups.engine.evidence.keys import keys_for
from backups.engine.repository.folder import Repository, open_repository
from backups.engine.runtime.environment import Environment
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
PATH_SETTINGS = tuple(_DEFAULTS)
"""The settings whose values are paths."""

_STORES = (
    (SourceKind.SQLITE, "refserver", "REFSERVER_DATABASE"),
    (SourceKind.CHROMA, "chroma", "CHROMA_PATH"),
    (SourceKind.FILES, "documents", "REFSERVER_FILES"),
)
_CONTROL_STORES = ((SourceKind.SQLITE, "control", "REFSERVER_CONTROL_DATABASE"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Absolute paths by the names of their settings, and the settings as given."""

    paths: Mapping[str, Path]
    values: Mapping[str, str]

    @property
    def repository(self) -> Path:
        return self.paths["BACKUP_REPOSITORY"]

    @property
    def signing_key(self) -> Path:
        return ROOT / (self.values.get("BACKUP_SIGNING_KEY") or "var/signing_key")

    @property
    def encryption_key(self) -> Path:
        return ROOT / (self.values.get("BACKUP_ENCRYPTION_KEY") or "var/encryption_key")

    def open_repository(self) -> Repository:
        """The repository; where there is a key, unsigned backups are damaged in it. Raises `EngineError`."""
        trusted = self.values.get("BACKUP_TRUSTED_KEYS", "").split(os.pathsep)
        keys = keys_for(self.repository, self.signing_key, tuple(filter(None, trusted)))
        return open_repository(self.repository, keys, keyring_for(self.repository, self.encryption_key))

    @property
    def pid_file(self) -> Path:
        return self.paths["REFSERVER_RUN_DIR"] / "serve.pid"

    @property
    def recovery(self) -> Path:
        """The folder of reports, of the lock, and of the list of stopped services."""
        return ROOT / "var" / "recovery"

    def child_environment(self) -> dict[str, str]:
        """The environment for the engine: this process's, with the engine's settings from all sources."""
        settings = {name: self.values[name] for name in ENGINE_SETTINGS if self.values.get(name)}
        keys = {"BACKUP_SIGNING_KEY": str(self.signing_key), "BACKUP_ENCRYPTION_KEY": str(self.encryption_key)}
        return {**os.environ, **settings, **keys}

    def stores(self, set_name: str) -> tuple[Source, ...]:
        """The live stores of a set: the control database, or the library's."""
        stores = _CONTROL_STORES if set_name == CONTROL else _STORES
        return tuple(Source(kind=kind, name=name, path=self.paths[setting]) for kind, name, setting in stores)

    def targets(self, backup: Backup) -> tuple[Source, ...]:
        """The live store that each store of *backup* is restored to.

        Stores of the library that the backup does not hold are included, so that the engine refuses to mix times. Raises
        `UsageError` for a backup of another application: its data must not be written over this one's.
        """
        set_name = backup.manifest.set
        if set_name not in (CONTROL, DEFAULT) and not set_name.startswith(f"{DEFAULT}-"):
            raise UsageError(
                f"{backup.id} is of the set {set_name}, which is not this application's.",
                hint="Restore it into a folder with --to DIR. Nothing was changed.",
            )
        left = {(record.kind, record.name) for record in backup.manifest.sources}
        targets = []
        for store in self.stores(set_name):
            file_name = store.path.stem if store.kind is SourceKind.SQLITE else store.path.name
            match = next((name for name in (store.name, file_name) if (store.kind, name) in left), None)
            if match:
                left.discard((store.kind, match))
                targets.append(replace(store, name=match))
            elif set_name == DEFAULT:
                targets.append(store)
        if left:
            names = ", ".join(sorted(f"{kind}:{name}" for kind, name in left))
            raise UsageError(
                f"{backup.id} holds {names}, which is not a store of this application.",
                hint="Restore it into a folder with --to DIR. Nothing was changed.",
            )
        return tuple(targets)


def read_locations(*, repository: str = "") -> Locations:
    """Read the settings. This process's environment takes precedence over the service's, and that over ``.env``.

    *repository* takes precedence over all of them. Raises `UsageError` when the repository is not a folder.
    """
    env = Environment.load_project(ROOT, over_file=unit_environment())
    paths = {name: env.path(name, default) for name, default in _DEFAULTS.items()}
    env.check()
    place = repository or env.text("BACKUP_REPOSITORY", "")
    if "://" in place:
        raise UsageError(f"{place} is not a folder.", hint="Give the folder of the repository: --repo PATH.")
    if repository:
        paths["BACKUP_REPOSITORY"] = Path(repository).absolute()
    return Locations(paths=paths, values={name: value for name, value in env.values.items() if value.strip()})


def unit_environment() -> dict[str, str]:
    """The environment that the unit `UNIT` sets for the application. Empty without such a unit."""
    from_files: dict[str, str] = {}
    from_lines: dict[str, str] = {}
    for line in unit_properties("Environment", "EnvironmentFiles"):
        name, _, value = line.partition("=")
        if name == "EnvironmentFiles":
            place = Path(value.partition(" (")[0])
            if place.is_file() and os.access(place, os.R_OK):
                from_files |= {key: text for key, text in dotenv_values(place).items() if text}
        elif name == "Environment":
            from_lines |= dict(pair.partition("=")[::2] for pair in shlex.split(value))
    return from_lines | from_files  # as in systemd, a file wins over a line of the unit


def unit_properties(*names: str) -> list[str]:
    """``systemctl show`` as lines ``NAME=VALUE``; none if systemd does not run or has no such unit."""
    command = ["systemctl", "show", UNIT, f"--property={','.join(('LoadState', *names))}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines()
    return [line for line in lines if not line.startswith("LoadState=")] if "LoadState=loaded" in lines else []
