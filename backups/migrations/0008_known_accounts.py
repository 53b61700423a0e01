"""Accounts are remembered, and tokens are bound to them by a nonce instead of by name and primary key alone."""

import secrets

from django.db import migrations, models


def bind_tokens(apps, schema_editor):
    """Give the accounts of present tokens a nonce. Their state is not known before the next observation."""
    database = schema_editor.connection.alias
    tokens = apps.get_model("backups", "ApiToken")._default_manager.using(database)
    known = apps.get_model("backups", "KnownAccount")._default_manager.using(database)
    for user_id, username in set(tokens.values_list("user_id", "username")):
        account, made = known.get_or_create(username=username, defaults={"user_id": user_id, "nonce": secrets.token_hex(16)})
        if made or account.user_id == user_id:
            tokens.filter(user_id=user_id, username=username).update(nonce=account.nonce)


class Migration(migrations.Migration):
    dependencies = [("backups", "0007_backups_by_set")]

    operations = [
        migrations.CreateModel(
            name="KnownAccount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("username", models.CharField(max_length=254, unique=True)),
                ("user_id", models.CharField(help_text="Primary key of the account.", max_length=64)),
                (
                    "nonce",
                    models.CharField(
                        help_text="Its tokens have it too. A later account of the same name has another.", max_length=32
                    ),
                ),
                (
                    "state",
                    models.JSONField(default=dict, help_text="Flags, groups, permissions, and a fingerprint of the password."),
                ),
                ("removed", models.DateTimeField(blank=True, help_text="When it was first missing.", null=True)),
                (
                    "withheld",
                    models.JSONField(default=dict, help_text="What it had in a restored backup, and was not given."),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.AddField(
            model_name="apitoken",
            name="nonce",
            field=models.CharField(default="", help_text="Must still be the nonce of that account.", max_length=32),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="apitoken",
            name="suspended",
            field=models.DateTimeField(blank=True, help_text="When a restore changed its account.", null=True),
        ),
        migrations.RunPython(bind_tokens, migrations.RunPython.noop),
    ]
