"""``refbackup init``"""

import argparse

from ..repository.folder import initialise
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None besides the common ones."""


def run(call: Call) -> Outcome:
    """Create the repository, and where the settings name a signing key that is missing, the key."""
    path = call.repository_path()
    keys = call.keys(path, make=True)
    repository = initialise(path, call.ctx.now(), keys)
    text = f"Created a repository in {repository.folder}."
    if keys is not None and keys.private is not None:
        text += f"\nWhat is made there is signed with {keys.file}. Keep a copy of that file in a safe place."
    return Outcome({"repository": str(repository.folder)}, text)
