"""Messages to be delivered: written in the transaction of what they report, then retried until delivered or given up.

A delivery is claimed by a conditional update, so two workers never send it at the same time. If its sender dies it is sent
again: every message is sent at least once, and twice only if the sender died after the receiver had it.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from backups import moments
from backups.conf import configuration
from backups.engine.runtime import locks
from backups.jobs import queue
from backups.models import Alert, AlertDelivery

from .channels import hand_over
from .http import Answer

_log = logging.getLogger(__name__)

PAUSES = tuple(timedelta(seconds=seconds) for seconds in (30, 60, 300, 900, 3600))
"""Before the second and each later attempt."""

GIVE_UP = timedelta(hours=24)
GIVE_UP_PING = timedelta(hours=1)
"""Later than this, a call of a dead man's switch would be misleading."""

STALE = timedelta(minutes=2)
"""A claim this old belongs to a sender that died: every delivery ends much sooner."""

ONE_TURN = 40.0
"""Seconds after which a turn starts no further delivery. The tick starts the next turn within a minute."""

_AT_ONCE = 50
_PINGS = ("start", "success", "fail")

Sender = Callable[[AlertDelivery, datetime], Answer]


def write(
    event: str, recipient: str, to: str, message: dict[str, Any], now: datetime, *, thread: str, alerts: Iterable[Alert] = ()
) -> AlertDelivery:
    """Put a message into the outbox, inside the transaction of what it reports; after the commit a sender is started.

    A call of a dead man's switch that is still being retried is dropped when a newer one replaces it.
    """
    if event in _PINGS:
        failing = AlertDelivery.objects.filter(thread=thread, state=AlertDelivery.State.WAITING, attempts__gt=0)
        superseded = failing.filter(event="start") if event == "start" else failing
        superseded.update(state=AlertDelivery.State.DROPPED, finished=now)
    delivery = AlertDelivery.objects.create(
        event=event, recipient=recipient, to=to[:254], message=message, thread=thread, created=now, next_try=now
    )
    delivery.alerts.set(alerts)
    transaction.on_commit(ring, using=configuration().database, robust=True)
    return delivery


def ring() -> None:
    """Start a sender on this host."""
    queue.send("backups.alerts.tasks.deliver", configuration().host)


def waiting(now: datetime) -> bool:
    """Whether a message is due now."""
    return AlertDelivery.objects.filter(state=AlertDelivery.State.WAITING, next_try__lte=now).exists()


def take_up(now: datetime) -> int:
    """Requeue deliveries claimed by a sender that died, or postponed by a wrong clock. Returns how many."""
    abandoned = AlertDelivery.objects.filter(state=AlertDelivery.State.SENDING)
    count = abandoned.filter(Q(claimed__lt=now - STALE) | Q(claimed__gt=now + STALE)).update(
        state=AlertDelivery.State.WAITING, claim="", next_try=now
    )
    late = AlertDelivery.objects.filter(state=AlertDelivery.State.WAITING, next_try__gt=now + 2 * PAUSES[-1])
    return count + late.update(next_try=now)


def turn(clock: Callable[[], datetime] = moments.now, send: Sender = hand_over) -> int:
    """Deliver what is due, one after the other, for at most `ONE_TURN`. Returns the number of attempts.

    A recipient that failed is not tried again in the same turn, so that one that hangs delays the others only once.
    """
    began, calls = time.monotonic(), 0
    failed: set[str] = set()
    with _alone() as mine:
        while mine and time.monotonic() - began < ONE_TURN:
            delivery = claim(clock(), without=failed)
            if delivery is None:
                break
            if not attempt(delivery, clock, send).ok:
                failed.add(delivery.recipient)
            calls += 1
    return calls


def claim(now: datetime, *, without: Iterable[str] = ()) -> AlertDelivery | None:
    """Claim the next due delivery, or return None. Deliveries of one thread keep their order."""
    State = AlertDelivery.State
    ready = AlertDelivery.objects.filter(state=State.WAITING, next_try__lte=now).exclude(recipient__in=set(without))
    for delivery in ready.order_by("next_try", "id")[:_AT_ONCE]:
        if AlertDelivery.objects.filter(
            thread=delivery.thread, id__lt=delivery.pk, state__in=(State.WAITING, State.SENDING)
        ).exists():
            continue
        if take(delivery, now):
            return delivery
    return None


def take(delivery: AlertDelivery, now: datetime) -> bool:
    """Claim *delivery*. Returns False if another sender has it."""
    delivery.claim, delivery.claimed = secrets.token_hex(16), now
    delivery.attempts += 1
    delivery.state = AlertDelivery.State.SENDING
    mine = AlertDelivery.objects.filter(pk=delivery.pk, state=AlertDelivery.State.WAITING)
    return bool(mine.update(state=delivery.state, claim=delivery.claim, claimed=now, attempts=delivery.attempts))


def attempt(delivery: AlertDelivery, clock: Callable[[], datetime] = moments.now, send: Sender = hand_over) -> Answer:
    """Send a claimed delivery, and record the outcome: delivered, to be retried, dropped or given up."""
    answer = send(delivery, clock())
    now = clock()
    values: dict[str, Any] = {"status": answer.status, "answer": answer.text[:1000], "claim": ""}
    if answer.ok:
        values |= {"state": AlertDelivery.State.DELIVERED, "finished": now}
    elif delivery.event == "test" or now - delivery.created >= (GIVE_UP_PING if delivery.event in _PINGS else GIVE_UP):
        values |= {"state": AlertDelivery.State.GIVEN_UP, "finished": now}
        _log.warning("Given up: %s to %s: %s", delivery.event, delivery.to, answer.text)
    elif delivery.event in _PINGS and _superseded(delivery):
        values |= {"state": AlertDelivery.State.DROPPED, "finished": now}
    else:
        pause = PAUSES[min(delivery.attempts, len(PAUSES)) - 1]
        if answer.retry_after is not None:
            pause = min(max(pause, timedelta(seconds=answer.retry_after)), PAUSES[-1])
        values |= {"state": AlertDelivery.State.WAITING, "next_try": now + pause}
    AlertDelivery.objects.filter(pk=delivery.pk, claim=delivery.claim).update(**values)
    return answer


def _superseded(delivery: AlertDelivery) -> bool:
    later = AlertDelivery.objects.filter(thread=delivery.thread, id__gt=delivery.pk)
    return (later if delivery.event == "start" else later.exclude(event="start")).exists()


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    """Yields whether this process is the only sender on this host; it stays so until the block ends."""
    path = configuration().run_folder / "alerts.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.exclusive(path) as acquired:
        yield acquired
