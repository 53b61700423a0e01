"""The command ``refbackup``.

Where to look:

============== ==========================================================================================
module         contents
============== ==========================================================================================
one a command  ``create``, ``verify``, ``restore``, ...: its arguments, what it calls, and what it prints
``run``        ``main``: parses, runs a command, and turns errors and signals into messages and exit codes
``parser``     the list of commands; imports the module of the command that was given, and no other
``call``       what a command gets (`Call`) and returns (`Outcome`)
``arguments``  arguments that several commands take
``reporting``  the log file and the dead man's switch of a run
``text``       what several commands print
============== ==========================================================================================

A command's module has ``add_arguments(parser)`` and ``run(call)``. Users read ``docs/reference/cli.md``.
"""

from .parser import build_parser, parser_of
from .run import answer, fail, main, perform

__all__ = ["answer", "build_parser", "fail", "main", "parser_of", "perform"]
