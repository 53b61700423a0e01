"""System checks of the declaration, each with an id and a hint.

============= ==================================================================
consistency.  what
============= ==================================================================
E001          the setting, or what it names, cannot be used
E002          no such model
E003          a model that is not stored in SQLite
E004          no such field
E005          a field of the wrong type
E006          two mirrors with the same name
E007          two mirrors of the same collection
E008          an id that is the same for every row, or cannot be parsed
W001          no writer is declared, so nothing can be repaired
W002          rows may share an id: no unique constraint
============= ==================================================================
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db.models import UniqueConstraint
from django.utils.module_loading import import_string

from consistency.declaration import DEFAULTS, SETTING, Declaration, Mirror, declared
from consistency.engine.errors import Mistake
from consistency.resolution import describe


@register("consistency")
def check_declaration(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The problems of the setting and of the declaration that it names."""
    given = getattr(settings, SETTING, None)
    if given is None:
        return []
    if setting_problems := list(_of_setting(given)):
        return setting_problems
    try:
        declaration = declared()
    except Mistake as problem:
        return [_error("E001", problem.message, problem.hint)]
    _, problems = describe(declaration)
    errors = [_error(problem.code, problem.message, problem.hint) for problem in problems]
    return [*errors, *_warnings(declaration, broken=bool(problems))]


def _error(code: str, message: str, hint: str) -> CheckMessage:
    return Error(message, hint=hint, id=f"consistency.{code}")


def _of_setting(given: Any) -> Iterator[CheckMessage]:
    if not isinstance(given, dict):
        yield _error("E001", f"{SETTING} is not a dictionary.", f"Its members are {', '.join(DEFAULTS)}.")
        return
    for key in sorted(given.keys() - DEFAULTS.keys()):
        yield _error("E001", f"{SETTING} has an unknown member {key!r}.", f"Its members are {', '.join(DEFAULTS)}.")
    for key in ("BEFORE_REPAIR", "BACKUPS", "FRAME"):
        if path := given.get(key):
            try:
                import_string(path)
            except (ImportError, TypeError, AttributeError) as problem:
                yield _error("E001", f"{SETTING}[{key!r}], {path!r}, cannot be imported: {problem}.", "Use a dotted path.")
    for key, least in (("SETTLE_SECONDS", 0), ("LISTED", 1)):
        value = given.get(key, DEFAULTS[key])
        if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
            yield _error("E001", f"{SETTING}[{key!r}] is {value!r}.", f"Use a number of at least {least}.")


def _warnings(declaration: Declaration, *, broken: bool) -> Iterator[CheckMessage]:
    if declaration.writer is None:
        yield Warning(
            "Findings cannot be repaired: no writer is declared.",
            hint="Add a writer to the Declaration that opens Chroma as the project does.",
            id="consistency.W001",
        )
    for mirror in () if broken else declaration.mirrors:
        if not _is_unique(mirror):
            yield Warning(
                f"The mirror {mirror.name!r}: rows may share an id, because the fields in {mirror.id!r} are not unique.",
                hint="Add a unique constraint on them, or use the primary key as the id.",
                id="consistency.W002",
            )


def _is_unique(mirror: Mirror) -> bool:
    options = apps.get_model(mirror.model)._meta
    fields = {
        one.name for one in options.concrete_fields if f"{{{one.name}}}" in mirror.id or f"{{{one.attname}}}" in mirror.id
    }
    if "{pk}" in mirror.id and options.pk is not None:
        fields.add(options.pk.name)
    sets = [{one.name} for one in options.concrete_fields if one.unique]
    sets += [set(names) for names in options.unique_together]
    sets += [set(one.fields) for one in options.constraints if isinstance(one, UniqueConstraint) and one.condition is None]
    return any(names and names <= fields for names in sets)
