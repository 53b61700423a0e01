#!/usr/bin/env bash
# Makes .venv with the test extras and runs the whole suite. Coverage is measured in the engine's suites, child processes included,
# except in long fights with writers; it must be 90 % or more of the engine.
#
#   scripts/test.sh                     the whole suite
#   scripts/test.sh ARGUMENTS           pytest with these arguments, without coverage
#
# With ALL_PROGRAMS=1, as in CI, a test that is skipped because a program is missing fails the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

# Tests start some 4,000 Python processes. Where this is set, each compiles every module that it imports.
unset PYTHONDONTWRITEBYTECODE
make_environment requirements-test.lock
if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi
# A file's tests stay together, because they share servers that take seconds to start. Files run in the order of tests/conftest.py,
# not those with many tests first: the longest tests are alone in their files, and would all be left for the end.
# One process more than there are cores, because tests wait for children and servers.
cores=$(nproc)
options=(-n $((cores < 4 ? cores + 1 : 4)) --dist loadfile --no-loadscope-reorder ${ALL_PROGRAMS:+--all-programs})
status=0
printf '\n==> The engine, with coverage\n'
.venv/bin/python -m coverage erase
.venv/bin/python -m coverage run -m pytest "${options[@]}" --only measured || status=$?
# Children that tests kill leave unreadable data files, which are ignored.
.venv/bin/python -m coverage combine --quiet 2>/dev/null || true
rm -f .coverage.*
.venv/bin/python -m coverage report --include='backups/engine/*' --skip-covered --sort=cover --fail-under=90 || status=1
printf '\n==> All other tests\n'
.venv/bin/python -m pytest "${options[@]}" --only rest || status=$?
exit "$status"
