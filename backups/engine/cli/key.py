"""``refbackup key``"""

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any, Final

from ..encryption.chain import Recipient, parse_public
from ..encryption.identity import SETTING
from ..encryption.keyring import MEMORY, RECOVERY, Keyring, read_keyring
from ..errors import EngineError, KeyMissing, UsageError
from ..progress import counted
from ..recipients import Rewritten, add_recipient, check_kit, opened_by_kit, remove_recipient, rotate, switch_on
from ..repository.folder import Repository, open_repository
from ..runtime.secret_file import refuse_inside
from .call import Call, Outcome

_ACTIONS: Final = ("init", "check", "list", "add", "remove", "rotate")
_LOCK_WAIT: Final = 10.0
_MOST_KIT_BYTES: Final = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and for whom."""
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="init: make keys and the recovery kit; check: read the kit back, which switches encryption on; "
        "list, add, remove: recipients; rotate: new keys and a new kit",
    )
    parser.add_argument("name", nargs="?", help="a recipient (add, remove)")
    parser.add_argument("public", nargs="?", help="its public key in base64, as its `refbackup key list` prints it (add)")
    parser.add_argument("--kit", metavar="FILE", help="the recovery kit: a new file (init, rotate), or the one to read (check)")
    parser.add_argument(
        "--no-host",
        action="store_true",
        help="this host is not a recipient, and reads only the chain that it continues (init)",
    )


def run(call: Call) -> Outcome:
    """Do what the action says; exit code 10 if a chain could not be sealed again because no key here opens it."""
    arguments = call.arguments
    path = call.repository_path()
    keyring = call.keyring(path)
    if keyring is None:
        raise UsageError(
            "There is no place for keys.",
            hint="Set BACKUP_ENCRYPTION_KEY to a file outside the repository; it need not exist. Nothing was changed.",
        )
    _refuse_unused(arguments)
    refuse_inside(keyring.file, path, MEMORY, SETTING)
    if arguments.action == "list":
        return _list(open_repository(path, call.keys(path), keyring), keyring)
    with open_repository(path, call.keys(path)).writing("key", call.ctx.now(), _LOCK_WAIT):
        keyring = read_keyring(keyring.file, path)  # as it is now that nobody else changes it
        return _change(call, open_repository(path, call.keys(path), keyring), keyring)


def _change(call: Call, repository: Repository, keyring: Keyring) -> Outcome:
    arguments = call.arguments
    match arguments.action:
        case "init":
            return _init(call, repository, keyring)
        case "check":
            return _check(call, repository, keyring)
        case "add":
            public = parse_public(arguments.public or "")
            if not arguments.name or public is None:
                raise UsageError("Give a name and a public key: 32 bytes in base64.", hint="Nothing was changed.")
            return _rewritten(add_recipient(repository, keyring, Recipient(arguments.name, public), call.ctx), "Added")
        case "remove":
            if not arguments.name:
                raise UsageError("Give the name of a recipient.", hint="Nothing was changed.")
            done = remove_recipient(repository, keyring, arguments.name, call.ctx)
            return _rewritten(done, "Removed", "The next backup of each set begins a new chain.")
        case _:
            return _rewritten(
                rotate(repository, keyring, _kit(arguments), call.ctx),
                "Made new keys",
                f"The next backup of each set begins a new chain. Print {arguments.kit}, then read it back: "
                f"refbackup key check --kit {arguments.kit}. Until then the old kit stays valid. Copies in other repositories "
                "keep their recipients: keep the old kit as long as you keep those. This host's old key stays beside the new.",
            )


def _refuse_unused(arguments: argparse.Namespace) -> None:
    takes = {"init": {"kit", "no_host"}, "check": {"kit"}, "rotate": {"kit"}, "add": {"name", "public"}, "remove": {"name"}}
    given = {name for name in ("name", "public", "kit", "no_host") if getattr(arguments, name)}
    if unused := given - takes.get(arguments.action, set()):
        raise UsageError(f"`refbackup key {arguments.action}` takes no {sorted(unused)[0].replace('_', '-')}.")


def _kit(arguments: argparse.Namespace) -> Path:
    if not arguments.kit:
        raise UsageError("Give --kit FILE, where the recovery kit is written.", hint="Nothing was changed.")
    return Path(arguments.kit)


def _init(call: Call, repository: Repository, keyring: Keyring) -> Outcome:
    kit = _kit(call.arguments)
    policy = switch_on(repository, keyring, kit, call.ctx, host=not call.arguments.no_host)
    names = [one.name for one in policy.recipients]
    text = (
        f"Wrote the recovery kit {kit}. Backups will be readable by {' and '.join(names)}, and nobody else.\n"
        "Nothing is encrypted yet. Print the kit and store it away from this machine and from the backups. Then read it back:\n"
        f"  refbackup key check --kit {kit}"
    )
    return Outcome({"kit": str(kit), "recipients": names, "active": False}, text)


def _check(call: Call, repository: Repository, keyring: Keyring) -> Outcome:
    text = _read(call.arguments.kit)
    switched = check_kit(repository, keyring, text, call.ctx)
    opened, closed = opened_by_kit(repository, text)
    lines = ["The recovery key is right."]
    if opened or closed:
        lines.append(f"It opens {opened} of {counted(opened + len(closed), 'chain')}.")
        lines += [f"It does not open {one}." for one in closed]
    if switched:
        lines.append("Encryption is on: the next backup of each set is a full one, and encrypted. Backups made before are not.")
    if call.arguments.kit:
        lines.append("Remove the kit from this machine if it is stored elsewhere.")
    answer = {"active": True, "switched_on": switched, "opened": opened, "not_opened": closed}
    return Outcome(answer, "\n".join(lines), KeyMissing.exit_code if closed else 0)


def _read(kit: str | None) -> str:
    """The text of the kit, or what is typed or piped in."""
    try:
        if kit is not None:
            with Path(kit).open(encoding="utf-8", errors="replace") as file:
                return file.read(_MOST_KIT_BYTES)
        if sys.stdin.isatty():
            return getpass.getpass("Recovery key: ")
        return sys.stdin.read(_MOST_KIT_BYTES)
    except OSError as problem:
        raise EngineError(f"The kit cannot be read: {problem}.", hint="Nothing was changed.") from problem


def _rewritten(result: Rewritten, what: str, then: str = "") -> Outcome:
    lines = [f"{what}. {counted(len(result.done), 'chain')} sealed again. {then}".rstrip()]
    lines += [f"NOT CHANGED {message}" for message in result.left.values()]
    answer = {"rewritten": list(result.done), "left": result.left}
    return Outcome(answer, "\n".join(lines), KeyMissing.exit_code if result.left else 0)


def _list(repository: Repository, keyring: Keyring) -> Outcome:
    policy = keyring.policy
    if policy is None:
        return Outcome({"active": False, "recipients": []}, "Backups are not encrypted. `refbackup key init` switches it on.")
    own = keyring.owners
    recipients: list[dict[str, Any]] = [{"name": one.name, "public": one.text, "here": one in own} for one in policy.recipients]
    state = "Backups are encrypted." if keyring.is_active else "Nothing is encrypted before the recovery kit is read back."
    lines = [f"{one['name']:<20} {one['public']}{'  (its key is here)' if one['here'] else ''}" for one in recipients]
    if RECOVERY not in {one.name for one in policy.recipients}:
        lines.append("There is no recovery key.")
    answer = {"active": keyring.is_active, "checked": policy.checked and policy.checked.isoformat(), "recipients": recipients}
    return Outcome(answer, "\n".join([state, *lines]))
