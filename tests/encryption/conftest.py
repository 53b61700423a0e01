"""A repository whose backups are encrypted: made once, copied for each test."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from backups.engine.encryption.keyring import Keyring, read_keyring
from backups.engine.recipients import check_kit, switch_on
from backups.engine.repository.folder import Repository, initialise, open_repository
from backups.engine.runtime.secret_file import memory_file
from backups.engine.types import Backup, Depth, Source, SourceKind
from tests.fixtures.history import nobodys_settings
from tests.restore.stores import back_up, change_rows, context, make_database, refbackup

__all__ = ["nobodys_settings"]

SECRETS = (b"personal-ledger", b"secret-plans", b"a note that says much", b"the text of the file", b"ledger")
"""What an encrypted repository must not show: names of stores and files, notes, content."""


class Encrypted:
    """An encrypted repository with a full backup and an incremental of a database and a folder, and its recovery kit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.kit = folder / "host/encryption_key", folder / "host/kit.txt"
        self.place = folder / "repository"
        self.database, self.files = folder / "personal-ledger.sqlite3", folder / "plans"

    @property
    def sources(self) -> tuple[Source, ...]:
        return (
            Source(kind=SourceKind.SQLITE, name="personal-ledger", path=self.database),
            Source(kind=SourceKind.FILES, name="plans", path=self.files),
        )

    @property
    def keyring(self) -> Keyring:
        return read_keyring(self.key, self.place)

    @property
    def repository(self) -> Repository:
        """Opened again, as by another process."""
        return open_repository(self.place, None, self.keyring)

    @property
    def ids(self) -> list[str]:
        return self.repository.ids("default")[::-1]

    def back_up(self, kind: str = "full", **more: object) -> Backup:
        return back_up(self.repository, self.sources, kind, **more)

    def load(self, number: int) -> Backup:
        return self.repository.load("default", self.ids[number])

    def backup_folder(self, number: int) -> Path:
        return self.place / "backups/default" / self.ids[number]

    def run(self, *arguments: object, key: Path | None = None, fault: str = "") -> SimpleNamespace:
        environment = {"BACKUP_ENCRYPTION_KEY": str(key or self.key), "REFBACKUP_FAULT": fault}
        return refbackup(*arguments, "--repo", self.place, cwd=self.folder, **environment)


@pytest.fixture(scope="session")
def made_encrypted(tmp_path_factory):
    made = Encrypted(tmp_path_factory.mktemp("encrypted"))
    make_database(made.database, 300)
    made.files.mkdir()
    (made.files / "secret-plans.txt").write_text("the text of the file\n" * 20)
    (made.files / "large.bin").write_bytes(os.urandom(300_000))
    repository = initialise(made.place, datetime.now(UTC))
    switch_on(repository, made.keyring, made.kit, context())
    check_kit(repository, made.keyring, made.kit.read_text(), context())
    made.back_up(verify=Depth.RESTORE, note="a note that says much")
    change_rows(made.database, "later", [7])
    made.back_up("incremental", verify=Depth.HASHES)
    return made


@pytest.fixture
def encrypted(made_encrypted, tmp_path):
    shutil.copytree(made_encrypted.folder, tmp_path / "copy", copy_function=shutil.copy2)
    copy = Encrypted(tmp_path / "copy")
    policy = made_encrypted.keyring.policy
    assert policy is not None
    copy.keyring.keep(policy)
    places = [memory_file(one.key, "chains", one.place) for one in (made_encrypted, copy)]
    shutil.copy2(*places)
    return copy
