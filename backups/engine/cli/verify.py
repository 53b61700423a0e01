"""``refbackup verify``"""

import argparse
from typing import Any

from ..application_check import ApplicationCheck
from ..check_stores import unchecked_in
from ..errors import DamageFound, EngineError, KeyMissing, NoSpace, UsageError
from ..progress import duration, human_bytes
from ..repository.base import Unreadable, set_of
from ..repository.folder import Repository
from ..repository.soundness import Soundness
from ..repository.suspicion import suspicions
from ..types import Backup, Depth, Problem, Proof
from ..verify import changed_files, verify_many
from .arguments import add_examine, add_heartbeat
from .call import Call, Outcome
from .text import unchecked_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backups, and how deep to look."""
    add_heartbeat(parser)
    parser.add_argument("id", nargs="*", metavar="ID", help="default: latest")
    parser.add_argument("--all", action="store_true", help="every backup of the set")
    parser.add_argument("--all-sets", action="store_true", help="every backup of every set")
    parser.add_argument(
        "--depth",
        choices=[depth.value for depth in Depth],
        default=Depth.HASHES.value,
        help="read and check every byte, or restore and check",
    )
    add_examine(parser)


def run(call: Call) -> Outcome:
    """Verify; exit code 4 if there is no backup, 5 if one is damaged or unreadable, or damaged and skipped by ``latest``.

    8 if all are sound, but the disk has no space for the proofs; 10 if all others are sound, and no key at hand opens some.
    """
    repository = call.repository()
    arguments = call.arguments
    depth = Depth(arguments.depth)
    every = arguments.all or arguments.all_sets
    if every and arguments.id:
        raise UsageError("Give ids or --all, not both.")
    unreadable: list[Unreadable] = []
    set_name: str | None = None
    if every:
        set_name = call.set_or_all()
        repository.require_backups(set_name)
        scanned = repository.scan(set_name)
        backups = [item for item in scanned if isinstance(item, Backup)]
        unreadable = [item for item in scanned if isinstance(item, Unreadable)]
    else:
        backups = [call.find(repository, name, call.set_name()) for name in arguments.id or ["latest"]]
    application = ApplicationCheck(examine=arguments.examine or call.settings.examine_command)
    closed = [backup for backup in backups if backup.manifest.locked]
    changed = {backup.id: problems[0] for backup in closed if (problems := changed_files(repository, backup, call.ctx))}
    locked = {backup.id: _locked(repository, backup) for backup in closed if backup.id not in changed}
    backups = [backup for backup in backups if not backup.manifest.locked]
    proved = verify_many(repository, backups, depth, call.ctx, application=application)
    proofs = verdicts(repository, list(zip(backups, proved, strict=True)))
    unverified = {item.id: item.problem for item in unreadable} | changed | dict(call.skipped)
    items: list[Backup | Unreadable] = [*backups, *unreadable]
    asked = ([set_name] if set_name else repository.sets()) if every else []
    sets = sorted({*map(set_of, items), *asked})
    noticed = [problem for name in sets for problem in suspicions(repository, name)]
    ok = all(proof.ok for proof in proofs) and not unverified and not noticed
    results = [proof_json(proof) for proof in proofs]
    results += [_unverified_json(one, problem, depth) for one, problem in unverified.items()]
    lines = [proof_text(proof) for proof in proofs]
    lines += [f"{one}: DAMAGED, not read\n  {problem.code}: {problem.message}" for one, problem in unverified.items()]
    results += [_unverified_json(one, problem, depth) for one, problem in locked.items()]
    lines += [
        f"{one}: ENCRYPTED: its files are as they were written; no block was read\n  {problem.code}: {problem.message}"
        for one, problem in locked.items()
    ]
    lines += [f"NOTICED {problem.message}" for problem in noticed]
    answer: dict[str, Any] = {"ok": ok and not locked, "results": results}
    answer |= {"noticed": [problem.model_dump(mode="json") for problem in noticed]} if noticed else {}
    code = DamageFound.exit_code if not ok else KeyMissing.exit_code if locked else exit_code(proofs)
    return Outcome(answer, "\n".join(lines), code)


def exit_code(proofs: list[Proof]) -> int:
    """The exit code of sound *proofs*: 8 if one could not be recorded, because it does not count then."""
    return NoSpace.exit_code if any(proof.unrecorded for proof in proofs) else 0


def _locked(repository: Repository, backup: Backup) -> Problem:
    """Why an encrypted backup cannot be verified."""
    try:
        repository.sealing.chain_of(backup.manifest)
    except EngineError as problem:
        return Problem(code=problem.code, message=problem.message)
    raise AssertionError("it opens")


def verdicts(repository: Repository, proved: list[tuple[Backup, Proof]]) -> list[Proof]:
    """The results of a run that has ended, as `Soundness.verdict`."""
    of_sets = {backup.manifest.set: Soundness(repository, backup.manifest.set) for backup, _ in proved}
    return [of_sets[backup.manifest.set].verdict(backup, proof) for backup, proof in proved]


def _unverified_json(backup_id: str, problem: Problem, depth: Depth) -> dict[str, Any]:
    problems = [problem.model_dump(mode="json")]
    return {"id": backup_id, "ok": False, "depth": depth, "seconds": 0.0, "bytes": 0, "problems": problems, "checks": {}}


def proof_json(proof: Proof) -> dict[str, Any]:
    """One result in the JSON of ``verify`` and ``drill``."""
    found = proof.model_dump(mode="json", exclude={"time", "drill", "scope"})
    return found | ({"unrecorded": proof.unrecorded} if proof.unrecorded else {})


def proof_text(proof: Proof) -> str:
    """The result of verifying one backup, with its problems and the figures of a drill."""
    rate = human_bytes(proof.bytes / proof.seconds) if proof.seconds else "-"
    lines = [
        f"{proof.id}: {'ok' if proof.ok else 'DAMAGED'} ({proof.depth}, {human_bytes(proof.bytes)} in "
        f"{duration(proof.seconds)}, {rate}/s)"
    ]
    if proof.unrecorded:
        lines.append(f"  NOT RECORDED, so that it does not count: {proof.unrecorded}")
    if proof.blames_source:
        lines.append("  The bytes are as they were written, but the source was damaged when it was backed up:")
    for problem in proof.problems:
        lines.append(f"  {problem.code}: {problem.message}")
        if problem.also_in:
            lines.append(f"    also needed by: {', '.join(problem.also_in)}")
    lines += unchecked_lines(unchecked_in(proof))
    if proof.drill and "recovery_point_seconds" in proof.checks:
        age = duration(proof.checks["recovery_point_seconds"])
        lines.append(f"  recovery took {duration(proof.seconds)}; the cut was {age} ago")
    if probe := proof.checks.get("probe"):
        result = "ok" if probe["ok"] else f"FAILED with status {probe['status']}"
        lines.append(f"  probe: {result}, {probe['said'] or 'no output'}")
    return "\n".join(lines)
