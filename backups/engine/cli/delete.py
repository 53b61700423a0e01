"""``refbackup delete``"""

import argparse
import sys

from ..errors import BackupInUse, DamageFound, EngineError
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
    parser.add_argument("--yes", action="store_true", help="do not ask before the last proven backup of a set is deleted")


def run(call: Call) -> Outcome:
    """Move the backups to the trash. An error lists the backups deleted before it."""
    repository = call.repository()
    found = (_find(call, repository, name) for name in call.arguments.id)
    selected = {(item.id, set_of(item)): item for item in found}
    if not call.arguments.yes:
        _confirm(repository, list(selected.values()))
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


def _confirm(repository: Repository, going: list[Backup | Unreadable]) -> None:
    """Ask on a terminal before a set loses its last proven backup; without a terminal, raise `BackupInUse`."""
    ids = {(set_of(item), item.id) for item in going}
    losing = {set_of(item): item.id for item in going if isinstance(item, Backup) and _is_proven(item)}
    for name, last in sorted(losing.items()):
        if any(_is_proven(item) and (name, item.id) not in ids for item in repository.newest_first(name)):
            continue
        message = f"Without {last}, the set {name} has no proven backup."
        if not sys.stdin.isatty():
            raise BackupInUse(message, hint="Make and verify another one first, or give --yes. Nothing was deleted.")
        sys.stderr.write(f"{message}\nType that id to delete it all the same: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != last:
            raise BackupInUse("The id was not typed.")


def _is_proven(backup: Backup) -> bool:
    return backup.verified_at is not None and not backup.damaged and not backup.manifest.safety


def _find(call: Call, repository: Repository, name: str) -> Backup | Unreadable:
    """The backup called *name*; an unreadable one is only found by its whole id."""
    set_name, backup_id = split_name(name, call.set_name())
    try:
        return call.find(repository, backup_id, set_name)
    except DamageFound:
        damaged = (item for item in repository.scan(set_name) if isinstance(item, Unreadable) and item.id == backup_id)
        items = list(damaged)
        if len(items) != 1:
            raise
        return items[0]
