"""Gunicorn's threaded worker, which gives a request to a thread only when all of it has arrived.

Gunicorn reads headers and bodies in its threads, so as many half-sent requests as there are threads stop a server. Here the
loop that accepts connections also receives requests, without waiting for any of them; a thread reads only from memory.

- The headers must arrive within `HEAD_SECONDS`, the whole request within `REQUEST_SECONDS`; else the connection is closed.
- Of more than `MOST_ARRIVING` unfinished requests the oldest is dropped, so that a new one is always accepted.
- Requests occupy at most `MOST_BYTES`, and `SMALL` for each connection. Bodies that `RequestSizeLimit` refuses, and those
  without a length, which Django never reads, are not received: the connection ends with the answer.
- A connection that ends is drained in the loop; gunicorn would wait two seconds there for each client that keeps it open.
- A client that reads nothing of an answer for `SEND_SECONDS` is disconnected.
"""

import re
import selectors
import socket
import struct
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gunicorn import http
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from refserver.web import MAX_BYTES

HEAD_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
SEND_SECONDS: Final = 60
MOST_ARRIVING: Final = 200
MOST_BYTES: Final = 64 << 20
SMALL: Final = 64 << 10
"""Bytes of a request that always find room; the headers must fit into them."""

_READ: Final = 64 << 10
_CLOSING_SECONDS: Final = 2.0
_LENGTH: Final = re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_CONTINUE: Final = re.compile(rb"^expect:[ \t]*100-continue[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_END: Final = b"\r\n\r\n"


class Received(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What has arrived of a connection: a parser that wants more finds the end of the connection, and never waits."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        return b""


class Connection(TConn):  # type: ignore[misc]
    """A connection with the part of its next request that has arrived."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.parser = http.get_parser(self.cfg, self.sock, self.client)
        self.parser.unreader = Received()
        self.initialized = self.data_ready = True
        self.received = bytearray()
        self.deadline = 0.0
        self.wanted: int | None = None
        """The bytes of the request; None until its headers have arrived."""
        self.last = False
        """Whether the body is not received, so that the bytes that follow in the connection are not a request."""

    def add(self, data: bytes) -> bool:
        """Take *data*; return whether the request can go to a thread: complete, or not to be received completely."""
        began = max(0, len(self.received) - len(_END) + 1)
        self.received += data
        if self.wanted is None:
            end = self.received.find(_END, began)
            if end < 0:
                return len(self.received) >= SMALL  # the parser refuses it
            self.wanted = end + len(_END) + self._body(bytes(self.received[: end + 2]))
            if self.wanted > len(self.received) and _CONTINUE.search(self.received, 0, end + 2):
                with suppress(OSError):
                    self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return len(self.received) >= self.wanted

    def _body(self, head: bytes) -> int:
        lengths = [int(length) for length in _LENGTH.findall(head)] or [0]
        self.last = len(lengths) > 1 or lengths[0] > MAX_BYTES or b"\ntransfer-encoding" in head.lower()
        return 0 if self.last else lengths[0]


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module's text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: dict[Connection, None] = {}  # the oldest first
        self._closing: dict[Connection, None] = {}
        self._bytes = 0

    def accept(self, listener: Any) -> None:
        """Accept a connection, and begin to receive its first request."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        self.nr_conns += 1
        self._receive(Connection(self.cfg, client, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: Connection, client: Any) -> None:
        """Receive the next request of a connection that was kept open."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._receive(conn)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        return not conn.last and super()._keepalive_after(conn, keepalive)

    def finish_request(self, conn: Connection, fs: "Future[Any]") -> None:
        """Keep the connection for its next request, or end it."""
        self._bytes -= len(conn.received)
        cut = conn.last or conn.wanted is None
        conn.received, conn.wanted = bytearray(), None
        if not cut and not fs.cancelled() and not fs.exception() and fs.result():
            if following := conn.parser.unreader.take_buffered():
                self._receive(conn, following)
            else:
                super().finish_request(conn, fs)
        else:
            self._end(conn)

    def murder_pending(self) -> None:
        """Close the connections whose time is over, and those without a request when the worker stops."""
        now = time.monotonic()
        for conn in [*self._arriving]:
            if now >= conn.deadline or not (self.alive or conn.received):
                self._drop(conn)
        for conn in [*self._closing]:
            if now >= conn.deadline:
                self._closed(conn)

    def _receive(self, conn: Connection, data: bytes = b"") -> None:
        conn.sock.setblocking(False)
        conn.deadline = time.monotonic() + HEAD_SECONDS
        if len(self._arriving) >= MOST_ARRIVING:
            self._drop(next(iter(self._arriving)))
        self._arriving[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._readable, conn))
        if data:
            self._take(conn, data)

    def _readable(self, conn: Connection, _: Any) -> None:
        if conn not in self._arriving:  # dropped by an earlier event of the same round
            return
        data = _received(conn)
        if data:
            self._take(conn, data)
        elif data is not None:
            self._drop(conn)

    def _take(self, conn: Connection, data: bytes) -> None:
        self._bytes += len(data)
        head_arrived = conn.wanted is not None
        if conn.add(data):
            self._leave(conn, self._arriving)
            conn.parser.unreader.unread(bytes(conn.received))
            self.enqueue_req(conn)
            return
        if conn.wanted is not None and not head_arrived:
            conn.deadline += REQUEST_SECONDS - HEAD_SECONDS
        if self._bytes > MOST_BYTES:
            largest = max(self._arriving, key=lambda one: len(one.received))
            if len(largest.received) > SMALL:
                self._drop(largest)

    def _drop(self, conn: Connection) -> None:
        self._leave(conn, self._arriving)
        self._bytes -= len(conn.received)
        self.nr_conns -= 1
        conn.close()

    def _end(self, conn: Connection) -> None:
        """Send the end of the answer, and wait in the loop until the client has read it (RFC 9112, section 9.6)."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.nr_conns -= 1
            conn.close()
            return
        conn.deadline = time.monotonic() + _CLOSING_SECONDS
        self._closing[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def _drain(self, conn: Connection, _: Any) -> None:
        if conn in self._closing and _received(conn) == b"":
            self._closed(conn)

    def _closed(self, conn: Connection) -> None:
        self._leave(conn, self._closing)
        self.nr_conns -= 1
        conn.close()

    def _leave(self, conn: Connection, group: dict[Connection, None]) -> None:
        del group[conn]
        self.poller.unregister(conn.sock)


def _received(conn: Connection) -> bytes | None:
    """What has arrived; empty when the client has closed the connection or it is broken, None when there is nothing yet."""
    try:
        data: bytes = conn.sock.recv(_READ)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    return data
