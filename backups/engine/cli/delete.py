"""``refbackup delete``"""

import argparse

from ..errors import DamageFound, EngineError
from ..prune import delete
from ..repository.base import Unreadable, set_of, split_name
from ..repository.folder import Repository
from ..types import Backup
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backups."""
    parser.add_argument(
        "id", nargs="+", metavar="ID", help="id, unique prefix, latest, ...; of several, the newest is deleted first"
    )


def run(call: Call) -> Outcome:
    """Move the backups to the trash. An error lists the backups deleted before it."""
    repository = call.repository()
    found = (_find(call, repository, name) for name in call.arguments.id)
    selected = {(item.id, set_of(item)): item for item in found}
    deleted: list[str] = []
    for _, backup in sorted(selected.items(), reverse=True):  # newest first: dependents before what they depend on
        try:
            delete(repository, backup, call.ctx)
        except EngineError as problem:
            problem.details |= {"deleted": deleted} if deleted else {}
            raise
        deleted.append(backup.id)
    where = f"in the trash for {call.settings.trash_hours:g} h: {repository.trash}"
    if len(deleted) == 1:
        return Outcome({"id": deleted[0], "deleted": True}, f"{deleted[0]} is {where}")
    return Outcome({"ids": deleted, "deleted": True}, f"{len(deleted)} backups are {where}")


def _find(call: Call, repository: Repository, name: str) -> Backup | Unreadable:
    """The backup called *name*; an unreadable one is only found by its whole id."""
    set_name, backup_id = split_name(name, call.set_name())
    try:
        return repository.find(backup_id, set_name)
    except DamageFound:
        damaged = (item for item in repository.scan(set_name) if isinstance(item, Unreadable) and item.id == backup_id)
        items = list(damaged)
        if len(items) != 1:
            raise
        return items[0]
