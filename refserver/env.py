"""Readers for settings that come from the environment or from `.env`.

An `Environment` is asked for one setting after another. A value that does not fit is noted, its default is
used, and the reading goes on, so that `check` can report every problem together, each with the setting's name
and the fix::

    env = Environment.load(root)
    PORT = env.integer("REFSERVER_PORT", 8000, least=1, most=65535)
    env.check()

The process's environment wins over `.env`. An empty value counts as not set, except for `names`, where it
means an empty list.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values

from backups.engine.runtime import durable

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_SHORTEST_SECRET = 32
_SEPARATORS = re.compile(r"[,\s]+")


class Environment:
    """Strict readers over the text values in *values*; relative paths are taken from *root*."""

    def __init__(self, values: Mapping[str, str], root: Path) -> None:
        self._values = values
        self._root = root
        self.problems: list[str] = []
        self.asked: set[str] = set()
        """The name of every setting that was asked for, `*_FILE` variants included."""

    @classmethod
    def load(cls, root: Path) -> Environment:
        """Read `.env` in *root* (or the file that `REFSERVER_ENV_FILE` names)

        under the process's environment.
        """
        named = os.environ.get("REFSERVER_ENV_FILE", "").strip()
        file = root / (named or ".env")
        from_file = {name: value for name, value in dotenv_values(file).items() if value is not None}
        env = cls({**from_file, **os.environ}, root)
        env.asked.add("REFSERVER_ENV_FILE")
        if named and not file.exists():
            env.problem("REFSERVER_ENV_FILE", f"{file} is not there", "name a file that exists, or unset it")
        return env

    def problem(self, name: str, what: str, fix: str) -> None:
        """Note that the setting *name* is wrong: *what* is the case, and *fix* is what to do."""
        self.problems.append(f"{name}: {what}; {fix}.")

    def check(self) -> None:
        """Raise `ImproperlyConfigured` naming every problem noted so far."""
        if self.problems:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            raise ImproperlyConfigured(f"These settings, from the environment or .env, are wrong:\n{lines}")

    def text(self, name: str, default: str, *, choices: Collection[str] = ()) -> str:
        """Return a text, one of *choices* where these are given."""
        value = self._get(name)
        if value is None:
            return default
        if choices and value not in choices:
            self.problem(name, f"{value!r} is not known", f"use one of {', '.join(sorted(choices))}")
            return default
        return value

    def integer(self, name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
        """Return a whole number between *least* and *most*, both included."""
        value = self._get(name)
        if value is None:
            return default
        try:
            number = int(value)
        except ValueError:
            self.problem(name, f"{value!r} is no whole number", f"write one, such as {default}")
            return default
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = " and ".join([f"at least {least}"] * (least is not None) + [f"at most {most}"] * (most is not None))
            self.problem(name, f"{number} is out of range", f"use {bounds}")
            return default
        return number

    def flag(self, name: str, default: bool) -> bool:
        """Return yes or no."""
        value = self._get(name)
        if value is None:
            return default
        if value.lower() in _YES | _NO:
            return value.lower() in _YES
        self.problem(name, f"{value!r} is neither yes nor no", "write yes or no")
        return default

    def path(self, name: str, default: str) -> Path:
        """Return an absolute path; a relative one is taken from the project's root."""
        return self._absolute(self._get(name) or default)

    def folder(self, name: str, default: str) -> Path:
        """Return the path of a folder; it is made."""
        path = self.path(name, default)
        self._make(name, path)
        return path

    def file(self, name: str, default: str) -> Path:
        """Return the path of a file that is going to be written; its folder is made."""
        path = self.path(name, default)
        self._make(name, path.parent)
        return path

    def names(self, name: str, default: str) -> list[str]:
        """Return a list; its members are separated by commas or spaces."""
        self.asked.add(name)
        value = self._values.get(name, default)
        return [member for member in _SEPARATORS.split(value) if member]

    def secret(self, name: str, default: str = "") -> str:
        """Return a secret from *name*, or from the file that *name*_FILE names, stripped of space."""
        value, file = self._get(name), self._get(f"{name}_FILE")
        if value is not None and file is not None:
            self.problem(name, f"both it and {name}_FILE are set", "unset one of the two")
        if file is None:
            return value or default
        try:
            return self._absolute(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.problem(f"{name}_FILE", f"{file} cannot be read ({error})", "name a readable text file")
            return default

    def lasting_secret(self, name: str, keep_in: Path) -> str:
        """Return a secret of 32 characters or more: the one set, or the one in *keep_in*, made when missing.

        The file is readable by its owner only. Two processes that need it at once agree on one: the loser of
        the race to create the file reads the winner's.
        """
        given = self.secret(name)
        if given:
            if len(given) < _SHORTEST_SECRET:
                fix = f"use {_SHORTEST_SECRET} or more, or unset it and one is made in {keep_in}"
                self.problem(name, f"it has {len(given)} characters only", fix)
            return given
        try:
            return _kept_secret(keep_in)
        except (OSError, UnicodeDecodeError) as error:
            self.problem(name, f"{keep_in} cannot be made or read ({error})", f"set {name}, or make it readable")
            return secrets.token_urlsafe(48)

    def _get(self, name: str) -> str | None:
        self.asked.add(name)
        return self._values.get(name, "").strip() or None

    def _make(self, name: str, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.problem(name, f"the folder {folder} cannot be made ({error.strerror})", "name another place")

    def _absolute(self, path: str) -> Path:
        return (self._root / Path(path).expanduser()).resolve()


def _kept_secret(file: Path) -> str:
    """Return the secret in *file*, made with mode 0600 where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        durable.create_file(file, secrets.token_urlsafe(48).encode())
    kept = file.read_text(encoding="utf-8").strip()
    if len(kept) < _SHORTEST_SECRET:
        raise OSError(f"it holds {len(kept)} characters only; remove it, and a new one is made")
    return kept
