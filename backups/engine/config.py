"""Settings from the environment and ``.env``, checked at once: every problem is reported, with its name and the fix."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import find_dotenv

from .errors import UsageError
from .left_out import MOST_PATTERNS, wrong_pattern
from .names import NAME, ONE_LINE, printable
from .runtime.environment import Environment, UnknownSetting
from .types import LONGEST_NOTE, Depth, Source, SourceKind

SOURCE_SETTINGS = {
    SourceKind.SQLITE: "BACKUP_SQLITE",
    SourceKind.CHROMA: "BACKUP_CHROMA",
    SourceKind.FILES: "BACKUP_FILES",
}

EARLIER_NAMES = {
    SourceKind.SQLITE: "REFSERVER_DATABASE",
    SourceKind.CHROMA: "CHROMA_PATH",
    SourceKind.FILES: "REFSERVER_FILES",
}
"""What RefServer calls the settings of its sources, and everybody did before."""

ENGINE_SETTINGS = frozenset(
    {
        "BACKUP_REPOSITORY",
        "BACKUP_VERIFY_FULL",
        "BACKUP_VERIFY_INCREMENTAL",
        "BACKUP_TRASH_HOURS",
        "BACKUP_STOP_COMMAND",
        "BACKUP_START_COMMAND",
        "BACKUP_CHECK_COMMAND",
        "BACKUP_DRILL_COMMAND",
        "BACKUP_EXAMINE_COMMAND",
        "BACKUP_EXCLUDE",
        "BACKUP_REREAD_HOURS",
        "BACKUP_SIGNING_KEY",
        "BACKUP_TRUSTED_KEYS",
        "BACKUP_ENCRYPTION_KEY",
        "BACKUP_SHRINK_PERCENT",
        "BACKUP_SHRINK_LEAST",
        "BACKUP_MAY_SHRINK",
        "BACKUP_CHROMA_PYTHON",
        "BACKUP_LOG_FILE",
        "BACKUP_HEARTBEAT_URL",
        "BACKUP_HEARTBEAT_URL_FILE",
        *SOURCE_SETTINGS.values(),
        *EARLIER_NAMES.values(),
    }
)
"""Every name that `read_settings` reads."""

_PROJECT_SETTINGS = frozenset({"BACKUP_SECOND_REPOSITORY"})
"""Further names with the engine's prefix, which a Django project reads."""

REREAD_HOURS = 24.0
"""How long incrementals trust the times of files, if no setting says otherwise."""

