#!/usr/bin/env bash
# Makes .venv with the test extras and runs the whole suite with coverage; the engine's must be 90 % or more.
#
#   scripts/test.sh [pytest arguments]        arguments that choose tests leave out the measure of coverage
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

make_environment requirements-test.lock
if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/python -m coverage erase
status=0
# A file's tests stay together: they share servers that take seconds to start. Files go in the order of their names, and not
# those with many tests first: the longest tests are alone in their files, and would all be left for the end.
.venv/bin/python -m coverage run -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder || status=$?
# Children that tests kill leave files of measures behind that cannot be read: they count for nothing.
.venv/bin/python -m coverage combine --quiet 2>/dev/null || true
rm -f .coverage.*
.venv/bin/python -m coverage report --skip-covered --sort=cover || true
printf '\nThe engine:\n'
.venv/bin/python -m coverage report --include='backups/engine/*' --fail-under=90 --format=total || status=1
exit "$status"
