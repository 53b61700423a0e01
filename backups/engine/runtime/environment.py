"""The reader for settings that are text: from the process's environment and from ``.env`` files.

A value that does not fit is noted, its default is used, and reading goes on, so that `check` reports every problem at once,
each with the setting's name, where the value came from, and the fix::

    env = Environment.load(root / ".env", root)
    PORT = env.integer("REFSERVER_PORT", 8000, least=1, most=65535)
    env.check()

The process's environment takes precedence over files. An empty value counts as not set, except for `names`, where it is an
empty list. pydantic-settings would do most of this, but importing it adds half to the start of every engine process (measured:
0.21 s on top of 0.44 s).
"""

from __future__ import annotations

import difflib
import math
import os
import re
import secrets
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from ..errors import UsageError
from . import durable

PROCESS = "the environment"
"""The origin of values from this process's environment."""

PREFIXES = ("BACKUP_", "REFBACKUP_", "REFSERVER_")
"""Names that begin so are settings; others that do are unknown."""

_PASSED_TO_CHILDREN = frozenset({"REFBACKUP_FAULT", "REFBACKUP_RESTORED"})
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_SHORTEST_SECRET = 32
_SEPARATORS = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """A name that looks like a setting and is none: a warning, because a stray name must not stop a restore."""

    message: str
    hint: str


