"""``refbackup prune``"""

import argparse
import contextlib
from datetime import timedelta
from pathlib import Path

from ..errors import RepositoryLocked, UsageError
from ..prune import empty_trash, prune, refuse_empty
from ..repository.folder import Repository
from ..repository.retention import Decision, Policy, PolicyError, parse_duration
from ..unfinished import abandoned, exclusive_restore, remove_abandoned
from .arguments import add_heartbeat, seconds
from .call import Call, Outcome
from .text import table

_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The retention rules."""
    add_heartbeat(parser)
    for period in _PERIODS:
        parser.add_argument(
            f"--keep-{period}",
            type=int,
            metavar="N",
            help=f"keep {'the last N' if period == 'last' else f'N {period} backups'}",
        )
    parser.add_argument("--keep-within", metavar="14d", help="keep backups at most this much older than the newest")
    parser.add_argument("--verified-floor", type=int, default=2, metavar="N", help="never remove the newest N verified backups")
    parser.add_argument("--all-sets", action="store_true", help="apply the rules to every set")
    parser.add_argument("--empty-trash", action="store_true", help="delete the backups in the trash now; needs no rule")
    parser.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS", help="wait for the repository's locks")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and why")


def run(call: Call) -> Outcome:
    """Prune; exit code 4 if there is no backup. With ``--empty-trash`` and no rule, only the trash is emptied."""
    arguments = call.arguments
    try:
        policy = Policy(
            **{f"keep_{period}": getattr(arguments, f"keep_{period}") or 0 for period in _PERIODS},
            keep_within=parse_duration(arguments.keep_within) if arguments.keep_within else None,
            verified_floor=arguments.verified_floor,
        )
    except PolicyError as problem:
        raise UsageError(f"{problem}.") from None
    if not arguments.empty_trash:
        refuse_empty(policy)
    repository = call.repository()
    trash = timedelta(hours=0.0 if arguments.empty_trash else call.settings.trash_hours)
    set_name = call.set_or_all()
    if arguments.empty_trash and policy.is_empty:
        emptied = empty_trash(repository, call.ctx, dry_run=arguments.dry_run, wait=arguments.wait)
        answer = {"kept": [], "removed": [], "dry_run": arguments.dry_run, "emptied": emptied}
        return Outcome(answer, _emptied_text(emptied, arguments.dry_run))
    repository.require_backups(set_name)
    results = [
        prune(repository, name, policy, call.ctx, dry_run=arguments.dry_run, trash=trash, wait=arguments.wait)
        for name in ([set_name] if set_name else repository.sets())
    ]
    decisions = [item for result in results for item in result.decisions]
    decided = {
        keep: [{"id": item.id, "reasons": list(item.reasons)} for item in decisions if item.keep is keep]
        for keep in (True, False)
    }
    if not arguments.dry_run:
        _clear_restores(call, repository, [set_name] if set_name else repository.sets())
    emptied = [name for result in results for name in result.emptied]
    answer = {"kept": decided[True], "removed": decided[False], "dry_run": arguments.dry_run, "emptied": emptied}
    return Outcome(answer, _text(decisions, arguments.dry_run))


def _clear_restores(call: Call, repository: Repository, sets: list[str]) -> None:
    """Remove what killed restores left beside the sources: those of the settings, or else of the newest backup of each set."""
    paths = [source.path for source in call.sources()]
    for name in sets if not paths else ():
        newest = next(repository.newest_first(name), None)
        paths += [Path(record.path) for record in newest.manifest.sources] if newest is not None else []
    for path in paths:
        if path.parent.is_dir() and abandoned([path]):
            with contextlib.suppress(RepositoryLocked, PermissionError), exclusive_restore([path]):
                remove_abandoned([path], call.ctx.log)


def _emptied_text(emptied: list[str], dry_run: bool) -> str:
    if not emptied:
        return "The trash is empty."
    return "\n".join([f"{'Would be deleted' if dry_run else 'Deleted'} from the trash:", *emptied])


def _text(decisions: list[Decision], dry_run: bool) -> str:
    removed = "would be removed" if dry_run else "removed"
    rows: list[tuple[str, ...]] = [("BACKUP", "", "WHY")]
    rows += [(item.id, "keep" if item.keep else removed, "; ".join(item.reasons)) for item in decisions]
    return table(rows)
