"""What can stop a check or a repair, as a branch of the engine's tree of errors.

::

    ConsistencyError       failed      1
    ├─ Mistake             usage       2   a declaration or an argument is wrong
    ├─ StoreUnreadable     unreadable  1   a store is missing, damaged, or of an unsupported version
    │  └─ IndexBroken      unreadable  1   the index of a collection is broken; a check makes it a finding
    ├─ StoreBusy           busy        1   a store stayed locked, or was exchanged during the check
    ├─ RepairRefused       refused     1   a repair cannot begin now; nothing was changed
    └─ Cancelled           cancelled   9   a person or a signal stopped it

The second column is ``code``, the third ``exit_code``. Each error says what happened, and its hint says what to do.
"""

from backups.engine.errors import Cancelled as EngineCancelled
from backups.engine.errors import EngineError


class ConsistencyError(EngineError):
    """Root of the branch."""

    default_hint = "Nothing was changed."


class Mistake(ConsistencyError):
    code = "usage"
    exit_code = 2
    default_hint = "Correct the declaration; `manage.py check` names what is wrong with it."


class StoreUnreadable(ConsistencyError):
    code = "unreadable"
    default_hint = "`refbackup doctor` diagnoses the store. Nothing was changed."


class IndexBroken(StoreUnreadable):
    default_hint = "Check again: the check offers to rebuild the index, which writes every vector again from SQLite."


class StoreBusy(ConsistencyError):
    code = "busy"
    default_hint = "Run the check again when the writer, backup or restore is done. Nothing was changed."


class RepairRefused(ConsistencyError):
    code = "refused"


class Cancelled(ConsistencyError, EngineCancelled):
    code = "cancelled"
    exit_code = 9
    default_hint = "Nothing was changed; run the check again when you are ready."
