"""What a job type is: its arguments, its command, and what happens before and after the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from backups.engine.errors import UsageError
from backups.identity.audit import Actor

from .arguments import Arguments

A = TypeVar("A", bound=Arguments)


@dataclass(slots=True, kw_only=True)
class Work:
    """One execution of a job type's command, by a job or by a management command, as the type's hooks see it.

    ``key`` is the job's id; it is empty for a management command, which no other process completes. ``target`` is the audit's
    name for the execution.
    ``result`` is the command's answer, which `complete` may extend. ``warn`` reports what a hook could not do. ``before`` is
    for `prepare` to leave something to `complete`; it is None when another process called `prepare`.
    """

    key: str
    target: str
    actor: Actor
    backup_id: str
    only: str
    warn: Callable[[str], None]
    result: dict[str, Any] | None = None
    before: Any = None


def _never(arguments: Mapping[str, Any]) -> bool:
    return False


def always(arguments: Mapping[str, Any]) -> bool:
    """For `JobType.dangerous`: with any arguments."""
    return True


def _nothing(work: Work) -> None:
    """Do nothing: most types need no hook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType(Generic[A]):
    """A type of job.

    ``command`` returns the argument list of the process that does the work. That process writes JSON lines of progress and log
    to standard error (``engine.progress.json_lines``), one JSON object to standard output, and exits with a code of
    ``docs/reference/cli.md``.

    - ``writes``: at most one such job runs on a repository at a time.
    - ``killable``: it may be killed when it does not end after a request to cancel.
    - ``limit``: seconds after which it is stopped.
    - ``planned``: plans may have this type.
    - ``ready``: whether the project has what it needs. A default plan is made once it is.
    - ``dangerous``: whether a job with these arguments deletes or changes existing data, so that a session must be confirmed
      before one is queued (`identity.step_up`).
    - ``prepare`` and ``complete``: called before the command starts and before its end is recorded (`completion`). ``complete``
      is also called when the worker died, and must tolerate being called twice. Both may raise ``DatabaseError`` or
      ``OSError``.
    - ``sentence`` and ``template`` present its result; the template gets the result as ``found``.
    """

    name: str
    title: str
    arguments: type[A]
    command: Callable[[A, str], list[str]]
    writes: bool = False
    killable: bool = True
    attempts: int = 1
    limit: int = 24 * 3600
    permission: str = "backups.create_backup"
    planned: bool = True
    ready: Callable[[], bool] = lambda: True
    dangerous: Callable[[Mapping[str, Any]], bool] = _never
    prepare: Callable[[Work], None] = _nothing
    complete: Callable[[Work], None] = _nothing
    sentence: Callable[[dict[str, Any]], str] | None = None
    template: str = ""

    def parse(self, values: dict[str, Any]) -> A:
        """The arguments in *values*. Raises one `UsageError` that names every problem."""
        if contains_nul(values):
            raise UsageError(f"{self.title}: arguments must not contain NUL characters.", hint="Nothing was queued.")
        try:
            return self.arguments.model_validate(values)
        except ValidationError as problem:
            lines = [f"{'.'.join(map(str, error['loc'])) or 'arguments'}: {error['msg']}" for error in problem.errors()]
            raise UsageError(
                f"{self.title}: " + "; ".join(lines) + ".", hint="Nothing was queued. Correct the arguments and try again."
            ) from None


def contains_nul(value: Any) -> bool:
    """Whether a string in *value* contains NUL: it would end a process's argument, and PostgreSQL refuses it in JSON."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(contains_nul, (*value, *value.values())))
    return isinstance(value, list | tuple) and any(map(contains_nul, value))
