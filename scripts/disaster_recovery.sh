#!/usr/bin/env bash
# Restores the data from a backup. Needs bash, Python and the engine; no Django, no database.
#
#   scripts/disaster_recovery.sh --look
#   scripts/disaster_recovery.sh --list [--date DAY]
#   scripts/disaster_recovery.sh --finish | --undo [--dry-run] [--yes] [--repo REPO]
#   scripts/disaster_recovery.sh --latest | --backup-id ID [--only sqlite|chroma|files] [--to DIR] [--dry-run] [--yes]
#                                [--repo REPO] [--set NAME]
#
# A missing .venv is made from requirements.lock. If that fails, it prints the commands that restore the newest full backup
# with only sha256sum, tar and zstd. The restore itself is in refserver/recovery.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/engine.sh
source "$root/scripts/engine.sh"

# The value of an argument, for the printed commands.
argument() {
    local wanted=$1
    shift
    while (($#)); do
        case $1 in
            "$wanted") printf '%s' "${2-}"; return ;;
            "$wanted="*) printf '%s' "${1#*=}"; return ;;
        esac
        shift
    done
}

# A setting from the environment, .env, or its default, relative to the project. An approximation: a person checks it.
setting() {
    local name=$1 value=${!1-}
    if [[ -z $value && -r $root/.env ]]; then
        value=$(sed -n "s/^[[:space:]]*\(export[[:space:]]\+\)\?${name}[[:space:]]*=[[:space:]]*//p" "$root/.env" | tail -n 1)
        value=${value%%[[:space:]]#*}
        value=${value#[\"\']}
        value=${value%[\"\']}
    fi
    value=${value:-$2}
    [[ $value == /* ]] || value=$root/$value
    printf '%s' "$value"
}

# Prints the exact commands that restore the newest full backup without any program of this project.
by_hand() {
    local repository set folder newest="" full="" after=0 id database chroma files aside target
    repository=$(argument --repo "$@")
    [[ -n $repository ]] || repository=$(setting BACKUP_REPOSITORY var/backups)
    set=$(argument --set "$@")
    folder=$repository/backups/${set:-default}
    for newest in "$folder"/*-full-*; do
        [[ -f $newest/SHA256SUMS ]] && full=$newest
    done
    printf '\nWithout the engine, restore the newest full backup with sha256sum, tar and zstd.\n' >&2
    if [[ -z $full ]]; then
        printf 'There is no full backup in %s. Use --repo with the folder that holds repository.json.\n' "$folder" >&2
        return
    fi
    for newest in "$folder"/*-incremental-*; do
        id=${newest##*/}
        [[ -e $newest && ${id%%-*} > $(basename "$full" | cut -d- -f1) ]] && after=$((after + 1))
    done
    ((after)) && printf '%s newer incremental backups need the engine; they are not restored.\n' "$after" >&2
    database=$(setting REFSERVER_DATABASE var/data/refserver.sqlite3)
    chroma=$(setting CHROMA_PATH var/data/chroma)
    files=$(setting REFSERVER_FILES var/data/documents)
    aside=$(date -u +%Y%m%dT%H%M%SZ)
    printf 'Check and unpack it; nothing live is changed:\n\n' >&2
    printf '  cd %q\n  sha256sum -c SHA256SUMS\n' "$full"
    printf '  mkdir -p %q\n' "$root/var/recovered-$aside"
    printf '  zstd -dc data.tar.zst | tar -xf - -C %q\n' "$root/var/recovered-$aside"
    printf '\nStop the application and put it in place; the current stores are kept with the suffix .before-%s:\n\n' "$aside" >&2
    for target in "$database" "$database-wal" "$database-shm" "$database-journal" "$chroma" "$files"; do
        [[ -e $target ]] && printf '  mv %q %q\n' "$target" "$target.before-$aside"
    done
    printf '  mkdir -p %q %q %q\n' "$(dirname "$database")" "$(dirname "$chroma")" "$(dirname "$files")"
    printf '  cp -a %q/sqlite/*.sqlite3 %q\n' "$root/var/recovered-$aside" "$database"
    printf '  cp -a %q/chroma/* %q\n' "$root/var/recovered-$aside" "$chroma"
    printf '  cp -a %q/files/* %q\n' "$root/var/recovered-$aside" "$files"
    printf '\nThen start the application. DISASTER_RECOVERY.md, "The worst case", says how to check that it worked.\n' >&2
}

main() {
    case " $* " in
        *" -h "* | *" --help "*) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    esac
    if ! engine_works "$root"; then
        case " $* " in
            *" --dry-run "*)
                printf 'disaster_recovery.sh: %s has no working .venv. Without --dry-run, it would be made from requirements.lock.\n' \
                    "$root" >&2
                by_hand "$@"
                exit 1
                ;;
        esac
        printf 'disaster_recovery.sh: %s has no working .venv. Making it from requirements.lock; this takes a few minutes.\n' "$root" >&2
        if ! make_engine "$root" >&2; then
            printf '\ndisaster_recovery.sh: the packages cannot be installed; see the reason above. Nothing was changed.\n' >&2
            by_hand "$@"
            exit 1
        fi
    fi
    # Replaces this shell, so that it receives the signals.
    exec env PYTHONPATH="$root" PYTHONDONTWRITEBYTECODE=1 "$root/.venv/bin/python" -P -m refserver.recovery "$@"
}

main "$@"