class Environment:
    """Strict readers over the text values in *values*; relative paths start at *root*.

    *origins* says which file each value came from; others came from the process's environment.
    """

    def __init__(self, values: Mapping[str, str], root: Path, *, origins: Mapping[str, str] | None = None) -> None:
        self.values = values
        self._root = root
        self._origins = origins or {}
        self.problems: list[str] = []
        self.asked: set[str] = set()
        """Every setting that was read, `*_FILE` variants included."""

    @classmethod
    def load(cls, file: Path, root: Path, *, over_file: Mapping[str, str] | None = None) -> Environment:
        """Read *file*, if it exists, and the process's environment; *over_file* takes precedence over the file only."""
        try:
            values, unreadable = {name: value for name, value in dotenv_values(file).items() if value is not None}, ""
        except (OSError, UnicodeDecodeError) as error:
            values, unreadable = {}, str(error)
        origins = dict.fromkeys(values, str(file)) | dict.fromkeys(over_file or (), "") | dict.fromkeys(os.environ, PROCESS)
        env = cls({**values, **(over_file or {}), **os.environ}, root, origins=origins)
        if unreadable:
            env.problem(str(file), f"it cannot be read ({unreadable})", "make it a text file in UTF-8 that this user can read")
        return env

    @classmethod
    def load_project(cls, root: Path, *, over_file: Mapping[str, str] | None = None) -> Environment:
        """`load` of ``.env`` in *root*, or of the file in ``REFSERVER_ENV_FILE``."""
        named = os.environ.get("REFSERVER_ENV_FILE", "").strip()
        file = root / (named or ".env")
        env = cls.load(file, root, over_file=over_file)
        env.asked.add("REFSERVER_ENV_FILE")
        if named and not file.exists():
            env.problem("REFSERVER_ENV_FILE", f"{file} does not exist", "name a file that exists, or unset it")
        return env

    def problem(self, name: str, what: str, fix: str) -> None:
        """Note a problem with the setting *name*: *what* is wrong, and the *fix*."""
        origin = self._origins.get(name)
        self.problems.append(f"{name}: {what}{f' (in {origin})' if origin else ''}; {fix}.")

    def unknown(
        self, known: Iterable[str] = (), prefixes: tuple[str, ...] = PREFIXES, resembling: tuple[str, ...] = ()
    ) -> tuple[UnknownSetting, ...]:
        """The settings with these prefixes that were not read and are not *known*.

        In the process's environment, and with the prefixes *resembling*, only names that resemble a known one count: other
        programs may use the prefixes too.
        """
        known = {*self.asked, *known}
        found = []
        for name in sorted(self.values.keys() - known - _PASSED_TO_CHILDREN):
            similar, origin = closest(name, known), self._origins.get(name)
            ours = name.startswith(prefixes) and origin != PROCESS
            if ours or (similar and name.startswith((*prefixes, *resembling))):
                message = f"There is no setting {name}{f' (in {origin})' if origin else ''}."
                found.append(UnknownSetting(message, f"Did you mean {similar}?" if similar else "Remove it."))
        return tuple(found)

    def check(self, unknown: Iterable[UnknownSetting] = ()) -> None:
        """Raise one `UsageError` that names every problem noted so far; if there are any, *unknown* names too."""
        if self.problems:
            listed = [*self.problems, *(f"{item.message} {item.hint}" for item in unknown)]
            lines = "\n".join(f"  - {problem}" for problem in listed)
            raise UsageError(f"Invalid settings:\n{lines}", hint="Correct them in the environment or in .env.")

    def text(self, name: str, default: str, *, choices: Collection[str] = ()) -> str:
        """The text of a setting; with *choices*, one of them."""
        value = self._get(name)
        if value is None:
            return default
        if choices and value not in choices:
            self.problem(name, f"{value!r} is not known", f"use one of {', '.join(sorted(choices))}")
            return default
        return value

    def command(self, name: str) -> str:
        """A command, as `shlex.split` can split it into words."""
        value = self._get(name) or ""
        try:
            shlex.split(value)
        except ValueError as error:
            self.problem(name, f"{value!r} cannot be split into words ({error})", "quote it as for a shell")
            return ""
        return value

    def integer(self, name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
        """A whole number from *least* to *most*, both included."""
        value = self._get(name)
        if value is None:
            return default
        try:
            number = int(value)
        except ValueError:
            self.problem(name, f"{value!r} is not a whole number", f"write one, such as {default}")
            return default
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = " and ".join([f"at least {least}"] * (least is not None) + [f"at most {most}"] * (most is not None))
            self.problem(name, f"{number} is out of range", f"use {bounds}")
            return default
        return number

    def hours(self, name: str, default: float, *, most: float) -> float:
        """A number of hours from 0 to *most*. An empty value is a problem here."""
        self.asked.add(name)
        value = self.values.get(name)
        try:
            hours = default if value is None else float(value)
        except ValueError:
            hours = math.nan
        if not 0 <= hours <= most:
            self.problem(name, f"{value!r} is not a number of hours from 0 to {most:,g}", f"write one, such as {default:g}")
            return default
        return hours

    def flag(self, name: str, default: bool) -> bool:
        """Whether a setting says yes (1, true, yes, on)."""
        value = self._get(name)
        if value is None:
            return default
        if value.lower() in _YES | _NO:
            return value.lower() in _YES
        self.problem(name, f"{value!r} is neither yes nor no", "write yes or no")
        return default

    def path(self, name: str, default: str) -> Path:
        """An absolute path; a relative one starts at the root."""
        return self._absolute(self._get(name) or default)

    def folder(self, name: str, default: str) -> Path:
        """The path of a folder, which is created."""
        path = self.path(name, default)
        self._make(name, path)
        return path

    def file(self, name: str, default: str) -> Path:
        """The path of a file to be written; its folder is created."""
        path = self.path(name, default)
        self._make(name, path.parent)
        return path

    def names(self, name: str, default: str) -> list[str]:
        self.asked.add(name)
        value = self.values.get(name, default)
        return [member for member in _SEPARATORS.split(value) if member]

    def secret(self, name: str, default: str = "") -> str:
        """A secret from *name*, or from the file in *name*_FILE, without surrounding space."""
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
        """A secret of 32 characters or more: the one set, or the one in the file *keep_in*, which is created when missing.

        Only its owner can read the file. When two processes create it at once, both use the same secret.
        """
        given = self.secret(name)
        if given:
            if len(given) < _SHORTEST_SECRET:
                fix = f"use {_SHORTEST_SECRET} or more, or unset it to have one created in {keep_in}"
                self.problem(name, f"it has only {len(given)} characters", fix)
            return given
        try:
            return _kept_secret(keep_in)
        except (OSError, UnicodeDecodeError) as error:
            self.problem(name, f"{keep_in} cannot be created or read ({error})", f"set {name}, or make it readable")
            return secrets.token_urlsafe(48)

    def _get(self, name: str) -> str | None:
        self.asked.add(name)
        return self.values.get(name, "").strip() or None

    def _make(self, name: str, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.problem(name, f"the folder {folder} cannot be created ({error.strerror})", "name another folder")

    def _absolute(self, path: str) -> Path:
        return (self._root / Path(path).expanduser()).resolve()


def _kept_secret(file: Path) -> str:
    """The secret in *file*, which is created with mode 0600 when missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        durable.create_file(file, secrets.token_urlsafe(48).encode())
    kept = file.read_text(encoding="utf-8").strip()
    if len(kept) < _SHORTEST_SECRET:
        raise OSError(f"it has only {len(kept)} characters; remove it to have a new one created")
    return kept


def closest(name: str, known: Iterable[str]) -> str:
    """The one of *known* that *name* is most likely a misspelling of; "" when none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)), "")
