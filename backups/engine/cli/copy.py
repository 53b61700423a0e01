"""``refbackup copy``"""

import argparse
from typing import Any

from ..config import check_path
from ..copies import Copied, copy_backups
from ..progress import counted, human_bytes
from .arguments import add_heartbeat, seconds
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where from and where to, which backups, and how fast."""
    add_heartbeat(parser)
    parser.add_argument("--from", dest="repo", metavar="REPO", help="the same as --repo")
    parser.add_argument("--to", metavar="REPO", required=True, help="folder of the repository to copy to")
    parser.add_argument("id", nargs="*", metavar="ID", help="copy these with what they need (default: all that are missing)")
    parser.add_argument("--limit", type=_rate, metavar="MIB", help="send at most this many MiB per second")
    parser.add_argument("--wait", type=seconds, default=60.0, metavar="SECONDS", help="wait for the locks there (default: 60)")


def _rate(value: str) -> float:
    if not (number := seconds(value)):
        raise argparse.ArgumentTypeError("0 would never end")
    return number * (1 << 20)


def run(call: Call) -> Outcome:
    """Copy; exit code 5 if a backup was refused."""
    source = call.repository()
    if not call.arguments.id:
        source.require_backups(call.set_name())
    chosen = [call.find(source, wanted, call.set_name()) for wanted in call.arguments.id]
    done = copy_backups(
        source,
        call.open_repository(check_path(call.arguments.to)),
        call.set_name(),
        chosen,
        call.ctx,
        wait=call.arguments.wait,
        limit=call.arguments.limit,
    )
    return Outcome(_json(done), _text(done), 5 if done.refused else 0)


def _json(done: Copied) -> dict[str, Any]:
    return {
        "copied": [{"set": name, "id": one} for name, one in done.copied],
        "present": done.present,
        "left_out": [{"set": name, "id": one} for name, one in done.left_out],
        "refused": [{"set": one.set, "id": one.id, "problem": one.problem.model_dump(mode="json")} for one in done.refused],
        "bytes_sent": done.sent,
        "bytes_resumed": done.resumed,
    }


def _text(done: Copied) -> str:
    lines = [f"{counted(len(done.copied), 'backup')} copied and read back, {human_bytes(done.sent)} sent."]
    if done.resumed:
        lines.append(f"{human_bytes(done.resumed)} had arrived before.")
    if done.present:
        lines.append(f"{counted(done.present, 'backup')} there already.")
    if done.left_out:
        lines.append(f"{counted(len(done.left_out), 'backup')} left out: deleted or pruned there. Name one to copy it again.")
    lines += [f"{one.set}/{one.id}: NOT COPIED\n  {one.problem.code}: {one.problem.message}" for one in done.refused]
    return "\n".join(lines)
