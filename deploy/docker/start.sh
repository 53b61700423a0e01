#!/bin/sh
# Prepares a fresh volume, then becomes the supervisor, which receives the signals and finishes a running job.
set -eu
cd /opt/refserver
umask 077
.venv/bin/python manage.py migrate --verbosity 0
.venv/bin/python manage.py migrate --verbosity 0 --database control --skip-checks
.venv/bin/python manage.py collectstatic --no-input --verbosity 0 --skip-checks
.venv/bin/python manage.py make_admin --skip-checks
[ -e "$BACKUP_REPOSITORY/repository.json" ] || .venv/bin/refbackup init --repo "$BACKUP_REPOSITORY"
.venv/bin/python manage.py backup_plans_install --skip-checks
exec .venv/bin/python manage.py serve
