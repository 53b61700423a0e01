"""Notes of plans are one line without control characters, as new ones must be: a plan with another could no longer run."""

import re

from django.db import migrations

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


def join_lines(apps, schema_editor):
    """Put a space in the place of what a note may not contain."""
    plans = apps.get_model("backups", "Plan")._default_manager.using(schema_editor.connection.alias)
    for plan in plans.all():
        note = plan.arguments.get("note")
        if isinstance(note, str) and _BREAKS.search(note):
            plan.arguments = {**plan.arguments, "note": _BREAKS.sub(" ", note)}
            plan.save(update_fields=["arguments"])


class Migration(migrations.Migration):
    dependencies = [("backups", "0008_known_accounts")]

    operations = [migrations.RunPython(join_lines, migrations.RunPython.noop)]
