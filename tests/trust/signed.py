"""A signed repository in a folder that can be written to without the key."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.evidence.keys import Keys, keys_for, make_key
from backups.engine.names import DATA, MANIFEST, SUMS
from backups.engine.repository.folder import Repository, initialise, open_repository
from backups.engine.repository.suspicion import suspicions
from backups.engine.types import Backup, Depth, Source, SourceKind
from tests.restore.stores import back_up, change_rows, make_database, refbackup


class Signed:
    """A signed repository with a verified full backup and an incremental of one small database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "var" / "signing_key"
        self.database = folder / "app.sqlite3"

    @property
    def keys(self) -> Keys:
        found = keys_for(self.folder / "repository", self.key)
        assert found is not None
        return found

    @property
    def repository(self) -> Repository:
        """Opened again, as by another process."""
        return open_repository(self.folder / "repository", self.keys)

    @property
    def ids(self) -> list[str]:
        return self.repository.ids("default")[::-1]

    @property
    def journal(self) -> Path:
        return self.folder / "repository/backups/default/journal.jsonl"

    @property
    def noticed(self) -> list[tuple[str, str | None]]:
        return [(problem.code, problem.lies_in) for problem in suspicions(self.repository, "default")]

    def back_up(self, kind: str = "full", **more: object) -> Backup:
        return back_up(self.repository, (Source(kind=SourceKind.SQLITE, name="app", path=self.database),), kind, **more)

    def load(self, number: int) -> Backup:
        return self.repository.load("default", self.ids[number])

    def place(self, number: int) -> Path:
        return self.repository.backup_folder("default", self.ids[number])

    def run(self, *arguments: object, **environment: str):
        place = self.folder / "repository"
        return refbackup(*arguments, "--repo", place, cwd=self.folder, **{"BACKUP_SIGNING_KEY": str(self.key), **environment})


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    signed = Signed(tmp_path_factory.mktemp("signed"))
    make_database(signed.database, 50)
    make_key(signed.key)
    initialise(signed.folder / "repository", datetime.now(UTC), signed.keys)
    signed.back_up(verify=Depth.RESTORE)
    change_rows(signed.database, "later", [7])
    signed.back_up("incremental", verify=Depth.HASHES)
    return signed


@pytest.fixture
def signed(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "copy", copy_function=shutil.copy2)
    copy = Signed(tmp_path / "copy")
    heads = made.keys.remembered(made.folder / "repository")
    assert heads is not None
    copy.keys.remember(copy.folder / "repository", heads)
    return copy


def rewrite_sums(folder: Path) -> None:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (DATA, MANIFEST)}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def change_manifest(folder: Path, **more: object) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | more))
    rewrite_sums(folder)
