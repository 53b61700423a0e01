"""``refbackup init``"""

import argparse

from ..repository.folder import initialise
from .call import Call, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None besides the common ones."""


def run(call: Call) -> Outcome:
    """Create the repository."""
    repository = initialise(call.repository_path(), call.ctx.now())
    return Outcome({"repository": str(repository.folder)}, f"Created a repository in {repository.folder}.")
