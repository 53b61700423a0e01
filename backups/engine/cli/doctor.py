"""``refbackup doctor``"""

import argparse
from pathlib import Path

from ..doctor import diagnose
from ..evidence.keys import lost_key
from .arguments import add_sources
from .call import Call, Outcome
from .text import program, runnable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sources to check."""
    add_sources(parser)


def run(call: Call) -> Outcome:
    """Diagnose; exit code 1 if there is a problem. Works without a repository."""
    path = call.arguments.repo or call.settings.repository
    keys = call.keys(Path(path)) if path else None
    keyring = call.keyring(Path(path)) if path else None
    diagnosis = diagnose(Path(path) if path else None, call.sources(), call.ctx, keys, keyring)
    if path and (lost := lost_key(Path(path), call.settings.signing_key)):
        diagnosis.add("problem", str(path), lost, "Put the key back. If it is lost, sign with a new one: refbackup adopt.")
    text = runnable(diagnosis.as_text(), program(), call.arguments.repo or "")
    return Outcome(diagnosis.as_json(), text, 0 if diagnosis.ok else 1)
