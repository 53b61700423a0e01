"""Alerts: notify people when a condition holds.

::

    gathering ──► conditions ──► transitions ──► outbox ──► channels
    reads         pure: what     pure: who is     rows,      mail, webhooks,
    (monitoring)  is observed    notified         retried    dead man's switches

`evaluation` does the first three once a minute, in the tick. `outbox` delivers in a task of its own, so that a receiver that
hangs blocks nothing else. `switches` writes the calls of dead man's switches when a plan's job starts and ends. Pages call
`services`.
"""
