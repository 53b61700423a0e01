"""Functions that a restored or altered queue names: workers run none that is not this project's own."""

from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from backups.identity import audit
from backups.jobs import queue
from backups.models import AuditEntry, Worker
from backups.worker import allowed
from tests.control.conftest import HOST
from tests.control.workers import module_yard, until, yard

__all__ = ["module_yard", "yard"]


def message(function="backups.worker.tasks.work", **more):
    return {"id": "1", "name": "work", "func": function, "args": (HOST,), "kwargs": {}, "ack_id": 1} | more


def test_only_calls_of_this_project_are_allowed():
    assert all(allowed.is_allowed(message(function)) for function in allowed.FUNCTIONS)
    others = ("os.system", "backups.worker.tasks.remove_old_records", print, None, ["os.system"])
    assert not any(allowed.is_allowed(message(function)) for function in others)
    for more in ({"hook": "os.system"}, {"chain": []}, {"iter_count": 1}, {"args": ()}, {"args": ([],)}, {"kwargs": {"x": 1}}):
        assert not allowed.is_allowed(message(**more)), more
    assert not any(allowed.is_allowed(other) for other in ("STOP", None, [], b""))


@pytest.mark.slow
def test_planted_schedules_and_messages_never_run(yard):
    root = yard.site.places.root
    beat = until(lambda: Worker.objects.filter(host=HOST).first(), 30, yard.said).beat
    yard.stop()
    due = timezone.now() - timedelta(minutes=5)
    common = {"next_run": due, "schedule_type": Schedule.MINUTES, "minutes": 1, "cluster": HOST}
    touch = [root / f"planted-{number}" for number in range(5)]
    Schedule.objects.create(name="nightly", func="os.mkdir", args=repr((str(touch[0]),)), **common)
    sync = repr({"q_options": {"sync": True}})
    Schedule.objects.create(name="sync", func="os.mkdir", args=repr((str(touch[1]),)), kwargs=sync, **common)
    hooked = {"name": f"{queue.tick_name(HOST)} ", **queue.tick_fields(HOST), "next_run": due, "hook": "os.mkdir"}
    Schedule.objects.create(**hooked)
    Schedule.objects.filter(name=queue.tick_name(HOST)).update(func="os.mkdir", args=repr((str(touch[2]),)), next_run=due)
    async_task("os.mkdir", str(touch[3]), q_options={"cluster": HOST, "broker": queue.broker(HOST)})
    yard.start()
    assert not OrmQ.objects.filter(key=HOST, payload__contains="mkdir").exists()
    async_task("os.mkdir", str(touch[4]), q_options={"cluster": HOST, "broker": queue.broker(HOST)})
    refused = AuditEntry.objects.filter(action__startswith="queue.")
    until(lambda: refused.filter(action="queue.message_refused").exists(), 30, yard.said)
    until(lambda: refused.filter(action="queue.schedule_refused").count() == 3, 60, yard.said)
    until(lambda: Worker.objects.get(host=HOST).beat > beat, 30, yard.said)
    until(lambda: not any(SignedPackage.loads(row.payload)["func"] == "os.mkdir" for row in OrmQ.objects.all()), 30)
    assert not any(path.exists() for path in touch)
    assert {entry.after["function"] for entry in refused} == {"os.mkdir", queue.TICK}
    assert Schedule.objects.get(name=queue.tick_name(HOST)).func == queue.TICK
    assert audit.verify_chain()[1] is None
