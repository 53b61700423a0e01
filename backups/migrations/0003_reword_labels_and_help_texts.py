"""Once reworded labels and help texts, which no database holds; `0001_initial` has the new ones."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("backups", "0002_audit_is_append_only")]
    operations = []
