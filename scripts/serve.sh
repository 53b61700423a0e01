#!/usr/bin/env bash
# Installs and starts RefServer: migrates, loads the sample library, makes the first backup and the plans, and serves.
#
#   scripts/serve.sh [--port N] [--bind ADDRESS]
#
# Safe to run again: existing data is kept. Settings come from the environment and .env (see .env.example).
# Ctrl-C stops everything when the running job is done; a second Ctrl-C interrupts the job.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 077 # the databases hold password hashes and sessions
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

say() { printf '\n==> %s\n' "$*"; }

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0"
}

# Without Django's system checks, which take as long as the rest of a command: the first one below makes them for all.
manage() { .venv/bin/python manage.py "$@" --skip-checks; }

# The length of a list in a JSON object.
count_in() { .venv/bin/python -c 'import json, sys; print(len(json.load(sys.stdin)[sys.argv[1]]))' "$1"; }

prepare() {
    say "Preparing the databases"
    manage migrate --verbosity 0
    manage migrate --verbosity 0 --database control
    manage collectstatic --no-input --verbosity 0
    # Printed here, in case a later step fails, and again at the end.
    administrator=$(manage make_admin)
    printf '%s\n' "$administrator"
    manage load_sample
}

# The first backup is made before the web server starts: there is a verified copy from the first request on, and an
# unwritable repository is reported now.
first_backup() {
    local status=0 listed count
    # With --json the error is part of the answer; its text for people would confuse on the first run.
    listed=$(.venv/bin/refbackup list --repo "$BACKUP_REPOSITORY" --json 2>/dev/null) || status=$?
    if ((status == 3)); then
        .venv/bin/python -m refserver.recovery.faults || fail "no new repository was made, and nothing was started."
        say "Creating the backup repository"
        .venv/bin/refbackup init --repo "$BACKUP_REPOSITORY"
        listed='{"backups": []}'
    elif ((status != 0)); then
        printf '%s\n' "$listed" >&2
        fail "the backup repository $BACKUP_REPOSITORY cannot be read (exit code $status). Nothing was changed in it."
    fi
    count=$(count_in backups <<< "$listed")
    if ((count > 0)); then
        printf 'Backups: %s in %s\n' "$count" "$BACKUP_REPOSITORY"
        [[ -e $BACKUP_SIGNING_KEY ]] || printf '%s\n' \
            "They are not signed: forged and removed backups would not be noticed. Check the list of backups, then sign them:" \
            "  .venv/bin/refbackup adopt --repo $(printf '%q' "$BACKUP_REPOSITORY")"
        return
    fi
    say "Making and verifying the first backup"
    .venv/bin/refbackup create --repo "$BACKUP_REPOSITORY" --kind full --note "first backup" \
        --sqlite "refserver=$REFSERVER_DATABASE" --chroma "chroma=$CHROMA_PATH" --files "documents=$REFSERVER_FILES" \
        || fail "the first backup failed; see the reason above. The data was not changed. Run this again when it is fixed."
}

# The default plans make, verify and prune backups from here on.
plans() {
    local made
    made=$(manage backup_plans_install --json | count_in made)
    ((made == 0)) || printf 'Plans and alert rules: %s made; see them under Plans\n' "$made"
    manage backup_reindex --changed >/dev/null
}

kept_key() {
    if [[ -e $BACKUP_SIGNING_KEY ]]; then printf ' (keep a copy in a safe place)'; else printf ' (missing)'; fi
}

# Before anything is prepared: what is running must not be migrated under its feet, and its addresses are not these.
refuse_second() {
    local pid_file=$REFSERVER_RUN_DIR/serve.pid
    [[ -e $pid_file ]] && command -v flock >/dev/null || return 0 # else `manage.py serve` refuses, a little later
    flock --nonblock --shared "$pid_file" true && return 0
    fail "RefServer is running already, as process $(cat "$pid_file"). Nothing was changed. To stop it: kill $(cat "$pid_file")"
}

where_to_look() {
    local host=$1 port=$2
    [[ $host == 0.0.0.0 ]] && host=127.0.0.1
    [[ $host == :: ]] && host=::1
    [[ $host == *:* ]] && host="[$host]"
    say "RefServer"
    cat <<END
  Library          http://$host:$port/
  Backups          http://$host:$port/admin/backup/
  Administration   http://$host:$port/admin/
  $administrator
  Repository       $BACKUP_REPOSITORY
  Signing key      $BACKUP_SIGNING_KEY$(kept_key)

  Add documents:   .venv/bin/python manage.py ingest PATH...
  See the backups: .venv/bin/refbackup list --repo $(printf '%q' "$BACKUP_REPOSITORY")
  Stop:            Ctrl-C (finishes the running job first; again interrupts it)

END
}

main() {
    local port="" bind="" administrator="" arguments=()
    while (($#)); do
        case $1 in
            --port) (($# > 1)) || fail "--port needs a number"; port=$2; shift 2 ;;
            --port=*) port=${1#*=}; shift ;;
            --bind) (($# > 1)) || fail "--bind needs an address"; bind=$2; shift 2 ;;
            --bind=*) bind=${1#*=}; shift ;;
            -h | --help) usage; exit 0 ;;
            *) usage >&2; printf '\nserve.sh: unknown argument: %s\n' "$1" >&2; exit 2 ;;
        esac
    done
    [[ -z $port || $port =~ ^[0-9]{1,5}$ ]] || fail "--port needs a number, not $port"

    make_environment requirements.lock
    # Assigned first: eval would ignore a failure of its own substitution.
    local settings
    settings=$(.venv/bin/python manage.py locations --shell)
    eval "$settings"
    export BACKUP_SIGNING_KEY BACKUP_ENCRYPTION_KEY
    refuse_second
    prepare
    first_backup
    plans
    where_to_look "${bind:-$REFSERVER_BIND}" "${port:-$REFSERVER_PORT}"
    [[ -n $port ]] && arguments+=(--port "$port")
    [[ -n $bind ]] && arguments+=(--bind "$bind")
    # Replaces this shell, so that the supervisor receives the signals.
    exec .venv/bin/python manage.py serve "${arguments[@]}"
}

main "$@"
