"""Checks the stores of a restored backup, without Django and without a database beside the backup's own.

`consistency.resolution.description` makes a JSON description of the project's mappings where Django runs; a backup keeps it::

    answer = probe(description, sqlite={"refserver": path}, chroma={"chroma": path}, instant="2026-11-21T03:00:00+00:00")

``python -m consistency.probe REQUEST.json`` does the same with the arguments in a file (``-`` for standard input), prints the
answer as one JSON object, and exits with 0 (consistent), 5 (findings), 1 (failed), 2 (wrong request) or 9 (cancelled by
SIGINT or SIGTERM). Run it in a process of its own: the files may be damaged.

``python -m consistency.probe --copy FOLDER INSTANT DESCRIPTION`` finds the stores of a restored backup itself, and lists the
first ten findings of each kind.

The answer is that of `Outcome.as_json` with ``"listed"``: the first *limit* findings of each kind as plain data. Counts are
exact in any case. A failure is ``{"error": {"code", "message", "hint"}}``.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from backups.engine.runtime.context import cancel_on_signals
from consistency.engine.check import check
from consistency.engine.context import Context
from consistency.engine.errors import ConsistencyError, Mistake
from consistency.engine.findings import Finding, State
from consistency.engine.mapping import Description
from consistency.engine.stores import Stores

LIMIT = 100
_LIMIT_OF_COPY = 10  # of each kind: a proof is kept as long as its backup


def probe(
    description: dict[str, Any],
    *,
    sqlite: Mapping[str, str | Path],
    chroma: Mapping[str, str | Path],
    instant: str | None = None,
    limit: int = LIMIT,
    check_cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Check a copy without writers. *instant* is the moment that the copy is of, in ISO 8601.

    Mappings whose stores are not given are skipped and named under ``"left_out"``: a backup may hold only one of the stores.
    Raises `ConsistencyError`.
    """
    described = Description.from_json(description)
    present = tuple(one for one in described.mappings if one.sqlite in sqlite and one.chroma in chroma)
    listed: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()

    def keep(item: Finding) -> None:
        kinds[item.kind] += 1
        if kinds[item.kind] <= limit:
            listed.append(item.as_json())

    stores = Stores(
        sqlite={name: Path(path) for name, path in sqlite.items()},
        chroma={name: Path(path) for name, path in chroma.items()},
        at_rest=True,
        instant=datetime.fromisoformat(instant) if instant else None,
    )
    outcome = check(Description(mappings=present), stores, Context(should_cancel=check_cancelled), keep)
    left_out = [one.name for one in described.mappings if one not in present]
    return outcome.as_json() | {"listed": listed, "left_out": left_out}


def main(arguments: list[str]) -> int:
    """Answer one request, and return the exit code."""
    try:
        with cancel_on_signals() as cancelled:
            answer = probe(**_request(arguments), check_cancelled=cancelled)
    except ConsistencyError as problem:
        print(json.dumps({"error": problem.as_json()}))  # noqa: T201 - it is the answer
        return problem.exit_code
    print(json.dumps(answer))  # noqa: T201
    return 0 if answer["state"] == State.CONSISTENT else 5


def _request(arguments: list[str]) -> dict[str, Any]:
    members = {"description", "sqlite", "chroma", "instant", "limit"}
    if arguments[:1] == ["--copy"]:
        return _of_copy(arguments[1:])
    try:
        (path,) = arguments
        request = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise Mistake(f"The request cannot be read: {problem}.", hint="Give one file with a JSON object.") from None
    if not isinstance(request, dict) or not {"description", "sqlite", "chroma"} <= request.keys() <= members:
        raise Mistake(f"A request consists of {', '.join(sorted(members))}.", hint="See the docstring of consistency.probe.")
    return request


def _of_copy(arguments: list[str]) -> dict[str, Any]:
    """The request for a restored folder, ``FOLDER INSTANT DESCRIPTION``: databases are in ``sqlite``, stores in ``chroma``."""
    try:
        folder, instant, text = arguments
        mappings = json.loads(text)
        datetime.fromisoformat(instant)
        databases = {path.stem: path for path in (Path(folder) / "sqlite").glob("*") if path.is_file()}
        directories = {path.name: path for path in (Path(folder) / "chroma").glob("*") if path.is_dir()}
    except (ValueError, OSError) as problem:
        raise Mistake(f"The request cannot be read: {problem}.", hint="Use --copy FOLDER INSTANT DESCRIPTION.") from None
    return {"description": mappings, "sqlite": databases, "chroma": directories, "instant": instant, "limit": _LIMIT_OF_COPY}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
