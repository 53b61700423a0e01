#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys


def main() -> None:
    """Run the management command named on the command line. What it makes is for this account alone: databases hold secrets."""
    os.umask(os.umask(0o077) | 0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refserver.settings")
    from django.core.management import execute_from_command_line

    from refserver.start import explained

    with explained(sys.argv[1] if len(sys.argv) > 1 else ""):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
