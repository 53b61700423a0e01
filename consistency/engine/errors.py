"""What can stop a check or a repair, as one tree.

::

    ConsistencyError       failed      1
    ├─ Mistake             usage       2   a declaration or an argument is wrong
    ├─ StoreUnreadable     unreadable  1   a store is missing, damaged, or of a version that is not known
    ├─ StoreBusy           busy        1   a store was locked, or exchanged, for too long
    ├─ RepairRefused       refused     1   a repair that may not begin now; nothing was changed
    └─ Cancelled           cancelled   9   a person or a signal stopped it

The second column is ``code``, the third ``exit_code``. Each error says what happened, and has a hint that says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class ConsistencyError(Exception):
    """Root of the tree."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "Nothing was changed."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint

    def as_json(self) -> dict[str, str]:
        """The error as ``{"code", "message", "hint"}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class Mistake(ConsistencyError):
    code = "usage"
    exit_code = 2
    default_hint = "Correct the declaration; `manage.py check` names what is wrong with it."


class StoreUnreadable(ConsistencyError):
    code = "unreadable"
    default_hint = "`refbackup doctor` says more about the store. Nothing was changed."


class StoreBusy(ConsistencyError):
    code = "busy"
    default_hint = "Run the check again when the writer, backup or restore is done. Nothing was changed."


class RepairRefused(ConsistencyError):
    code = "refused"


class Cancelled(ConsistencyError):
    code = "cancelled"
    exit_code = 9
    default_hint = "Nothing was changed; run the check again when you are ready."
