#!/usr/bin/env bash
# Is there a fresh and sound backup? Answers as plug-ins of monitoring systems do: one line with figures, and an exit code.
#
#   scripts/check_backups.sh [--max-age HOURS] [--deep] [--repo REPO] [--set NAME]
#
#   0 OK         the newest usable backup is at most HOURS old (26), and proven
#   1 WARNING    it was never proven, others are damaged, the disk is nearly full, or a clock was wrong
#   2 CRITICAL   too old, damaged, none at all, or no repository
#   3 UNKNOWN    it could not be found out: wrong arguments, no engine, no answer in time
#
# --deep reads every byte that the newest needs. It changes nothing; the repository may be read-only.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 3
# shellcheck source=scripts/engine.sh
source "$root/scripts/engine.sh"

unknown() {
    printf 'BACKUPS UNKNOWN: %s\n' "$*"
    exit 3
}

main() {
    local seconds=60 argument status=0 said
    for argument in "$@"; do
        case $argument in
            -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 3 ;;
            --deep) seconds=21600 ;;
        esac
    done
    trap 'unknown "it was stopped before it could answer"' INT TERM HUP
    if ! engine_works "$root"; then
        # Standard output is for the one line.
        make_engine "$root" >&2 || unknown "$root has no working .venv, and it cannot be made from requirements.lock"
    fi
    said=$(timeout "$seconds" env PYTHONPATH="$root" PYTHONDONTWRITEBYTECODE=1 "$root/.venv/bin/python" -P -m refserver.recovery.check "$@") || status=$?
    if ((status == 124)); then
        unknown "no answer within $seconds s: is the repository's disk there?"
    elif ((status > 3)) || [[ $said != BACKUPS* ]]; then
        unknown "the check ended with exit code $status before it could answer"
    fi
    printf '%s\n' "$said"
    exit "$status"
}

main "$@"
