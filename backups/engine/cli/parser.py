"""The parser of ``refbackup``."""

import argparse
import difflib
import itertools
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ... import __version__
from ..errors import UsageError
from ..names import printable
from .arguments import add_common, given

COMMANDS = {
    "init": "Create a repository in a new or empty folder, or write a lost repository.json again.",
    "create": "Back up all sources at one instant, publish and verify the backup.",
    "list": "List backups, newest first.",
    "show": "Show the details of a backup.",
    "files": "List the files of a backup.",
    "hold": "Protect a backup from retention.",
    "release": "End a hold.",
    "delete": "Move backups that no other backup needs to the trash.",
    "verify": "Verify backups; exit code 5 if damage is found.",
    "drill": "Restore a backup into scratch, check and time it, and record the result.",
    "restore": "Restore a backup into a folder or in place.",
    "copy": "Copy backups to another repository, and read them back there.",
    "adopt": "Sign everything in a repository as it is.",
    "key": "Encrypt backups: make keys and the recovery kit, and choose who can read them.",
    "prune": "Remove backups that no retention rule keeps.",
    "doctor": "Check sources and repository, and give advice.",
}
"""Each command with its help. The module of that name in this package has its arguments and does the work."""


def unknown_option(parser: argparse.ArgumentParser, given: Sequence[str]) -> str:
    """What is wrong with the first of the words *given* that is no option of *parser*, without its full stop; "" if none is.

    A misspelt option would otherwise be reported as what it was to give, such as a missing ID.
    """
    if parser._subparsers is not None:  # the options of commands are not its own
        return ""
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    words = itertools.takewhile(lambda word: word != "--", given)
    unknown = next((word for word in (word.partition("=")[0] for word in words) if word[:2] == "--" and word not in names), "")
    if not unknown:
        return ""
    close = difflib.get_close_matches(unknown, names, 1)
    return f"there is no option {printable(unknown)}" + (f" (did you mean {close[0]}?)" if close else "")


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError`, so that wrong usage is reported as JSON too when ``--json`` is given."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{unknown_option(self, self._given) or message}.", hint=f"See `{self.prog} --help`.")


def build_parser(*only: str) -> argparse.ArgumentParser:
    """The parser of ``refbackup``. A command's default ``run`` takes a `Call` and returns an `Outcome`.

    With *only*, other commands are listed but get no arguments, and their modules are not imported.
    """
    return _build(only)[0]


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command, to be used as the parent of another parser."""
    return _build((command,))[1][command]


def _refuse_empty(parser: argparse.ArgumentParser) -> None:
    """Refuse an empty value of each argument whose default is not the empty text."""
    for action in parser._actions:
        if action.nargs != 0 and action.type is None and action.choices is None and action.default != "":
            action.type = given


def _build(only: tuple[str, ...]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="refbackup",
        allow_abbrev=False,
        description="Back up SQLite and ChromaDB at one instant, verify the backups, and restore them.",
    )
    parser.add_argument("--version", action="version", version=f"refbackup {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, argparse.ArgumentParser] = {
        name: subparsers.add_parser(name, help=text, description=text, allow_abbrev=False) for name, text in COMMANDS.items()
    }
    for name in COMMANDS:
        if not only or name in only:
            module = import_module(f".{name}", __package__)
            add_common(commands[name])
            module.add_arguments(commands[name])
            _refuse_empty(commands[name])
            commands[name].set_defaults(run=module.run)
    return parser, commands
