"""Manifests, proofs and journals made to exhaust memory: each is one clear error, and takes little memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backups.engine.names import MANIFEST
from tests.restore.stores import ROOT
from tests.trust.signed import Signed, change_manifest

MEASURE = """
import json, sys
from pathlib import Path
from backups.engine.evidence.keys import keys_for
from backups.engine.repository.base import Unreadable
from backups.engine.repository.folder import open_repository

def highest() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder, key = Path(sys.argv[1]), Path(sys.argv[2])
before = highest()
found = open_repository(folder, keys_for(folder, key)).scan()
said = [one.problem.message for one in found if isinstance(one, Unreadable)]
proofs = sum(len(one.proofs) for one in found if not isinstance(one, Unreadable))
print(json.dumps({"took": (highest() - before) >> 10, "said": said, "found": len(found), "proofs": proofs}))
"""


def read(signed: Signed) -> dict:
    """What a process finds in the repository, and the memory that it takes, in MiB."""
    command = [sys.executable, "-c", MEASURE, str(signed.folder / "repository"), str(signed.key)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def sparse(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(45 << 20)


def filled(text: str, mebibytes: int, around: str = '{"format": 1, "log": [%s]}') -> Callable[[Path], None]:
    """Write a file of JSON that repeats *text*."""

    def plant(place: Path) -> None:
        place.write_text(around % (text * ((mebibytes << 20) // len(text)))[:-1])

    return plant


MANIFESTS = {
    "sparse, of 45 MiB": (sparse, "at most 16,777,216 are read", 15),
    "of 45 MiB": (filled("[],", 45), "at most 16,777,216 are read", 15),
    "of empty lists": (filled("[],", 15), "has more than 500,000 values", 45),
    "nested": (filled("[", 15, "%s"), "not a JSON object", 50),
}


@pytest.mark.parametrize("planted", MANIFESTS)
def test_a_manifest_that_exhausts_memory_is_refused(signed: Signed, planted: str) -> None:
    plant, said, most = MANIFESTS[planted]
    plant(signed.place(1) / MANIFEST)
    answer = read(signed)
    assert answer["found"] == 2 and len(answer["said"]) == 1
    assert said in answer["said"][0] and len(answer["said"][0]) < 2000
    assert answer["took"] < most


@pytest.mark.parametrize("field", ["log", "sources", "replaces", "rows"])
def test_many_wrong_values_are_one_error(signed: Signed, field: str) -> None:
    manifest = json.loads((signed.place(1) / MANIFEST).read_bytes())
    if field == "rows":
        manifest["sources"][0]["rows"] = {f"{number}": "x" for number in range(50_000)}
        change_manifest(signed.place(1), sources=manifest["sources"])
    else:
        change_manifest(signed.place(1), **{field: [1] * 100_000})
    answer = read(signed)
    assert len(answer["said"]) == 1 and "is not valid" in answer["said"][0] and len(answer["said"][0]) < 2000
    assert answer["took"] < 50


@pytest.mark.parametrize("planted", ["[],", '{"code":1},'])
def test_a_proof_that_exhausts_memory_proves_nothing(signed: Signed, planted: str) -> None:
    (proof,) = (signed.place(1) / "proofs").iterdir()
    filled(planted, 4, '{"problems": [%s]}')(proof)
    answer = read(signed)
    assert (answer["proofs"], answer["said"]) == (1, [])
    assert answer["took"] < 50


@pytest.mark.parametrize("planted", ["[],", "1,"])
def test_a_journal_of_one_line_of_small_values_is_not_loaded(signed: Signed, planted: str) -> None:
    filled(planted, 31, '{"n": [%s]}\n')(signed.journal)
    answer = read(signed)
    assert answer["proofs"] == 0, "nothing is vouched for"
    assert answer["took"] < 150, "the file is read, twice at most"
