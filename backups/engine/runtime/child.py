"""Child processes that answer requests, one JSON object per line.

Capture needs three separate processes. Closing any descriptor of a database file drops every POSIX lock that the same process
holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2), so a process that reads a live file raw must hold no SQLite
connection to it; and the caller, which may be a web server, must do neither.

A request is ``{"do": name, ...}``; the answer is ``{"ok": value}`` or ``{"error": {...}}``, after any number of
``{"event": name, ...}``. A child whose parent dies reads the end of its standard input and exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from ..errors import EngineError, from_json, from_os_error

_ROOT = Path(__file__).resolve().parents[3]
_LINE = 65_536
_HARMLESS = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"})
_OF_PYTHON = ("PYTHON", "LC_")
_ELSEWHERE = """
import importlib.util, runpy, sys
folder, module = sys.argv[1:]
spec = importlib.util.spec_from_file_location("backups", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["backups"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["backups"])
runpy.run_module(module, run_name="__main__")
"""
"""Runs a module of this package and finds no other package beside it: those are built for another interpreter."""


class Child:
    """A child process that runs ``main`` of *module*. It ends with the context, and is killed on an error.

    With *python*, it runs in that interpreter, which need not have this package. Raises ``OSError`` if there is none.
    With *only*, it gets that folder as its argument, to confine itself to it (`sandbox`), and no settings from the environment.
    """

    def __init__(self, module: str, python: Path | None = None, *, only: Path | None = None) -> None:
        environment = dict(os.environ)
        if python is None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
            command = [sys.executable, "-m", module]
        else:
            environment.pop("PYTHONPATH", None)
            command = [str(python), "-c", _ELSEWHERE, str(_ROOT / "backups"), module]
        if only is not None:
            environment = {
                name: value for name, value in environment.items() if name in _HARMLESS or name.startswith(_OF_PYTHON)
            }
            command.append(str(only))
        self._name = module.rsplit(".", 1)[-1]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # only the parent reacts to Ctrl-C and signals to its group
        )
        self._to: IO[bytes] = cast(IO[bytes], self._process.stdin)
        self._from: IO[bytes] = cast(IO[bytes], self._process.stdout)
        self._pending = b""
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._from, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, do: str, **arguments: Any) -> None:
        """Send a request; `finish` returns the answer."""
        try:
            self._to.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._to.flush()
        except BrokenPipeError:
            raise self._died() from None

    def finish(
        self,
        *,
        timeout: float,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        check: Callable[[], None] = lambda: None,
    ) -> Any:
        """Wait for the answer to the last request and return its value.

        *check* is called at least ten times a second and may raise. *timeout* is the longest silence of the child, in
        seconds. Raises the child's `EngineError`.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._read_line(0.1)
            finally:
                check()  # also if the child has died: a cancellation may have killed it too
            if line is None:
                if time.monotonic() > deadline:
                    raise EngineError(f"The {self._name} process did not answer for {timeout:g} s and was killed.")
                continue
            deadline = time.monotonic() + timeout
            message = json.loads(line)
            if "event" in message:
                on_event(message)
            elif "error" in message:
                raise from_json(message["error"])
            else:
                return message["ok"]

    def ask(self, do: str, *, timeout: float, check: Callable[[], None] = lambda: None, **arguments: Any) -> Any:
        """Send a request and wait for its answer."""
        self.begin(do, **arguments)
        return self.finish(timeout=timeout, check=check)

    def end(self) -> None:
        """Let the child exit after the last request."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()

    def kill(self) -> None:
        """Kill the child: it may hang."""
        self._process.kill()

    def _read_line(self, wait: float) -> bytes | None:
        while b"\n" not in self._pending:
            if not self._ready.select(wait):
                return None
            received = os.read(self._from.fileno(), _LINE)
            if not received:
                raise self._died()
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> EngineError:
        status = self._process.wait(timeout=10)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return EngineError(f"The {self._name} process {how} before it finished. Nothing was published.")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ready.close()
        if kind is None:
            try:
                self._to.close()
                self._process.wait(timeout=10)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                self._process.kill()
        else:
            self._process.kill()
        self._process.wait()
        self._from.close()
        if not self._to.closed:
            with contextlib.suppress(BrokenPipeError):
                self._to.close()


class Server:
    """The child's side: reads requests, calls handlers, writes answers."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._busy = threading.Event()

    def emit(self, event: str, **values: Any) -> None:
        """Send the parent an event during a request."""
        self._send({"event": event, **values})

    def serve(self, handlers: dict[str, Callable[..., Any]], on_end: Callable[[], None] = lambda: None) -> None:
        """Answer requests until the parent closes standard input, then call *on_end*.

        If that happens during a request, the process exits at once.
        """
        for number in (signal.SIGINT, signal.SIGTERM):  # service managers signal every process; the parent decides
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            request = self._requests.get()
            if not request:
                on_end()
                return
            answer = self._answer(handlers, request)
            self._busy.clear()  # before the answer goes out: the next request may follow it at once
            self._send(answer)

    def _answer(self, handlers: dict[str, Callable[..., Any]], request: dict[str, Any]) -> dict[str, Any]:
        """The answer of a handler, or the error that it raised. Unexpected errors are also printed with a traceback."""
        name = request.pop("do")
        try:
            return {"ok": handlers[name](**request)}
        except EngineError as problem:
            return {"error": problem.as_json()}
        except OSError as problem:
            return {"error": from_os_error(problem, "While reading and storing").as_json()}
        except Exception as problem:  # noqa: BLE001 - the parent gets every error
            traceback.print_exc()
            return {"error": EngineError(f"The step {name!r} failed: {type(problem).__name__}: {problem}").as_json()}

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._busy.set()
            self._requests.put(json.loads(line))
        if self._busy.is_set():
            os._exit(3)
        self._requests.put({})

    def _send(self, message: dict[str, Any]) -> None:
        with self._writing:
            try:
                sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                os._exit(3)
