"""``refbackup release``"""

import argparse

from .arguments import add_id
from .call import Call, Outcome
from .hold import set_hold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup."""
    add_id(parser)


def run(call: Call) -> Outcome:
    """Remove the hold."""
    return set_hold(call, None, "released")
