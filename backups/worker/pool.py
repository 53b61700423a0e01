"""The pool of Django-Q's processes on this host, under a guard that survives the death of any of them.

Django-Q's own guard (its sentinel) shares locks with its processes: one that is killed while it holds a lock blocks
all of them, or the guard itself, forever; and the processes of a killed guard go on without it. This guard shares no lock. Its
processes end with it, and when one is killed, the pipes between them are replaced. Workers, pusher, monitor, scheduler and
brokers are Django-Q's. ::

    guard (backups_worker)    restarts the others, calls the scheduler twice a minute
      ├─ worker …         one job or one tick at a time; finishes its job even if the guard dies
      ├─ pusher           queue → workers
      └─ monitor          workers → queue: acknowledges

On the first SIGTERM or SIGINT, running jobs finish and no other starts; the second interrupts them, as if cancelled.
"""

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

from django.db import DatabaseError, connections
from django_q.conf import Conf
from django_q.monitor import monitor
from django_q.pusher import pusher
from django_q.worker import worker

from backups.conf import configuration
from backups.engine.runtime import processes
from backups.identity import four_eyes
from backups.jobs import interruption, queue
from backups.jobs.interruption import Request

from . import allowed, cluster

_log = logging.getLogger(__name__)

_SCHEDULER_EVERY = 30.0
_MONITOR_ENDS_WITHIN = 5.0
_SECOND_SIGNAL_AFTER = 0.3
"""Seconds before another signal counts as the second: a terminal and a supervisor may both pass on the first."""


