"""`manage.py backup_plans_install`, which scripts/serve.sh counts."""

from __future__ import annotations

import json

from django.core.management import call_command


def test_json_names_what_was_added(empty_site, capsys):
    call_command("backup_plans_install", "--json")
    assert "daily-full" in json.loads(capsys.readouterr().out)["made"]
    call_command("backup_plans_install", "--json")
    assert json.loads(capsys.readouterr().out) == {"made": []}