_MOST_HOURS = 100_000
_PATHS = (
    "BACKUP_REPOSITORY",
    "BACKUP_SIGNING_KEY",
    "BACKUP_ENCRYPTION_KEY",
    "BACKUP_CHROMA_PYTHON",
    "BACKUP_LOG_FILE",
    "BACKUP_HEARTBEAT_URL_FILE",
    *SOURCE_SETTINGS.values(),
    *EARLIER_NAMES.values(),
)
_KEYS_BESIDE_FILE = {"BACKUP_SIGNING_KEY": "var/signing_key", "BACKUP_ENCRYPTION_KEY": "var/encryption_key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What may shrink unnoticed: up to ``percent`` of what a table, collection or folder held, or any part of one that held
    fewer than ``least`` rows, records or files, and the tables and collections whose ``SOURCE.NAME`` matches a pattern. The
    bytes of a folder may too, if it also held less than a mebibyte. Losing everything is always noticed."""

    percent: float = 50.0
    least: int = 100
    names: tuple[str, ...] = ("*.django_session", "*.django_q_*", "*.backups_idempotencykey", "*.backups_joblog")


DEFAULT_ALLOWANCE = Allowance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says; a command's arguments take precedence. ``unknown`` lists names that are not settings."""

    repository: Path | None
    sources: tuple[Source, ...]
    verify_full: Depth | None
    verify_incremental: Depth | None
    trash_hours: float
    stop_command: str
    start_command: str
    check_command: str
    drill_command: str
    examine_command: str
    exclude: tuple[str, ...]
    reread_hours: float
    allowance: Allowance
    chroma_python: Path | None = None
    log_file: Path | None = None
    heartbeat_url: str = ""
    signing_key: Path | None = None
    trusted_keys: tuple[str, ...] = ()
    encryption_key: Path | None = None
    unknown: tuple[UnknownSetting, ...] = ()


def environment() -> Environment:
    """The process's environment and the nearest ``.env`` at or above the working folder, whose paths start at its folder.

    An empty value in the file counts as not set. The keys are by default in ``var`` beside the file or, without
    a file, in ``var`` of the nearest folder at or above the working folder that has one of them there.
    """
    place = Path(find_dotenv(usecwd=True) or os.devnull)
    env = Environment.load(place, Path())
    values = {name: value for name, value in env.values.items() if value or name in os.environ}
    for name in _PATHS:
        if name in values and name not in os.environ:
            paths = values[name].split(os.pathsep)
            values[name] = os.pathsep.join(_beside(path, place.parent) for path in paths if path)
    home = place.parent if place.name == ".env" else _folder_with_keys(Path.cwd())
    if home is not None:
        values = {**{name: str(home / path) for name, path in _KEYS_BESIDE_FILE.items()}, **values}
    env.values = values
    return env


def _folder_with_keys(start: Path) -> Path | None:
    folders = (start, *start.parents)
    return next((one for one in folders if any((one / path).is_file() for path in _KEYS_BESIDE_FILE.values())), None)


def _beside(given: str, folder: Path) -> str:
    """``[NAME=]PATH`` with a relative path made to start at *folder*."""
    name, separator, path = given.partition("=")
    if not separator or "/" in name:
        return str(folder / given)
    return f"{name}={folder / path}"


def read_settings(env: Environment) -> Settings:
    """Read the settings; unknown names are in ``unknown``. Raises one `UsageError` that names all wrong values and those."""
    sources = tuple(source for kind in SOURCE_SETTINGS for source in _sources(env, kind))
    exclude = tuple(filter(None, env.text("BACKUP_EXCLUDE", "").split(os.pathsep)))
    try:
        check_patterns(exclude)
    except UsageError as problem:
        env.problem("BACKUP_EXCLUDE", problem.message.rstrip("."), "separate patterns by colons")
    may_shrink = env.text("BACKUP_MAY_SHRINK", os.pathsep.join(DEFAULT_ALLOWANCE.names))
    repository = env.text("BACKUP_REPOSITORY", "")
    settings = Settings(
        repository=_repository(env, repository) if repository else None,
        sources=sources,
        verify_full=_depth(env, "BACKUP_VERIFY_FULL", "restore"),
        verify_incremental=_depth(env, "BACKUP_VERIFY_INCREMENTAL", "hashes"),
        trash_hours=env.hours("BACKUP_TRASH_HOURS", 24.0, most=_MOST_HOURS),
        stop_command=env.command("BACKUP_STOP_COMMAND"),
        start_command=env.command("BACKUP_START_COMMAND"),
        check_command=env.command("BACKUP_CHECK_COMMAND"),
        drill_command=env.command("BACKUP_DRILL_COMMAND"),
        examine_command=env.command("BACKUP_EXAMINE_COMMAND"),
        exclude=exclude,
        reread_hours=env.hours("BACKUP_REREAD_HOURS", REREAD_HOURS, most=_MOST_HOURS),
        allowance=Allowance(
            percent=env.integer("BACKUP_SHRINK_PERCENT", int(DEFAULT_ALLOWANCE.percent), least=0, most=100),
            least=env.integer("BACKUP_SHRINK_LEAST", DEFAULT_ALLOWANCE.least, least=1, most=1_000_000_000),
            names=tuple(filter(None, may_shrink.split(os.pathsep))),
        ),
        chroma_python=Path(python).absolute() if (python := env.text("BACKUP_CHROMA_PYTHON", "")) else None,
        log_file=Path(log_file).absolute() if (log_file := env.text("BACKUP_LOG_FILE", "")) else None,
        heartbeat_url=_heartbeat(env),
        signing_key=Path(signing_key) if (signing_key := env.text("BACKUP_SIGNING_KEY", "")) else None,
        trusted_keys=tuple(filter(None, env.text("BACKUP_TRUSTED_KEYS", "").split(os.pathsep))),
        encryption_key=Path(key) if (key := env.text("BACKUP_ENCRYPTION_KEY", "")) else None,
        unknown=env.unknown(
            ENGINE_SETTINGS | _PROJECT_SETTINGS, prefixes=("BACKUP_", "REFBACKUP_"), resembling=("REFSERVER_", "CHROMA_")
        ),
    )
    env.check(settings.unknown)
    return settings


def _sources(env: Environment, kind: SourceKind) -> Iterator[Source]:
    name, earlier = SOURCE_SETTINGS[kind], EARLIER_NAMES[kind]
    given = env.text(name, "")
    if not given:
        name, given = earlier, env.text(earlier, "")
    elif env.text(earlier, given) != given:
        env.problem(name, f"{earlier}, its earlier name, is set too, to something else", "unset one of the two")
    for source in filter(None, given.split(os.pathsep)):
        try:
            yield parse_source(kind, source)
        except UsageError as problem:
            env.problem(name, problem.message.rstrip("."), "write [NAME=]PATH")


def _repository(env: Environment, given: str) -> Path | None:
    try:
        return check_path(given)
    except UsageError as problem:
        env.problem("BACKUP_REPOSITORY", problem.message.rstrip("."), problem.hint.split(".")[0])
        return None


def _heartbeat(env: Environment) -> str:
    address = env.secret("BACKUP_HEARTBEAT_URL")
    if not address:
        return ""
    from .runtime.heartbeat import check_heartbeat  # HTTP and TLS take a while to import
    from .runtime.outgoing import Refused

    try:
        return check_heartbeat(address)
    except Refused as problem:
        env.problem("BACKUP_HEARTBEAT_URL", str(problem).rstrip("."), "write the URL of the dead man's switch")
        return ""


def _depth(env: Environment, name: str, default: str) -> Depth | None:
    if not env.values.get(name, default).strip():
        env.problem(name, "it is empty", "write none, hashes or restore")
    given = env.text(name, default, choices={"none", *Depth})
    return None if given == "none" else Depth(given)


def parse_source(kind: SourceKind, given: str) -> Source:
    """A source from ``[NAME=]PATH``; the name is the file's stem where none is given. Raises `UsageError`."""
    name, separator, path = given.partition("=")
    if not separator or "/" in name:
        name, path = "", given
    if not path:
        raise UsageError(f"{given!r} names no path.")
    place = check_path(path)
    if not name:
        absolute = place.absolute()
        name = absolute.stem if kind is SourceKind.SQLITE else absolute.name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a source: letters, digits, dots, dashes and underscores, at most 64.",
            hint="Name it yourself: NAME=PATH.",
        )
    return Source(kind=kind, name=name, path=place)


