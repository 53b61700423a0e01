"""A repository without its ``repository.json``: `init` writes it again, under the id that its backups were signed for."""

import json
import shutil

import pytest

from backups.engine.evidence.keys import memory_folder
from tests.restore.stores import refbackup
from tests.trust.signed import Signed


def lose(signed: Signed) -> str:
    """Remove the file, and return the id in it."""
    about = signed.folder / "repository/repository.json"
    found = json.loads(about.read_bytes())["id"]
    about.unlink()
    return str(found)


def forget(signed: Signed) -> None:
    shutil.rmtree(memory_folder(signed.key))


@pytest.mark.parametrize("known", ["memory", "signed"])
def test_the_id_is_the_one_that_the_backups_were_signed_for(signed: Signed, known: str) -> None:
    first, lost = signed.place(0), lose(signed)
    if known == "memory":
        signed.keys.remember(signed.folder / "repository", signed.keys.remembered(signed.folder / "repository") or {}, lost)
        (first / "signature.json").unlink()
    else:
        forget(signed)
    refused = signed.run("list")
    assert refused.code == 3 and f"refbackup init --repo {signed.folder / 'repository'}" in refused.err
    made = signed.run("init", "--json")
    assert made.json["recovered"] == {"id": lost, "id_from": known, "sets": 1, "backups": 2}
    assert signed.noticed == []
    assert [backup.verification for backup in signed.repository.backups()] == ["hashes", "restore"]
    again = signed.run("init")
    assert again.code == 2 and "is already a repository" in again.err


def test_an_id_that_no_trusted_key_signed_is_said_to_be_such(signed: Signed) -> None:
    lost = lose(signed)
    made = refbackup("init", "--repo", signed.folder / "repository", cwd=signed.folder, BACKUP_SIGNING_KEY="")
    assert made.code == 0 and lost in made.out and "no key that is trusted here signed that" in made.out.replace("\n", " ")
    assert signed.noticed == []


def test_signatures_of_two_repositories_are_not_decided_between(signed: Signed) -> None:
    first, second, lost = signed.place(0), signed.place(1), lose(signed)
    forget(signed)
    statement = second / "signature.json"
    statement.write_text(statement.read_text().replace(lost, "another"))
    assert signed.run("init", "--json").json["recovered"]["id"] == lost, "a forged statement counts less"
    (signed.folder / "repository/repository.json").unlink()
    journal = signed.journal.read_text()
    signed.journal.write_text(journal.replace(lost, "yet-another"))
    (first / "signature.json").unlink()
    refused = signed.run("init")
    assert refused.code == 2 and "name 2 repositories: another, yet-another" in refused.err
    assert not (signed.folder / "repository/repository.json").exists()
