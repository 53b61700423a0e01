"""A signed repository, and an empty one to copy it to."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.copies import Copied, copy_backups
from backups.engine.evidence.keys import keys_for
from backups.engine.repository.folder import Repository, initialise, open_repository
from backups.engine.runtime import durable
from tests.encryption.conftest import made_encrypted
from tests.fixtures.history import nobodys_settings
from tests.restore.stores import context
from tests.trust.signed import Signed, made, signed

__all__ = ["made", "made_encrypted", "nobodys_settings", "signed"]


class Places:
    """Where it is copied from (`here`), and to."""

    def __init__(self, here: Signed) -> None:
        self.here = here
        self.folder = here.folder / "far"
        initialise(self.folder, datetime.now(UTC), keys_for(self.folder, here.key))

    @property
    def far(self) -> Repository:
        """Opened again, as by another process."""
        return open_repository(self.folder, keys_for(self.folder, self.here.key))

    @property
    def ids(self) -> list[str]:
        return self.far.ids("default")[::-1]

    def place(self, number: int) -> Path:
        return self.folder / "backups/default" / self.here.ids[number]

    def copy(self, numbers: Sequence[int] = (), **more: object) -> Copied:
        ctx = more.pop("ctx", None) or context()
        return copy_backups(self.here.repository, self.far, None, [self.here.load(one) for one in numbers], ctx, **more)


@pytest.fixture
def places(signed):
    return Places(signed)


@pytest.fixture
def faults():
    yield durable.FAULTS
    durable.FAULTS.clear()
