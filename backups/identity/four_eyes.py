"""Four eyes: what one person requests, another approves. Off unless the setting ``BACKUPS_FOUR_EYES`` is true.

Pages and REST pass each request of a subject below to `admit` before they act. One that nobody approved yet is kept with its
reason; another person approves it in a session; then its author sends the same request again, once. The approval belongs to a
hash of that request and of what it names, so another request, or the same for a backup, plan or channel that changed since, is
refused. Permissions are checked again when it is sent. Commands are not held: who has a shell can change the database.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Model

from backups import moments
from backups.conf import configuration
from backups.engine.errors import RestoreRefused, UsageError
from backups.engine.names import ONE_LINE
from backups.models import AlertChannel, AlertRule, Approval, AuditEntry, IndexedBackup, Job, Plan

from . import audit
from .audit import Actor

WAITS = timedelta(hours=24)
"""How long a request waits for a second person."""

LASTS = timedelta(hours=4)
"""How long an approval waits to be used."""

ALONE_AFTER = timedelta(hours=1)
"""How long one person waits in an emergency."""

MADE_LATELY = timedelta(days=7)
"""Accounts that the asking person added or changed so long before the request cannot approve it."""

_LONGEST_REASON = 500
_LARGEST = 1 << 20
_MOST_OPEN = 100
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-(?:full|incremental|snapshot)-[0-9a-f]{6}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of request that takes two people, and the permission that both need."""

    name: str
    title: str
    permission: str


RESTORE = Subject("restore", "Restore in place", "backups.restore_backup")
DELETE = Subject("delete", "Delete backups", "backups.delete_backup")
RELEASE = Subject("release", "Release holds", "backups.hold_backup")
PLANS = Subject("plans", "Change plans", "backups.change_plan")
RUN = Subject("run", "Run a job that deletes or changes data", "backups.delete_backup")
RECIPIENTS = Subject("recipients", "Change who is alerted", "backups.change_alert")
SUBJECTS = {one.name: one for one in (RESTORE, DELETE, RELEASE, PLANS, RUN, RECIPIENTS)}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, as an approval pins it. ``named`` are the arguments of its route."""

    subject: Subject
    method: str
    address: str
    content: Sequence[tuple[str, str]]
    named: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the request, and of the backups, preview, plan, rule or channel that it names, as they are now."""
        whole = [self.subject.name, self.method, self.address, [list(pair) for pair in self.content], self._state()]
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _state(self) -> list[Any]:
        text = json.dumps([self.address, *self.content, *map(str, self.named.values())])
        backups = IndexedBackup.objects.filter(backup_id__in=set(_ID.findall(text))).order_by("pk")
        found: list[Any] = list(
            backups.values_list("repository", "set", "backup_id", "parent_id", "time", "bytes_stored", "sources", "held")
        )
        jobs = Job.objects.filter(pk__in=set(_UUID.findall(text))).order_by("pk")
        found += jobs.values_list("kind", "arguments", "result")
        name, key = self.named.get("name"), self.named.get("pk")
        found += _rows(Plan, "name", name, "kind", "cron", "time_zone", "enabled", "arguments")
        found += _rows(AlertRule, "name", name, "kind", "threshold", "enabled", "severity")
        found += _rows(AlertChannel, "pk", key, "kind", "target", "enabled", "least")
        return found


def _rows(model: type[Model], field: str, value: Any, *fields: str) -> Iterable[Any]:
    return [] if value is None else list(model._default_manager.filter(**{field: value}).values_list(*fields))


def is_required() -> bool:
    """Whether these requests take two people here."""
    return bool(getattr(settings, "BACKUPS_FOUR_EYES", False))


def ask(actor: Actor, sent: Sent, reason: str) -> Approval:
    """Keep a request until another person decides about it. Raises `UsageError` without a reason, or when too many wait."""
    reason = _checked(reason)
    if sum(len(name) + len(value) for name, value in sent.content) > _LARGEST:
        raise UsageError("The request is too large to be kept for approval.", hint="Nothing was done. Divide it.")
    now = moments.now()
    if Approval.objects.filter(state__in=Approval.OPEN, expires__gt=now).count() >= _MOST_OPEN:
        raise UsageError(f"{_MOST_OPEN} requests wait for approval.", hint="Nothing was done. Decide about those first.")
    with transaction.atomic(using=configuration().database):
        row = Approval.objects.create(
            subject=sent.subject.name,
            method=sent.method,
            address=sent.address,
            content=[list(pair) for pair in sent.content],
            digest=sent.digest,
            reason=reason,
            user_id=actor.id,
            username=actor.name,
            asked=now,
            expires=now + WAITS,
        )
        _record(actor, "approval.asked", row, reason=reason, digest=row.digest)
    return row


def approve(actor: Actor, user: Any, row: Approval) -> None:
    """Approve a request. Raises `RestoreRefused` if the account may not, or the request is no longer waiting."""
    why = why_not(user, row)
    if why:
        raise RestoreRefused(f"{why} Nothing was approved.", hint="Another person has to decide.")
    _change(row, Approval.State.WAITING, state=Approval.State.APPROVED, **_decided(actor), expires=moments.now() + LASTS)
    _record(actor, "approval.approved", row, digest=row.digest)


