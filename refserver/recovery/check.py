"""``scripts/check_backups.sh``: the engine's check for monitoring systems, of the repository that RefServer uses."""

import sys

from backups.engine.monitoring_check import Answer, answer_of
from backups.engine.repository.folder import Repository

from .locations import CONTROL, DEFAULT, read_locations


def answer(argv: list[str] | None = None) -> Answer:
    """Read the arguments, RefServer's settings and the repository, and judge."""
    return answer_of(argv, "scripts/check_backups.sh", _open, fresh=(DEFAULT, CONTROL))


def _open(given: str) -> Repository:
    return read_locations(repository=given).open_repository()


if __name__ == "__main__":
    found = answer()
    sys.stdout.write(f"{found.line()}\n")
    sys.exit(int(found.level))
