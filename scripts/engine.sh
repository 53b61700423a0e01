# shellcheck shell=bash
# Sourced by disaster_recovery.sh and check_backups.sh: the engine in .venv of the project in $1, installed if missing.

# Whether the engine works. An environment that works is never changed, however old it is.
engine_works() {
    local probe='import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))'
    [[ -x $1/.venv/bin/python ]] \
        && timeout 60 "$1/.venv/bin/python" -P -c "$probe" blake3 cryptography dotenv numpy pydantic rich zstandard 2>/dev/null
}

# Makes .venv from requirements.lock, one process at a time. Fails if packages cannot be installed.
make_engine() (
    cd "$1" && mkdir -p var || exit 1
    trap 'printf "\nStopped. Only .venv was begun; the next run makes it again.\n"; exit 9' INT TERM HUP
    if command -v flock >/dev/null; then
        exec 9>> var/environment.lock
        flock -w 1800 9 || exit 1
    fi
    if engine_works "$1"; then # another process has made it
        exit 0
    fi
    # It was complete but does not work, or its Python is gone: keep it for inspection.
    if [[ -L .venv ]] || compgen -G '.venv/installed-*' >/dev/null; then
        aside=var/venv.broken-$(date -u +%Y%m%dT%H%M%SZ)
        mv .venv "$aside" || exit 1
        printf 'The broken environment was moved to %s\n' "$aside"
    fi
    timeout --foreground 1800 bash -c 'set -euo pipefail; source scripts/environment.sh; make_environment requirements.lock' || exit 1
    if [[ $(id -u) == 0 ]]; then # so that the project's owner can use it
        chown -R --reference="$1" .venv
    fi
    engine_works "$1"
)
