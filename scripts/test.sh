#!/usr/bin/env bash
# Makes .venv with the test extras and runs the whole suite with coverage, which must be at least 90 % for the engine.
#
#   scripts/test.sh [pytest arguments]        with arguments, coverage is not measured
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
# The tests of a file stay together: they share servers that take seconds to start. Files run in the order of their names: the
# longest tests are alone in their files and would otherwise all run last.
.venv/bin/python -m coverage run -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder || status=$?
# Children killed by tests leave unreadable coverage files; they are ignored.
.venv/bin/python -m coverage combine --quiet 2>/dev/null || true
rm -f .coverage.*
.venv/bin/python -m coverage report --skip-covered --sort=cover || true
printf '\nThe engine:\n'
.venv/bin/python -m coverage report --include='backups/engine/*' --fail-under=90 --format=total || status=1
exit "$status"