def why_not(user: Any, row: Approval) -> str:
    """Why an account cannot approve a request, in a sentence; "" if it can."""
    name = user.get_username()
    if str(user.pk) == row.user_id or name == row.username:
        return "You asked for this yourself."
    if not user.is_active or not user.has_perm(SUBJECTS[row.subject].permission):
        return f"This needs the permission {SUBJECTS[row.subject].permission}."
    joined = getattr(user, "date_joined", None)
    changes = AuditEntry.objects.filter(action__in=("account.added", "account.changed"), target=f"account:{name}")
    if (joined is not None and joined >= row.asked) or changes.filter(action="account.added", time__gte=row.asked).exists():
        return "Your account is younger than the request."
    if changes.filter(who=row.username, time__gte=row.asked - MADE_LATELY).exists():
        return f"{row.username} added or changed your account within a week before the request, or after it."
    return ""


def reject(actor: Actor, user: Any, row: Approval, reason: str) -> None:
    """Reject a request, or an approval that was not used yet; its author may withdraw it. Raises `EngineError`."""
    reason = _checked(reason)
    own = str(user.pk) == row.user_id and user.get_username() == row.username
    if not own and not user.has_perm(SUBJECTS[row.subject].permission):
        raise RestoreRefused(f"This needs the permission {SUBJECTS[row.subject].permission}.", hint="Nothing was rejected.")
    _change(row, *Approval.OPEN, state=Approval.State.REJECTED, decision=reason, **_decided(actor))
    _record(actor, "approval.rejected", row, reason=reason)


def declare_emergency(actor: Actor, row: Approval) -> None:
    """Let the author of a request go ahead alone, an hour from now. Everybody is alerted, and may reject it until then."""
    if (actor.id, actor.name) != (row.user_id, row.username):
        raise RestoreRefused("Only the person who asked can go ahead alone.", hint="Nothing was changed.")
    now = moments.now()
    if row.emergency is not None:
        raise RestoreRefused("The emergency was declared before.", hint="Nothing was changed.")
    _change(row, Approval.State.WAITING, emergency=now, expires=now + ALONE_AFTER + LASTS)
    _record(actor, "approval.emergency", row, reason=row.reason, digest=row.digest)


def admit(actor: Actor, key: str, sent: Sent) -> Approval:
    """Use up the approval *key* for this request. Raises `RestoreRefused` unless it is for exactly this, by this person."""
    row = find(key)
    if row is None or (actor.id, actor.name) != (row.user_id, row.username):
        raise RestoreRefused("You have no such request for approval. Nothing was done.", hint="Ask for approval first.")
    if not row.is_open or not may_go_ahead(row):
        raise RestoreRefused(
            f"This request is not approved: {state_of(row)}. Nothing was done.", hint="Wait for a second person, or ask again."
        )
    if row.digest != sent.digest:
        raise RestoreRefused(
            "What was approved is not what was sent, or what it names has changed since. Nothing was done.", hint="Ask again."
        )
    _change(row, row.state, state=Approval.State.USED, used=moments.now())
    _record(actor, "approval.used", row, digest=row.digest, alone=row.decided is None)
    return row


def may_go_ahead(row: Approval) -> bool:
    """Whether an open request is approved, or its emergency has lasted an hour."""
    if row.state == Approval.State.APPROVED:
        return True
    return row.emergency is not None and moments.now() - row.emergency >= ALONE_AFTER


def state_of(row: Approval) -> str:
    """The state in a word, as people see it."""
    if row.state in Approval.OPEN and not row.is_open:
        return "Expired"
    return str(row.get_state_display())


def find(key: str) -> Approval | None:
    """The request with this id; None if there is none."""
    try:
        return Approval.objects.filter(pk=uuid.UUID(key)).first()
    except ValueError:
        return None


def end_open() -> int:
    """End all open requests when the workers start: a restored control database may have brought back used ones."""
    now = moments.now()
    values = {"state": Approval.State.REJECTED, "decided": now, "decision": "The workers were started again."}
    with transaction.atomic(using=configuration().database):
        ended = int(Approval.objects.filter(state__in=Approval.OPEN, expires__gt=now).update(**values))
        if ended:
            audit.record(audit.SYSTEM, "approval.ended", f"host:{configuration().host}", after={"requests": ended})
    return ended


def _checked(reason: str) -> str:
    reason = reason.strip()
    if not reason or len(reason) > _LONGEST_REASON or not re.fullmatch(ONE_LINE, reason):
        raise UsageError(
            f"A reason is one line of at most {_LONGEST_REASON} characters.", hint="Nothing was done. Say why, and try again."
        )
    return reason


def _decided(actor: Actor) -> dict[str, Any]:
    return {"decided": moments.now(), "decided_by": actor.name[:150]}


def _change(row: Approval, *states: str, **values: Any) -> None:
    """One conditional UPDATE, so that nothing is decided or used twice."""
    now = moments.now()
    if not Approval.objects.filter(pk=row.pk, state__in=states, expires__gt=now).update(**values):
        raise RestoreRefused("The request was decided, used or expired meanwhile.", hint="Nothing was changed. Look again.")
    row.refresh_from_db()


def _record(actor: Actor, action: str, row: Approval, **more: Any) -> None:
    after = {"what": SUBJECTS[row.subject].title, "asked_by": row.username, **more}
    audit.record(actor, action, f"approval:{row.pk}", after=after)
