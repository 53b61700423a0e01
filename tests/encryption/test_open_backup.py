"""The script in the recovery kit, a second implementation of the format that shares no code with the first."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest

from backups.engine.archive.files import PlainOutput
from backups.engine.archive.sealed import SealedOutput
from backups.engine.encryption import open_backup
from backups.engine.encryption.chain import ChainKey, commitment
from backups.engine.encryption.identity import recovery_key_in, written
from backups.engine.encryption.kit import script
from tests.restore.stores import ROOT, change_rows, rows_of

VECTORS = json.loads((ROOT / "docs/reference/encryption-vectors.json").read_text())


@pytest.fixture
def program(encrypted):
    """The script, saved from the kit."""
    kit = encrypted.kit.read_text()
    path = encrypted.folder / "open_backup.py"
    path.write_text(kit.split("open_backup.py --------------------\n", 1)[1])
    assert path.read_text() == script()
    return path


def opened(program, folder, key, **more):
    """What the script writes, run outside of the project."""
    environment = {"PATH": os.environ["PATH"]}
    arguments = [sys.executable, "-I", str(program), "--key", str(key), str(folder)]
    return subprocess.run(arguments, cwd=program.parent, env=environment, capture_output=True, check=False, timeout=60, **more)


def test_a_tar_of_each_backup_from_the_kit_alone(encrypted, program):
    before = rows_of(encrypted.database)
    change_rows(encrypted.database, "again", list(range(20, 40)))
    (encrypted.files / "large.bin").unlink()
    (encrypted.files / "new").symlink_to("secret-plans.txt")
    third = encrypted.back_up("incremental")
    shutil.rmtree(encrypted.key.with_name("encryption_key.recipients"))
    encrypted.key.unlink()
    for number, rows in ((1, before), (2, rows_of(encrypted.database))):
        done = opened(program, encrypted.backup_folder(number), encrypted.kit)
        assert done.returncode == 0, done.stderr
        target = encrypted.folder / f"tar-{number}"
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            tar.extractall(target, filter="tar")
        assert rows_of(target / "sqlite/personal-ledger.sqlite3", immutable=True) == rows
        assert (target / "files/plans/secret-plans.txt").read_bytes() == (encrypted.files / "secret-plans.txt").read_bytes()
        assert (target / "files/plans/large.bin").exists() is (number == 1)
    assert (encrypted.folder / "tar-2/files/plans/new").readlink().name == "secret-plans.txt"
    assert third.manifest.parent == encrypted.ids[1]


def test_what_it_refuses(encrypted, program):
    typed = encrypted.folder / "typed"
    typed.write_text("nothing")
    done = opened(program, encrypted.backup_folder(0), typed)
    assert done.returncode == 1 and b"no recovery key" in done.stderr
    typed.write_text(written(os.urandom(32)))
    done = opened(program, encrypted.backup_folder(0), typed)
    assert done.returncode == 1 and b"does not open" in done.stderr and b"recovery" in done.stderr
    archive = encrypted.backup_folder(0) / "data.tar.zst.enc"
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    done = opened(program, encrypted.backup_folder(0), encrypted.kit)
    assert done.returncode == 1 and b"was changed in segment 0" in done.stderr


def test_the_vectors_of_the_format(tmp_path):
    """``docs/reference/encryption-vectors.json``, with both implementations."""
    assert [*VECTORS] == ["recovery_key", "chain", "archive", "record"]
    key = VECTORS["recovery_key"]
    private = recovery_key_in(key["text"])
    assert written(bytes.fromhex(key["private"])) == key["text"]
    for one in (private, open_backup.private_key(key["text"])):
        assert one.private_bytes_raw().hex() == key["private"]
        assert one.public_key().public_bytes_raw().hex() == key["public"]

    chain = VECTORS["chain"]
    secret = bytes.fromhex(chain["key"])
    assert (
        commitment(secret) == chain["commitment"] == open_backup.derive(secret, b"", open_backup.LABEL + b"/commitment").hex()
    )
    known = ChainKey(chain["set"], chain["chain"], secret)
    (tmp_path / chain["chain"]).mkdir()
    (tmp_path / chain["chain"] / "chain.json").write_text(json.dumps(chain["envelope"]))
    about = {"chain": chain["chain"], "commitment": chain["commitment"]}
    reader = open_backup.Backup.__new__(open_backup.Backup)
    reader.set = chain["set"]
    assert reader.open_chain(tmp_path, about, private) == secret

    archive = VECTORS["archive"]
    salt = bytes.fromhex(archive["salt"])
    assert known.of_archive(archive["backup"], salt).hex() == archive["key"]
    output = SealedOutput(PlainOutput(tmp_path / "a"), bytes.fromhex(archive["key"]), salt)
    output.write(bytes.fromhex(archive["content"]))
    output.finish()
    assert (tmp_path / "a").read_bytes().hex() == archive["file"]
    long = SealedOutput(PlainOutput(tmp_path / "b"), bytes.fromhex(archive["key"]), salt)
    long.write(bytes(archive["zeros"]["length"]))
    assert long.finish() == (archive["zeros"]["bytes"], archive["zeros"]["sha256"])
    reader.id, reader.chain = archive["backup"], secret
    with (tmp_path / "a").open("rb") as reader.file:
        reader.begin_segments()
        assert reader.read(0, reader.length).hex() == archive["content"]

    record = VECTORS["record"]
    assert known.open(record["backup"], record["what"], record["sealed"]).decode() == record["content"]


def test_the_script_needs_two_packages_and_nothing_of_the_project():
    imported = set(re.findall(r"^(?:from|import) (\w+)", script(), re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"cryptography", "zstandard"}
