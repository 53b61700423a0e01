"""Alerts: from what is the case to somebody who knows of it.

::

    facts ──► detectors ──► evaluate ──► outbox ──► channels
    read      pure: what    pure: who    rows,      mail, webhooks,
    (facts)   is the case   hears what   retried    dead man's switches

`look` does the first three once a minute, in the tick; `outbox` delivers in a task of its own, so that a receiver that hangs
keeps nothing waiting. `switches` writes the calls of dead man's switches when a plan's job starts and ends. Pages call `desk`.
"""
