"""``refbackup init``"""

import argparse
from pathlib import Path

from ..progress import counted
from ..repository.about import ABOUT, IdFrom, lost_about, recover_about
from ..repository.folder import initialise
from .call import Call, Outcome

_ID_FROM = {
    IdFrom.MEMORY: "the id {}, which is remembered beside the signing key",
    IdFrom.SIGNED: "the id {}, which signatures of a trusted key name",
    IdFrom.UNSIGNED: "the id {}, which is named there, though no key that is trusted here signed that",
    IdFrom.NEW: "a new id, {}, because nothing there is signed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None besides the common ones."""


def run(call: Call) -> Outcome:
    """Create the repository, and where the settings name a signing key that is missing, the key.

    Where backups are found that only lack ``repository.json``, that file is written again.
    """
    path = call.repository_path()
    if lost_about(path):
        return _recover(call, path)
    keys = call.keys(path, make=True)
    repository = initialise(path, call.ctx.now(), keys)
    text = f"Created a repository in {repository.folder}."
    if keys is not None and keys.private is not None:
        text += f"\nWhat is made there is signed with {keys.file}. Keep a copy of that file in a safe place."
    return Outcome({"repository": str(repository.folder)}, text)


def _recover(call: Call, path: Path) -> Outcome:
    found = recover_about(path, call.ctx.now(), call.keys(path))
    text = (
        f"{path} holds {counted(found.backups, 'backup')} in {counted(found.sets, 'set')}, and had lost {ABOUT}.\n"
        f"It was written again, with {_ID_FROM[found.id_from].format(found.id)}. Nothing else was changed.\n"
        "Check the backups: refbackup verify --all --all-sets"
    )
    recovered = {"id": found.id, "id_from": found.id_from, "sets": found.sets, "backups": found.backups}
    return Outcome({"repository": str(path), "recovered": recovered}, text)
