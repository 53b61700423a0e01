"""The database itself refuses to change or remove an entry of the audit."""

from django.db import migrations

SQLITE = [
    f"""
    CREATE TRIGGER backups_auditentry_no_{event.lower()} BEFORE {event} ON backups_auditentry
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
    """
    for event in ("UPDATE", "DELETE")
]
POSTGRESQL = [
    """
    CREATE FUNCTION backups_auditentry_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$
    """,
    """
    CREATE TRIGGER backups_auditentry_append_only BEFORE UPDATE OR DELETE ON backups_auditentry
    FOR EACH ROW EXECUTE FUNCTION backups_auditentry_refuse()
    """,
]
UNDO = {
    "sqlite": [
        "DROP TRIGGER IF EXISTS backups_auditentry_no_update",
        "DROP TRIGGER IF EXISTS backups_auditentry_no_delete",
    ],
    "postgresql": [
        "DROP TRIGGER IF EXISTS backups_auditentry_append_only ON backups_auditentry",
        "DROP FUNCTION IF EXISTS backups_auditentry_refuse()",
    ],
}


def make(apps, schema_editor):
    for statement in {"sqlite": SQLITE, "postgresql": POSTGRESQL}[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def undo(apps, schema_editor):
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("backups", "0001_initial")]
    operations = [migrations.RunPython(make, undo)]
