"""Makes the findings of earlier checks agree with what a newer check found."""

from collections.abc import Iterator

from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from consistency.declaration import option
from consistency.engine.findings import FindingKind, Severity
from consistency.models import Check, Finding

_BATCH = 500


def reconcile(check: Check) -> None:
    """Open and close findings of earlier checks of the live stores by whether *check*, which is done, found them again.

    The same finding has the same kind, mapping and record. Found again, it is open, whatever a repair did with it; an open one
    that was not found is gone. Where *check* does not know, findings keep their state: in mappings that it did not compare
    whole, of kinds of which more was found than is kept, and of records in flight.
    """
    earlier = Finding.objects.filter(belongs_to__source=Check.LIVE, belongs_to__lt=check.pk).exclude(severity=Severity.INFO)
    here = Finding.objects.filter(
        belongs_to=check, kind=OuterRef("kind"), mapping=OuterRef("mapping"), record=OuterRef("record")
    )
    found = earlier.exclude(state=Finding.State.OPEN).filter(Exists(here.exclude(severity=Severity.INFO)))
    not_found = earlier.filter(state=Finding.State.OPEN).exclude(_unknown(check)).filter(~Exists(here))
    _move(found, Finding.State.OPEN)
    _move(not_found, Finding.State.GONE)


def _unknown(check: Check) -> Q:
    """Earlier findings that *check* would not have found again even if they are still true."""
    broken = check.findings.filter(kind=FindingKind.BROKEN_INDEX).values_list("mapping", flat=True)
    whole = {"", *check.mappings} - set(broken)  # "" has the broken foreign keys
    kept = check.findings.values("kind").order_by("kind").annotate(number=Count("pk")).filter(number__gte=option("LISTED"))
    cut_short = {row["kind"] for row in kept}
    unchecked = check.findings.filter(kind=FindingKind.BROKEN_FOREIGN_KEY, severity=Severity.WARNING)
    if unchecked.exists():  # tables whose foreign keys could not be checked
        cut_short.add(FindingKind.BROKEN_FOREIGN_KEY)
    return ~Q(mapping__in=whole) | Q(kind__in=cut_short)


def _move(findings: QuerySet[Finding], state: Finding.State) -> None:
    """Set the state of *findings*, which are read first, so that other writers do not wait while they are searched."""
    for keys in _batches(list(findings.order_by().values_list("pk", flat=True))):
        Finding.objects.filter(pk__in=keys).update(state=state)


def _batches(keys: list[int]) -> Iterator[list[int]]:
    return (keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH))
