"""Takes a cut, one instant for all stores, with two child processes.

`holder` has the connections and locks, `packer` reads the files. They are separate because a process that closes a file drops
all its own locks on it; and neither is the caller, which may be a web server with connections of its own.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..runtime.child import Child
from ..runtime.context import Context
from ..types import Pause, Source, SourceKind
from .sqlite import Pinned

HOLDER = "backups.engine.capture.holder"
PACKER = "backups.engine.capture.packer"
REFRESH_TIMEOUT = 60.0
"""Seconds beyond the longest pause after which a packer that copies under the lock counts as hanging."""

STEP_TIMEOUT = 900.0
"""Seconds without a message after which a child counts as hanging."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A cut that was taken: SQLite is pinned, Chroma is copied, and all writers continue."""

    time: datetime
    attempts: int
    pins: dict[str, Pinned]
    broken: dict[str, str]
    versions: dict[str, str]
    pause: dict[tuple[SourceKind, str], float]
    changed: dict[str, bool]

    @property
    def pauses(self) -> Pause:
        """The longest pause of each kind of store."""
        longest = {kind: max((ms for (k, _), ms in self.pause.items() if k is kind), default=0.0) for kind in SourceKind}
        return Pause(sqlite=round(longest[SourceKind.SQLITE], 3), chroma=round(longest[SourceKind.CHROMA], 3))


class Cut:
    """Takes a cut. Leaving the context ends both children, and with them every lock."""

    def __init__(self, ctx: Context, scratch: Path) -> None:
        self._ctx = ctx
        self._scratch = scratch
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Cut:
        with contextlib.ExitStack() as opening:
            self.holder = opening.enter_context(Child(HOLDER))
            self.packer = opening.enter_context(Child(PACKER))
            self._open = opening.pop_all()
        return self

    def __exit__(self, *problem: Any) -> None:
        for child in (self.packer, self.holder):
            child.end()  # both now: leaving their contexts waits for one after the other
        self._open.__exit__(*problem)

    def staged(self, source: Source) -> Path:
        """The path of a source's copy until it is packed."""
        return self._scratch / source.prefix.replace("/", "-")

    def take(self, sources: list[Source], within: float, max_pause: float) -> Instant:
        """Take the cut, trying for *within* seconds. Raises `SourceBusy`, `SourceBroken` and `Cancelled`.

        1. Connect; before any lock, copy Chroma and the databases that cannot be pinned.
        2. Take all locks; pin SQLite, whose writers then continue.
        3. Copy what changed in Chroma since 1, and let its writers continue.

        If 2 and 3 hold writers up for more than *max_pause* seconds, they are let continue, what is left is copied meanwhile,
        and it is tried again.

        A crash leaves only scratch files: the locks are the children's.
        """
        sqlite = [source for source in sources if source.kind is SourceKind.SQLITE]
        chroma = [source for source in sources if source.kind is SourceKind.CHROMA]
        self.packer.begin("stage", directories=[[s.prefix, str(s.path), str(self.staged(s))] for s in chroma])
        versions = self._ask(
            self.holder,
            "open",
            sqlite=[[s.name, str(s.path), str(self.staged(s))] for s in sqlite],
            chroma=[[s.name, str(s.path)] for s in chroma],
        )
        self.packer.finish(timeout=STEP_TIMEOUT, check=self._ctx.check)
        deadline = time.monotonic() + within
        while True:
            left = max(0.0, deadline - time.monotonic())
            locked = self._ask(self.holder, "lock", within=left, max_pause=max_pause)
            raw = [source.prefix for source in chroma if source.name in locked["raw"]]
            changed = self._refresh(raw, max_pause - locked["held"]) if chroma else {}
            if changed is not None:
                break
            self._ask(self.holder, "back_off", last=time.monotonic() > deadline)
            self._refresh(raw, None)
        paused = self._ask(self.holder, "unlock")
        return Instant(
            time=datetime.fromisoformat(locked["time"]),
            attempts=locked["attempts"],
            pins={name: Pinned(*pin) for name, pin in locked["pins"].items()},
            broken=locked["broken"],
            versions=versions,
            pause={(SourceKind(kind), name): ms for kind, names in paused.items() for name, ms in names.items()},
            changed=changed,
        )

    def _refresh(self, raw: list[str], seconds: float | None) -> dict[str, bool] | None:
        """Copy what changed in Chroma, for at most *seconds*: None if that is too short."""
        limit = STEP_TIMEOUT if seconds is None else REFRESH_TIMEOUT + seconds
        answer: dict[str, bool] | None = self.packer.ask(
            "refresh", timeout=limit, check=self._ctx.check, raw=raw, seconds=seconds
        )
        return answer

    def copy_pinned(self, instant: Instant) -> None:
        """Copy through SQLite the databases that could not be pinned in place."""
        if any(pin.method == "online" for pin in instant.pins.values()):
            self._ask(self.holder, "copy")

    def _ask(self, child: Child, do: str, **arguments: Any) -> Any:
        return child.ask(do, timeout=STEP_TIMEOUT, check=self._ctx.check, **arguments)
