"""How much a source may shrink unnoticed between two backups (`shrinkage`)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What may shrink unnoticed: up to ``percent`` of what a table, collection or folder held, or any part of one that held
    fewer than ``least`` rows, records or files, and the tables and collections whose ``SOURCE.NAME`` matches a pattern. The
    bytes of a folder may too, if it also held less than a mebibyte. Losing everything is always noticed."""

    percent: float = 50.0
    least: int = 100
    names: tuple[str, ...] = ("*.django_session", "*.django_q_*", "*.backups_idempotencykey", "*.backups_joblog")


DEFAULT_ALLOWANCE = Allowance()
