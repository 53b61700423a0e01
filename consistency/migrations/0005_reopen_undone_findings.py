"""Findings whose repair was undone are open: they are in the stores again."""

from django.db import migrations, models


def reopen(apps, schema_editor):
    findings = apps.get_model("consistency", "Finding").objects.using(schema_editor.connection.alias)
    findings.filter(state="undone").update(state="open")


class Migration(migrations.Migration):
    dependencies = [("consistency", "0004_rebuild_index")]
    operations = [
        migrations.RunPython(reopen, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="finding",
            name="state",
            field=models.CharField(
                choices=[("open", "Open"), ("repaired", "Repaired"), ("gone", "Gone")], default="open", max_length=8
            ),
        ),
    ]
