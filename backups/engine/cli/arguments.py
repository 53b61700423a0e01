"""Arguments that several commands take, and what they accept."""

import argparse
import math
import shlex


def given(value: str) -> str:
    """*value*, unless it is empty: then a script's variable was not set, and a default would be another repository or set."""
    if not value:
        raise argparse.ArgumentTypeError("it is empty")
    return value


def seconds(value: str) -> float:
    """A number of seconds, 0 or more."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a number of seconds")
    return number


def command(value: str) -> str:
    """A command that can be split into words."""
    try:
        shlex.split(value)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{value!r} cannot be split into words: {problem}") from None
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    parser.add_argument("--repo", metavar="REPO", help="folder of the repository (BACKUP_REPOSITORY)")
    parser.add_argument("--set", metavar="NAME", help="set of backups to work on (default: default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--quiet", action="store_true", help="print nothing when it succeeds, except warnings")
    parser.add_argument("--log-file", metavar="FILE", help="append what is done to this file (BACKUP_LOG_FILE)")
    parser.add_argument(
        "--progress", choices=("auto", "lines", "json", "none"), default="auto", help="form of progress on standard error"
    )


def add_id(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The backup to work on; required unless there is a *default*."""
    parser.add_argument(
        "id",
        metavar="ID",
        nargs=None if default is None else "?",
        default=default,
        help="id, unique prefix, latest, latest:full or @2026-11-20T10:00Z; SET/ID also names the set",
    )


def add_heartbeat(parser: argparse.ArgumentParser, setting: str = "") -> None:
    """The dead man's switch."""
    parser.add_argument(
        "--heartbeat",
        type=_heartbeat,
        metavar="URL",
        help=f"dead man's switch to call at the end, after a failure with /fail{f' ({setting})' if setting else ''}",
    )


def _heartbeat(value: str) -> str:
    from ..runtime.heartbeat import check_heartbeat  # HTTP and TLS take a while to import
    from ..runtime.outgoing import Refused

    try:
        return check_heartbeat(value)
    except Refused as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def add_examine(parser: argparse.ArgumentParser) -> None:
    """The application's report on its restored stores."""
    parser.add_argument(
        "--examine",
        type=command,
        metavar="CMD",
        default="",
        help="application's check of the restored stores; its JSON is kept in the proof (BACKUP_EXAMINE_COMMAND)",
    )


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The stores to work on."""
    for kind, what, setting in (
        ("sqlite", "FILE", "BACKUP_SQLITE"),
        ("chroma", "DIR", "BACKUP_CHROMA"),
        ("files", "DIR", "BACKUP_FILES"),
    ):
        parser.add_argument(f"--{kind}", action="append", metavar=f"[NAME=]{what}", help=f"source ({setting})")
