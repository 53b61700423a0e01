"""Who signs: a first start makes the key, `refbackup` finds it, and a host without it says what becomes of its backups."""

import shutil
import stat

import pytest
from django.core.management import load_command_class

from backups.conf import configuration
from backups.engine.config import environment, read_settings
from backups.engine.evidence.keys import make_key
from backups.engine.repository.folder import open_repository
from tests.restore.stores import context
from tests.trust.signed import Signed


def test_the_key_of_the_folder_or_the_nearest_above(tmp_path, monkeypatch):
    make_key(tmp_path / "project/var/signing_key")
    inner = tmp_path / "project/docs"
    inner.mkdir()
    for name in ("BACKUP_SIGNING_KEY", "BACKUP_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    for place in (tmp_path / "project", inner):
        monkeypatch.chdir(place)
        settings = read_settings(environment())
        assert settings.signing_key == tmp_path / "project/var/signing_key"
        assert settings.encryption_key == tmp_path / "project/var/encryption_key"
    monkeypatch.setenv("BACKUP_SIGNING_KEY", "")
    assert read_settings(environment()).signing_key is None
    monkeypatch.delenv("BACKUP_SIGNING_KEY")
    monkeypatch.chdir(tmp_path)
    assert read_settings(environment()).signing_key is None


def test_a_host_without_the_key_says_what_becomes_of_its_backup(signed: Signed):
    made = signed.run("create", "--no-verify", "--sqlite", f"app={signed.database}", BACKUP_SIGNING_KEY="")
    assert made.code == 0 and "NOT IN THE JOURNAL" in made.err and "refbackup adopt" in made.err
    problem = signed.load(2).problems[0]
    assert problem.code == "unvouched" and "refbackup adopt" in problem.message
    assert signed.run("adopt", "--yes").code == 0
    assert not signed.load(2).damaged and signed.noticed == []


def test_another_machine_without_key_and_memory_restores(signed: Signed):
    ids = signed.ids
    shutil.rmtree(signed.key.parent)
    listed = signed.run("list", BACKUP_SIGNING_KEY="")
    assert listed.code == 0 and all(one in listed.out for one in ids)
    restored = signed.run("restore", "latest", "--to", signed.folder / "restored", BACKUP_SIGNING_KEY="")
    assert restored.code == 0 and "vouch" in restored.out + restored.err
    unsigned = open_repository(signed.folder / "repository")
    assert not any(one.damaged for one in unsigned.backups())


def test_a_start_makes_the_key_of_an_older_installation(empty_site):
    key, said = configuration().signing_key, []
    serve = load_command_class("refserver", "serve")
    serve._say = said.append
    serve._make_signing_key()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and "refbackup adopt" in said[0]
    content = key.read_bytes()
    serve._make_signing_key()
    assert key.read_bytes() == content and len(said) == 1
    configuration().opened(empty_site.repository.folder).evidence.begin()
    key.unlink()
    serve._make_signing_key()
    assert not key.exists(), "a new key would hide that the old one is lost"


@pytest.mark.slow
def test_nothing_is_damaged_before_an_older_repository_is_adopted(empty_site):
    from backups.engine.adopt import adopt
    from tests.restore.stores import back_up

    sources = configuration().sources("control")
    back_up(empty_site.repository, sources, "full", set="default", verify="hashes")
    make_key(configuration().signing_key)
    back_up(configuration().open("main"), sources, "incremental", set="default", verify="hashes")
    found = configuration().open("main").backups("default")
    assert [(one.damaged, one.verification) for one in found] == [(False, "hashes")] * 2
    adopt(configuration().open("main"), context())
    found = configuration().open("main").backups("default")
    assert [(one.damaged, one.verification) for one in found] == [(False, "hashes")] * 2
