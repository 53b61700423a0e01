# shellcheck shell=bash
# Sourced by the other scripts: makes .venv from a lock file, and installs again only if the lock or the project changed.
#
#   make_environment LOCK

fail() {
    printf '\n%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# The newest Python, at least 3.11.
find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null \
            && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            && "$name" -c 'import venv, ensurepip' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or later with venv was found. Install one, for example: apt-get install python3 python3-venv"
}

make_environment() {
    local lock=$1 wanted stamp
    [[ -f $lock ]] || fail "$lock is missing: is this a complete checkout?"
    wanted=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
    stamp=.venv/installed-${lock##*/}.sha256
    if [[ -x .venv/bin/python && $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
        return
    fi
    printf '\n==> Installing %s into .venv\n' "$lock"
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        local python
        python=$(find_python)
        "$python" -m venv --clear .venv || fail "the virtual environment .venv cannot be created"
    fi
    # --no-deps: the lock is complete, and older versions of pip ignore it for dependencies with extras.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" \
        || fail "installing $lock failed; see pip's message above. Run this again when it is fixed."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e '.[refserver]' \
        || fail "installing this project into .venv failed; see pip's message above."
    # Also for a service that may not write here: each of its processes would compile the modules that it imports.
    .venv/bin/python -m compileall -q backups backups_consistency consistency refserver \
        || fail "compiling the modules failed; see the message above."
    printf '%s\n' "$wanted" > "$stamp"
}
