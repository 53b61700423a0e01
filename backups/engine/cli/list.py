"""``refbackup list``"""

import argparse
from collections.abc import Iterator
from typing import Any

from ..check_stores import unchecked
from ..progress import human_bytes
from ..repository.base import Unreadable
from ..repository.folder import Repository
from ..repository.suspicion import suspicions
from ..shrinkage import unconfirmed_loss
from ..types import Backup, Hold
from .call import Call, Outcome
from .text import manifest_json, proof_words, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sets to list."""
    parser.add_argument("--all-sets", action="store_true", help="list the backups of every set")


def run(call: Call) -> Outcome:
    """List the backups; unreadable ones too. Exit code 4 for a given set that has none."""
    repository = call.repository()
    set_name = call.set_or_all()
    if call.arguments.set:
        repository.require_backups(set_name)
    items = repository.scan(set_name)
    noticed = [problem for name in ([set_name] if set_name else repository.sets()) for problem in suspicions(repository, name)]
    lines = [listed_text(items), *(f"WARNING {loss}" for loss in _losses(repository, items))]
    lines += [f"NOTICED {problem.message}" for problem in noticed]
    answer = {"backups": [listed_json(item) for item in items]}
    answer |= {"noticed": [problem.model_dump(mode="json") for problem in noticed]} if noticed else {}
    return Outcome(answer, "\n".join(lines))


def _losses(repository: Repository, items: list[Backup | Unreadable]) -> Iterator[str]:
    """What the newest backup of each set lacks for which an earlier one is held."""
    newest = {item.manifest.set: item.id for item in reversed(items) if isinstance(item, Backup) and not item.manifest.safety}
    return filter(None, (unconfirmed_loss(repository.holds(name), backup_id) for name, backup_id in newest.items()))


def listed_json(item: Backup | Unreadable) -> dict[str, Any]:
    """One backup in the JSON of ``list``."""
    if isinstance(item, Unreadable):
        return {
            "id": item.id,
            "set": item.set,
            "kind": item.id.split("-")[1],
            "parent": None,
            "time": None,
            "bytes_source": None,
            "bytes_stored": None,
            "encrypted": None,
            "verified_at": None,
            "verification": "damaged",
            "unchecked": [],
            "incomplete": False,
            "hold": None,
            "note": item.problem.message,
        }
    manifest = item.manifest
    return {
        **manifest_json(manifest),
        "verified_at": item.verified_at.isoformat() if item.verified_at else None,
        "verification": item.verification,
        "unchecked": unchecked(item),
        "incomplete": manifest.incomplete,
        "hold": item.hold.reason if item.hold else None,
        "note": manifest.note,
    }


def _held(hold: Hold | None) -> str:
    if hold is None:
        return ""
    if not hold.signed:
        return "held: nobody signed it"
    return "held: later ones lost content" if hold.shrunk else "held"


def listed_text(items: list[Backup | Unreadable]) -> str:
    """A table of backups, newest first."""
    if not items:
        return "There are no backups yet. Create the first: refbackup create --repo REPO --sqlite FILE --chroma DIR"
    rows: list[tuple[str, ...]] = [("ID", "SET", "TIME (UTC)", "SOURCE", "STORED", "PROOF", "HOLD", "NOTE")]
    for item in items:
        if isinstance(item, Unreadable):
            rows.append((item.id, item.set, "", "", "", "DAMAGED", "", item.problem.message))
            continue
        manifest = item.manifest
        rows.append(
            (
                manifest.id,
                manifest.set,
                f"{manifest.time:%Y-%m-%d %H:%M:%S}",
                human_bytes(manifest.bytes_source) if not manifest.locked else "",
                human_bytes(manifest.bytes_stored),
                proof_words(item),
                _held(item.hold),
                manifest.note if not manifest.locked else "encrypted: no key here opens it",
            )
        )
    return table(rows, right=(3, 4))
