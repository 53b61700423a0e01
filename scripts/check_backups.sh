#!/usr/bin/env bash
# Is there a fresh, sound backup? Answers like a plug-in of a monitoring system: one line with figures, and an exit code.
#
#   scripts/check_backups.sh [--max-age HOURS] [--deep] [--repo REPO] [--set NAME]
#
#   0 OK         the newest usable backup of every set is at most HOURS old (26) and verified
#   1 WARNING    it was never verified, is incomplete, older ones are damaged, the disk is nearly full, or a clock was wrong
#   2 CRITICAL   too old, the newest is damaged, no backup, or no repository
#   3 UNKNOWN    wrong arguments, no engine, or no answer in time
#
# Every set is checked; of others than default and control, the age does not count. --deep reads every byte that the newest backups
# need, and records what it finds, unless the repository is read-only; damage counts until a later check as deep finds none.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 3
# shellcheck source=scripts/engine.sh
source "$root/scripts/engine.sh"

unknown() {
    printf 'BACKUPS UNKNOWN: %s\n' "$*"
    exit 3
}

main() {
    local seconds=60 argument status=0 answer
    for argument in "$@"; do
        case $argument in
            -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 3 ;;
            --deep) seconds=21600 ;;
        esac
    done
    trap 'unknown "the check was stopped"' INT TERM HUP
    if ! engine_works "$root"; then
        # Standard output holds only the answer.
        make_engine "$root" >&2 || unknown "$root has no working .venv, and making it from requirements.lock failed"
    fi
    answer=$(timeout "$seconds" env PYTHONPATH="$root" PYTHONDONTWRITEBYTECODE=1 "$root/.venv/bin/python" -P -m refserver.recovery.check "$@") || status=$?
    if ((status == 124)); then
        unknown "no answer within $seconds s: is the repository's disk there?"
    elif ((status > 3)) || [[ $answer != BACKUPS* ]]; then
        unknown "the check ended with exit code $status and no answer"
    fi
    printf '%s\n' "$answer"
    exit "$status"
}

main "$@"
