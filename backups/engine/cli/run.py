"""Runs a command: errors become messages and exit codes, signals cancel."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import progress
from ..config import Settings, environment, read_settings
from ..encryption.keyring import MEMORY
from ..errors import EngineError, UsageError, from_os_error
from ..evidence.keys import memory_folder
from ..runtime import secret_file
from ..runtime.context import Context, cancel_on_signals
from ..runtime.ownership import give_to_owner
from ..unfinished import unfinished_exchange
from .call import Call, Outcome
from .parser import build_parser
from .reporting import Reporting
from .text import program, runnable, shown

_REPORT_UNFINISHED = frozenset({"create", "doctor", "restore"})
"""Commands that say themselves that a restore was interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``refbackup`` and return its exit code; 2 for wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    try:
        arguments = build_parser(next((word for word in argv if not word.startswith("-")), "none")).parse_args(argv)
    except UsageError as problem:
        return fail(problem, "--json" in argv)
    try:
        outcome = perform(arguments, read_settings(environment()))
    except EngineError as problem:
        return fail(problem, arguments.json, repository=getattr(arguments, "repo", None) or "")
    except OSError as problem:
        return fail(from_os_error(problem, arguments.command), arguments.json)
    return answer(outcome, arguments.json, arguments.quiet)


def perform(arguments: argparse.Namespace, settings: Settings) -> Outcome:
    """Run the command of the parsed *arguments*, with progress on standard error. Raises `EngineError`.

    SIGINT and SIGTERM cancel it. Unknown settings, and an interrupted restore of the sources, are reported there too. The log
    file gets what is done, the dead man's switch the result.
    """
    command = getattr(arguments, "command", None) or "refbackup"
    file = getattr(arguments, "log_file", None)
    heartbeat = getattr(arguments, "heartbeat", None) or (settings.heartbeat_url if command == "create" else "")
    reporting = Reporting(command, Path(file).absolute() if file else settings.log_file, heartbeat)
    reporting.line("begins")
    try:
        outcome = _perform(arguments, settings, reporting)
    except EngineError as problem:
        reporting.end(f"{problem.message}\n{problem.hint}", problem.exit_code)
        raise
    reporting.end(outcome.text, outcome.exit_code)
    return outcome


def _perform(arguments: argparse.Namespace, settings: Settings, reporting: Reporting) -> Outcome:
    for unknown in settings.unknown:
        reporting.warn(f"{unknown.message} {unknown.hint}")
    quiet = arguments.progress == "auto" and getattr(arguments, "quiet", False)
    silent = quiet or getattr(arguments, "command", "") == "list"
    show_event, show_log, close = progress.chosen("none" if silent else arguments.progress)

    def log(line: str) -> None:
        show_log(line)
        reporting.line(line)

    try:
        with cancel_on_signals() as cancelled:
            call = Call(
                arguments,
                settings,
                Context(on_progress=show_event, on_log=log, should_cancel=cancelled, chroma_python=settings.chroma_python),
                reporting,
            )
            if getattr(arguments, "command", "") not in _REPORT_UNFINISHED and (left := unfinished_exchange(call.sources())):
                error = left.as_error("")
                reporting.warn(f"{error.message} {error.hint}")
            outcome: Outcome = arguments.run(call)
            if call.skipped:
                skipped = [{"id": one, "problem": problem.model_dump(mode="json")} for one, problem in call.skipped]
                outcome = replace(outcome, json={**outcome.json, "skipped": skipped})
    except OSError as problem:
        raise from_os_error(problem, getattr(arguments, "command", "") or "Running the command") from problem
    finally:
        close()
        if place := getattr(arguments, "repo", None) or settings.repository:
            give_to_owner(Path(place))
        if key := settings.signing_key:
            give_to_owner(key)
            give_to_owner(memory_folder(key))
        if key := settings.encryption_key:
            for path in (key, *(secret_file.memory_folder(key, kind) for kind in MEMORY)):
                give_to_owner(path)
    return outcome


def answer(outcome: Outcome, as_json: bool, quiet: bool = False) -> int:
    """Print the outcome of a command, with *quiet* only that of a failure, and return its exit code."""
    if quiet and outcome.exit_code == 0:
        return 0
    sys.stdout.write((json.dumps(outcome.json) if as_json else shown(outcome.text)) + "\n")
    return outcome.exit_code


def fail(problem: EngineError, as_json: bool, command: str = "refbackup", repository: str = "") -> int:
    """Print an error of *command* with its hint and return its exit code.

    Commands in the hint are printed as they can be typed here: with the path of ``refbackup``, and with *repository*.
    """
    if as_json:
        sys.stdout.write(json.dumps({"error": problem.as_json()}) + "\n")
    sys.stderr.write(shown(f"{command}: {problem.message}\n  -> {runnable(problem.hint, program(), repository)}\n"))
    return problem.exit_code
