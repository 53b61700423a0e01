"""RefServer's settings for test processes, with the job types of `chores` and a shorter wait for the control database."""

from refserver.settings import *  # noqa: F403
from refserver.settings import BACKUPS, DATABASES

KINDS = [f"tests.control.chores.{name}" for name in ("CHORE", "WRITING_CHORE", "SACRED_CHORE")]
BACKUPS["KINDS"] = KINDS
if "sqlite3" in DATABASES["control"]["ENGINE"]:
    DATABASES["control"]["OPTIONS"]["timeout"] = 2