class WorkerPool:
    """The guard. Call `run` from the main thread of a process that does nothing else."""

    def __init__(self, workers: int | None = None) -> None:
        self._context = multiprocessing.get_context("fork")
        cluster.take_over()
        self._size: int = workers or Conf.WORKERS
        self._signals: list[float] = []
        self._retired: set[int] = set()
        self._pool: list[BaseProcess] = []
        self._pusher: BaseProcess
        self._monitor: BaseProcess

    def run(self) -> None:
        """Work until a signal, then return when the running jobs have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        importlib.import_module("backups.worker.tasks")  # once here, so that forked workers need not
        self._broker = queue.broker(configuration().host)
        self._replace_pipes()
        self._clear_queue()
        connections.close_all()
        self._pool = [self._start_worker() for _ in range(self._size)]
        self._monitor = self._start(monitor, self._results, self._broker)
        self._pusher = self._start(pusher, self._tasks, _NeverSet(), self._broker)
        _log.info("Host %s: %s workers are ready", configuration().host, self._size)
        self._tick_now()
        scheduled = time.monotonic()
        while not self._signals:
            self._replace_dead()
            if time.monotonic() - scheduled >= _SCHEDULER_EVERY:
                scheduled = time.monotonic()
                self._queue_scheduled()
            self._pause(Conf.GUARD_CYCLE)
        self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._signals or time.monotonic() - self._signals[-1] > _SECOND_SIGNAL_AFTER:
            self._signals.append(time.monotonic())

    def _pause(self, seconds: float) -> None:
        """Sleep; return within a tenth of a second of a signal."""
        received = len(self._signals)
        deadline = time.monotonic() + seconds
        while len(self._signals) == received and time.monotonic() < deadline:
            time.sleep(0.1)

    def _stop(self) -> None:
        interruption.request(Request.FINISH)
        self._pusher.terminate()
        for process in self._pool:
            process.terminate()  # one with a job finishes it first
        while self._pool:
            self._pause(0.1)
            self._pool = [process for process in self._pool if process.is_alive()]
            if len(self._signals) > 1 and not interruption.interrupting():
                _log.warning("Second signal: interrupting running jobs")
                interruption.request(Request.INTERRUPT)
        deadline = time.monotonic() + _MONITOR_ENDS_WITHIN
        while not self._results.empty() and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in (self._monitor, self._pusher):
            process.terminate()
            process.join(_MONITOR_ENDS_WITHIN)
            process.kill()

    def _replace_dead(self) -> None:
        dead = [process for process in (*self._pool, self._pusher, self._monitor) if not process.is_alive()]
        if not dead:
            return
        connections.close_all()
        killed = [process for process in dead if (process.exitcode or 0) < 0 and process.pid not in self._retired]
        if killed:
            # It may have held a pipe's lock, which is then never released: give the others new pipes when they are idle
            names = ", ".join(f"{process.name} {process.pid} by {_signal_of(process)}" for process in killed)
            _log.warning("Killed: %s. Replacing the other processes when they are idle; running jobs go on", names)
            self._replace_pipes()
            for process in (*self._pool, self._pusher, self._monitor):
                self._retired.add(process.pid or 0)
                process.terminate()
        for process in dead:
            self._retired.discard(process.pid or 0)
            if process is self._pusher:
                self._pusher = self._start(pusher, self._tasks, _NeverSet(), self._broker)
            elif process is self._monitor:
                self._monitor = self._start(monitor, self._results, self._broker)
            else:
                self._pool[self._pool.index(process)] = self._start_worker()
        if any(process.exitcode for process in dead):
            self._tick_now()

    def _replace_pipes(self) -> None:
        self._tasks = _Tasks(self._broker, maxsize=Conf.QUEUE_LIMIT, ctx=self._context)
        self._results = _Pipe(ctx=self._context)

    def _start_worker(self) -> BaseProcess:
        return self._start(worker, self._tasks, self._results, _Timer(), Conf.TIMEOUT)

    def _start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        arguments = (os.getpid(), target, *arguments)
        started = self._context.Process(target=_begin, args=arguments, name=target.__name__, daemon=True)
        started.start()
        return started

    def _clear_queue(self) -> None:
        try:
            queue.clear(configuration().host)
            four_eyes.end_open()
        except DatabaseError as problem:
            _log.warning("The queue cannot be cleared: %s. Its messages wake workers, and do no harm", problem)

    def _queue_scheduled(self) -> None:
        try:
            allowed.run_schedules(self._broker)
        except DatabaseError as problem:
            _log.warning("The schedules cannot be read: %s. Retrying in half a minute", problem)

    def _tick_now(self) -> None:
        """Request a tick now, because jobs may have lost their worker, and schedule one every minute."""
        try:
            queue.install_tick(configuration().host)
            queue.request_tick(configuration().host, self._broker)
        except (DatabaseError, OSError) as problem:
            _log.warning("The queue cannot be reached: %s. Retrying within a minute", problem)
        connections.close_all()


def _begin(guard: int, target: Callable[..., None], *arguments: Any) -> None:
    """In a new process: run *target*, and end with the guard or on SIGTERM; a worker first finishes its job."""
    interruption.become_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent by a terminal, and handled by the guard
    processes.end_with_parent(guard)
    for argument in arguments:
        if isinstance(argument, Queue):
            argument.cancel_join_thread()  # do not wait at exit until everything is read
    target(*arguments)


def _signal_of(process: BaseProcess) -> str:
    return signal.Signals(-(process.exitcode or 0)).name


class _Pipe(Queue):  # type: ignore[type-arg]  # not subscriptable before Python 3.14
    """A queue between processes without Django-Q's shared counter, whose lock a killed process would keep."""

    def qsize(self) -> int:
        return 0


class _Tasks(_Pipe):
    """The queue from the pusher to the workers, which takes only what is allowed."""

    def __init__(self, broker: Any, **options: Any) -> None:
        super().__init__(**options)
        self._broker = broker

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        if allowed.is_allowed(obj):
            super().put(obj, block, timeout)
            return
        try:
            allowed.refuse(obj)
            self._broker.acknowledge(obj["ack_id"])
        except (DatabaseError, OSError) as problem:
            _log.warning("A refused message could not be recorded or removed: %s", problem)


class _Timer:
    """Django-Q's timeout of a worker, without its lock. Jobs have their own time limits."""

    def __init__(self) -> None:
        self.value = -1.0

    def get_lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class _NeverSet:
    """Django-Q's stop event for the pusher, which ends by a signal here."""

    def is_set(self) -> bool:
        return False
