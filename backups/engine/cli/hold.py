"""``refbackup hold``"""

import argparse

from ..config import check_note
from ..types import Hold
from .arguments import add_id
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup and a note."""
    add_id(parser)
    parser.add_argument("--note", default="", metavar="TEXT", help="reason for the hold")


def run(call: Call) -> Outcome:
    """Hold the backup."""
    return set_hold(call, Hold(time=call.ctx.now(), note=check_note(call.arguments.note)), "held")


def set_hold(call: Call, hold: Hold | None, what: str) -> Outcome:
    """Set or, with None, remove a hold; the backup is then *what*."""
    repository = call.repository()
    backup = call.backup(repository)
    with repository.writing(what, call.ctx.now(), wait=10.0):
        if hold is None and backup.hold is not None:
            hold = backup.hold.confirmed
        why = repository.set_hold(backup, hold)
    if why:
        call.ctx.log(f"NOT SIGNED {backup.id} is {what} in its folder, and the journal does not say so: {why}")
    return Outcome({"id": backup.id, "hold": hold.note if hold else None}, f"{backup.id} is {what}.")
