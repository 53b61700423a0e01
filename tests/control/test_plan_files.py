"""Plans as YAML: the round trip, every problem reported at once, and no change by an invalid file."""

from __future__ import annotations

import io
import json
import string
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.engine.errors import UsageError
from backups.models import AuditEntry, Plan
from backups.plans import defaults, editing, yaml_files

GOOD = """
version: 1
plans:
  - name: nightly
    kind: backup
    arguments: {backup: full, note: "nightly: all of it"}
    cron: 30 2 * * *
    time_zone: Europe/Berlin
  - name: weekly-drill
    kind: drill
    cron: 0 5 * * 0
    enabled: false
"""


ONE = "version: 1\nplans:\n  - name: a\n    kind: health\n    cron: 0 3 * * *\n"


def problems(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        yaml_files.read(text)
    return caught.value.details["problems"]


def test_written_plans_are_read_back(empty_site):
    defaults.install()
    editing.pause_plan(empty_site.actor, Plan.objects.get(name="daily-full"))
    editing.change_plan(empty_site.actor, Plan.objects.get(name="hourly-health"), alert_to=["ops@example.org"], host="one")
    text = yaml_files.write(Plan.objects.all())
    assert all(change.what == "same" for change in yaml_files.compare(yaml_files.read(text), replace=True))
    assert yaml_files.import_entries(empty_site.actor, yaml_files.read(text)) == []
    before = {plan.name: yaml_files.Entry.values(plan) for plan in Plan.objects.all()}
    Plan.objects.all().delete()
    yaml_files.import_entries(empty_site.actor, yaml_files.read(text))
    assert {plan.name: yaml_files.Entry.values(plan) for plan in Plan.objects.all()} == before


TEXT = st.text(alphabet=string.printable + "äé✓:#&*-[]{}\u2028\U0001f600", max_size=40).map(str.strip)
LINE = TEXT.map(lambda text: "".join(letter for letter in text if letter >= " " and letter != "\u2028").strip())
"""Titles and notes have no line breaks and no other control characters."""


@settings(deadline=None)
@given(st.lists(st.tuples(LINE, LINE), min_size=1, max_size=4))
@pytest.mark.slow
def test_any_text_survives_a_round_trip(texts):
    plans = [
        Plan(name=f"p{number}", title=title, kind="backup", arguments={"note": note}, cron="0 3 * * *")
        for number, (title, note) in enumerate(texts)
    ]
    back = yaml_files.read(yaml_files.write(plans))
    assert [(entry.title, entry.arguments["note"]) for entry in back] == texts


def test_every_problem_is_reported_with_its_line(empty_site):
    text = GOOD + (
        "  - name: one\n"
        "    kind: backup\n"
        "    arguments: {backup: half}\n"
        "    cron: 99 * * * *\n"
        "  - name: two words\n"
        "    kind: nonsense\n"
        "    cron: 0 3 * * *\n"
        "    time_zone: Nowhere\n"
        "  - name: nightly\n"
        "    kind: restore_in_place\n"
        "    cron: 0 0 30 2 *\n"
        "    alert_to: [nobody]\n"
    )
    found = problems(text)
    assert [line.partition(": ")[0] for line in found] == [f"line {n}" for n in (15, 16, 17, 18, 20, 21, 22, 23, 24)], found
    for part in (
        "plans[2].arguments: Back up: backup",
        "plans[2].cron: '99 * * * *' is no",
        "plans[3].name: Letters, digits",
        "plans[3].kind: There is no job type 'nonsense'",
        "plans[3].time_zone: 'Nowhere' is not a time zone",
        "plans[4].name: the name 'nightly' is used twice",
        "plans[4].kind: restore_in_place cannot be planned",
        "plans[4].cron: '0 0 30 2 *'",
        "plans[4].alert_to: 'nobody' is not a mail address",
    ):
        assert any(part in line for line in found), (part, found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ONE + "    croon: 1\n", "line 6: plans[0].croon: there is no such setting."),
        (ONE + "    enabled: 'no'\n", "line 6: plans[0].enabled: Input"),
        ("", "it is empty."),
        ("version: 1\nplans: []\nplans: []\n", "line 3: plans: the key is repeated."),
        ("version: 2\nplans: []\n", "line 1: version: Input should be 1."),
        ("plans: []\n", "line 1: version: Field required."),
        ("version: 1\nplans: []\nmore: 1\n", "line 3: more: there is no such setting."),
        (
            "version: 1\nplans:\n  - name: a\n    kind: health\n    cron: 0 3 * * *\n    croon: 1\n",
            "line 6: plans[0].croon: there is no",
        ),
        (
            "version: 1\nplans:\n  - name: a\n    kind: health\n    cron: 0 3 * * *\n    enabled: 'no'\n",
            "line 6: plans[0].enabled: Input",
        ),
        ("version: 1\nplans:\n  - {name: 2026-01-01, kind: health, cron: 0 3 * * *}\n", "line 3: plans[0].name: Input"),
        ("version: 1\nplans: [\n", "line 3: "),
        ("version: 1\n\tplans: []\n", "line 2: "),
        ("a: &x [1]\nb: *x\n", "line 1: references (& and *) are not allowed."),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1: could not determine a constructor"),
        ("[" * 50 + "]" * 50, "line 1: it is nested too deeply."),
        ("version: 1\nplans: []\n---\nversion: 1\n", "line 3: "),
        ("? [a]\n: 1\n", "line 1: "),
        ("version: " + "9" * 6000, ""),
        ("- 1", "line 1: Input should be"),
        ("\x00", ""),
    ],
)
def test_other_files_are_refused(text, line):
    assert any(found.startswith(line) for found in problems(text)), problems(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        yaml_files.read(text)
    except UsageError as problem:
        assert problem.details["problems"]


def test_small_file_cannot_expand_to_a_huge_one():
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "references" in problems(bomb)[0]
    assert "longer than" in problems("#" * (yaml_files.LONGEST_FILE + 1))[0]


def test_nothing_changes_when_a_file_is_invalid_or_fails_half_way(empty_site, monkeypatch):
    defaults.install()
    before = list(Plan.objects.values())
    entries = AuditEntry.objects.count()
    with pytest.raises(UsageError):
        yaml_files.import_entries(empty_site.actor, yaml_files.read(GOOD + "  - name: bad\n"))
    made = editing.make_plan

    def fails_at_the_second(actor, name, **values):
        if name == "weekly-drill-2":
            raise UsageError("planted")
        return made(actor, name, **values)

    monkeypatch.setattr(editing, "make_plan", fails_at_the_second)
    with pytest.raises(UsageError, match="planted"):
        yaml_files.import_entries(empty_site.actor, yaml_files.read(GOOD.replace("weekly-drill", "weekly-drill-2")))
    assert list(Plan.objects.values()) == before and AuditEntry.objects.count() == entries


def test_file_is_compared_imported_and_audited(empty_site):
    defaults.install()
    entries = yaml_files.read(GOOD)
    assert {change.name: change.what for change in yaml_files.compare(entries)} == {
        "nightly": "added",
        "weekly-drill": "changed",
    }
    changed = yaml_files.compare(entries)[1]
    assert "- enabled: true" in changed.lines and "+ enabled: false" in changed.lines
    assert changed.kinds == {"drill"}
    yaml_files.import_entries(empty_site.actor, entries, replace=True)
    assert set(Plan.objects.values_list("name", flat=True)) == {"nightly", "weekly-drill"}
    drill = Plan.objects.get(name="weekly-drill")
    assert (drill.enabled, drill.paused_by, drill.cron) == (False, "tester", "0 5 * * 0")
    imported = AuditEntry.objects.get(action="plans.imported")
    assert imported.after["nightly"] == "added" and imported.after["daily-full"] == "removed"
    assert AuditEntry.objects.filter(action="plan.made", target="plan:nightly").count() == 1
    assert AuditEntry.objects.filter(action="plan.changed", target="plan:weekly-drill").count() == 1
    assert "daily-full" not in defaults.install(), "removed plans are not added again"
    assert "daily-full" in defaults.install(again=True)


def manage(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process: exit code, standard output, error message."""
    said = io.StringIO()
    try:
        call_command(*map(str, arguments), stdout=said)
    except CommandError as problem:
        return problem.returncode, said.getvalue(), str(problem)
    return 0, said.getvalue(), ""


def test_export_and_import_commands(empty_site, tmp_path):
    defaults.install()
    code, exported, _ = manage("backup_plans_export", "daily-full")
    assert code == 0 and exported.startswith("# Plans") and "name: daily-full" in exported
    assert manage("backup_plans_export", "nothing")[0] == 2
    file = tmp_path / "plans.yaml"
    file.write_text(GOOD, "utf-8")
    code, dry, _ = manage("backup_plans_import", file, "--dry-run", "--json")
    assert code == 0 and [change["change"] for change in json.loads(dry)["changes"]] == ["added", "changed"]
    assert not Plan.objects.filter(name="nightly").exists()
    code, done, _ = manage("backup_plans_import", file)
    assert code == 0 and "nightly: added" in done and "  + cron: 30 2 * * *" in done
    assert Plan.objects.get(name="nightly").time_zone == "Europe/Berlin"
    assert manage("backup_plans_import", file)[1].strip() == "All plans match the file."
    file.write_text(GOOD.replace("30 2 * * *", "30 2 * *"), "utf-8")
    code, said, complaint = manage("backup_plans_import", file, "--json")
    assert code == 2 and "line 7: plans[0].cron" in complaint
    assert json.loads(said)["error"]["problems"] == [complaint.splitlines()[1].strip()]
    assert manage("backup_plans_import", tmp_path / "missing")[0] == 2
    file.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in manage("backup_plans_import", file)[2]


def test_notes_of_earlier_versions_are_joined_to_one_line(empty_site):
    plan = Plan.objects.create(name="old", kind="backup", cron="0 3 * * *", arguments={"backup": "full", "note": "a\nb\u202ec"})
    migration = import_module("backups.migrations.0009_notes_of_one_line")
    migration.join_lines(apps, SimpleNamespace(connection=connections["control"]))
    plan.refresh_from_db()
    assert plan.arguments == {"backup": "full", "note": "a b c"}
    assert yaml_files.read(yaml_files.write([plan]))[0].arguments["note"] == "a b c"
