"""A child for the tests of `backups.engine.runtime.child`; with ``parent DOING`` a parent of one, which waits to be killed."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from typing import Any

from backups.engine.errors import SourceBusy
from backups.engine.runtime.child import Child, Server


class Servant:
    def __init__(self, server: Server) -> None:
        self._server = server

    def echo(self, value: Any) -> Any:
        return value

    def count(self, to: int, pause: float = 0.0) -> int:
        for number in range(to):
            self._server.emit("counted", number=number)
            time.sleep(pause)
        return to

    def exit(self) -> None:
        os._exit(7)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        threading.Event().wait()

    def busy(self) -> None:
        raise SourceBusy("it is locked", hint="wait", pid=5)

    def full(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    def bug(self) -> None:
        _ = 1 // 0


def main() -> None:
    server = Server()
    servant = Servant(server)
    names = ("echo", "count", "exit", "kill", "hang", "busy", "full", "bug")
    server.serve({name: getattr(servant, name) for name in names})


def be_parent(doing: str) -> None:
    """Start a child, let it hang in its first request, in a later one, or not at all; say its id, and wait."""
    with Child("tests.capture.servant") as child:
        if doing == "after":
            for value in range(200):  # each answer may cross the next request
                child.ask("echo", timeout=20, value=value)
        if doing in ("hang", "after"):
            child.begin("hang")
        else:
            child.ask("echo", timeout=20, value=1)
        print(child.pid, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["parent"]:
        be_parent(sys.argv[2])
    else:
        main()
