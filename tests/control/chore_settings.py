"""RefServer's settings with the chores, and a control database that loses patience sooner. For processes of tests."""

from refserver.settings import *  # noqa: F403
from refserver.settings import BACKUPS, DATABASES

KINDS = [f"tests.control.chores.{name}" for name in ("CHORE", "WRITING_CHORE", "SACRED_CHORE")]
BACKUPS["KINDS"] = KINDS
if "sqlite3" in DATABASES["control"]["ENGINE"]:
    DATABASES["control"]["OPTIONS"]["timeout"] = 2