def check_path(path: str) -> Path:
    """*path*, if a manifest can name it: the absolute path must be UTF-8. Raises `UsageError`."""
    place = Path(path)
    if printable(str(place.absolute())) != str(place.absolute()):
        raise UsageError(
            f"{printable(str(place.absolute()))} is not UTF-8.",
            hint="Rename the folder, or give the path of a symbolic link to it. Nothing was changed.",
        )
    return place


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """*patterns*, if files can be excluded by them. Raises `UsageError`."""
    for pattern in patterns:
        if wrong := wrong_pattern(pattern):
            raise UsageError(f"{printable(pattern)!r} cannot exclude files: {wrong}.")
    if len(patterns) > MOST_PATTERNS:
        raise UsageError(f"At most {MOST_PATTERNS} patterns can exclude files.")
    return tuple(patterns)


def check_note(note: str) -> str:
    """*note*, if a manifest can hold it. Raises `UsageError`."""
    if len(note) > LONGEST_NOTE or any("\ud800" <= letter <= "\udfff" for letter in note):
        raise UsageError(f"A note is text of at most {LONGEST_NOTE} characters.")
    if not re.fullmatch(ONE_LINE, note):
        raise UsageError("A note is one line, without control characters and marks of direction. Nothing was done.")
    return note


def check_set_name(name: str) -> str:
    """*name*, if it can name a set. Raises `UsageError`."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a set: letters, digits, dots, dashes and underscores, at most 64.")
    return name
