"""``refbackup drill``"""

import argparse

from ..application_check import ApplicationCheck
from ..drill import drill_backup, passed
from .arguments import add_examine, add_heartbeat, add_id, command
from .call import Call, Outcome
from .verify import exit_code, proof_json, proof_text, verdicts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup, and the application's checks."""
    add_heartbeat(parser)
    add_id(parser, default="latest")
    parser.add_argument(
        "--probe",
        type=command,
        metavar="CMD",
        default="",
        help="application's check of the restored stores; the drill fails unless it exits with 0 (BACKUP_DRILL_COMMAND)",
    )
    add_examine(parser)


def run(call: Call) -> Outcome:
    """Drill; exit code 5 if the backup is damaged, 1 if the probe failed, 8 if the disk has no space for the proof."""
    repository = call.repository()
    application = ApplicationCheck(
        probe=call.arguments.probe or call.settings.drill_command,
        examine=call.arguments.examine or call.settings.examine_command,
    )
    backup = call.backup(repository)
    (proof,) = verdicts(repository, [(backup, drill_backup(repository, backup, call.ctx, application))])
    code = exit_code([proof]) if passed(proof) else 1 if proof.ok else 5
    return Outcome({"ok": passed(proof), "results": [proof_json(proof)]}, proof_text(proof), code)
