"""Files planted in the place of a journal, a key or a proof: no command stops, waits or passes over what is gone."""

import os
import shutil

import pytest

from backups.engine.adopt import adopt
from backups.engine.errors import UsageError
from backups.engine.evidence.keys import read_keys
from backups.engine.repository.suspicion import suspicions
from tests.restore.stores import context
from tests.trust.signed import Signed

LINES = {
    "infinite": b'{"n":Infinity,"do":"backup","id":"x"}\n',
    "too large": b'{"n":1e999,"do":"backup","id":"x"}\n',
    "a word": b'"n"\n',
    "deep": b"[" * 60_000 + b"\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_no_journal_has(signed: Signed, line: bytes) -> None:
    lines = signed.journal.read_bytes()
    signed.journal.write_bytes(line + lines)
    assert "line 1 was changed" in suspicions(signed.repository, "default")[0].message
    signed.journal.write_bytes(lines + line)
    assert "not signed by a trusted key" in suspicions(signed.repository, "default")[0].message


def test_a_pipe_in_the_place_of_the_key(signed: Signed) -> None:
    signed.key.unlink()
    os.mkfifo(signed.key, 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        read_keys(signed.key)


def test_a_whole_set_that_is_gone(signed: Signed) -> None:
    shutil.rmtree(signed.journal.parent)
    assert signed.repository.sets() == ["default"]
    assert [(problem.code, problem.message) for problem in suspicions(signed.repository, "default")] == [
        ("journal", "The journal of the set default cannot be relied on: it is missing.")
    ]
    doctor = signed.run("doctor")
    assert doctor.code == 1 and "the set default cannot be relied on" in doctor.out
    adopt(signed.repository, context())
    assert signed.noticed == []
