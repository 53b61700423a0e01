"""``refbackup adopt``"""

import argparse
import sys

from ..adopt import adopt
from ..errors import UsageError
from ..progress import counted
from ..repository.folder import open_repository
from ..repository.suspicion import suspicions
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The confirmation."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(call: Call) -> Outcome:
    """Sign everything in the repository; exit code 5 if a backup could not be read and was not signed."""
    path = call.repository_path()
    before = open_repository(path, call.keys(path), call.keyring(path))
    for problem in (one for name in before.sets() for one in suspicions(before, name)):
        call.ctx.log(f"NOTICED {problem.message}")
    _confirm(call, sum(len(before.ids(name)) for name in before.sets()))
    adopted = adopt(open_repository(path, call.keys(path, make=True), call.keyring(path)), call.ctx)
    total = sum(map(len, adopted.signed.values()))
    text = f"{counted(total, 'backup')} signed."
    if adopted.left_out:
        text += f" Not signed, because they cannot be read: {', '.join(adopted.left_out[:5])}."
    return Outcome({"signed": adopted.signed, "left_out": adopted.left_out}, text, 5 if adopted.left_out else 0)


def _confirm(call: Call, count: int) -> None:
    """Ask on a terminal; without a terminal, require ``--yes``. Raises `UsageError`."""
    if call.arguments.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Signing what is in a repository needs confirmation, but there is no terminal.", hint="Give --yes.")
    sys.stderr.write(
        f"{counted(count, 'backup')} will be signed, with proofs and holds, as they are now. Afterwards nothing tells whether "
        "one of them was forged before.\nType yes to continue: "
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip() != "yes":
        raise UsageError("It was not confirmed. Nothing was changed.", hint="")
