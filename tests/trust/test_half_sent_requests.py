"""Half-sent and slow requests: others are served meanwhile, and each ends after a while."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from refserver import web_worker
from refserver.management.commands import serve
from tests.docs.pages import ROOT

THREADS = 2
HALVES = {
    "no byte": b"",
    "half a request line": b"GET /he",
    "half the headers": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "no body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
    "half a body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
}
APPLICATION = """
from refserver import web_worker
from refserver.gunicorn_conf import *
del post_worker_init
web_worker.HEAD_SECONDS, web_worker.REQUEST_SECONDS = {head}, {request}

def application(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH", 0))
    body = environ["wsgi.input"].read(length) if length < 9 else b"unread"
    start_response("200 OK", [("Content-Length", str(len(body) + 1))])
    return [b"=" + body]
"""


@contextmanager
def served(folder: Path, *, head: float = 600.0, request: float = 600.0) -> Iterator[int]:
    """Run the project's worker with a small application; yield the port."""
    (folder / "small.py").write_text(APPLICATION.format(head=head, request=request))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "-c", str(folder / "small.py"), "--bind", f"fd://{listener.fileno()}"]
        with subprocess.Popen(
            [*command, "small:application"],
            env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "REFSERVER_THREADS": str(THREADS)},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                yield listener.getsockname()[1]
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(30)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that closes no half-sent request, because the test's requests are answered long before."""
    with served(tmp_path_factory.mktemp("served")) as number:
        yield number


def sent(port: int, data: bytes, stack: ExitStack) -> socket.socket:
    channel = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
    channel.sendall(data)
    return channel


def received_from(channel: socket.socket) -> bytes:
    data = channel.recv(4096)
    assert data, "the server closed the connection"
    return data


def answer(port: int, method: str = "GET", body: bytes | None = None, **headers: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, "/", body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    content = connection.getresponse().read()
    connection.close()
    return content


def ended(channels: list[socket.socket]) -> list[socket.socket]:
    return select.select(channels, [], [], 0)[0]


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_fifty_half_sent_requests_leave_every_thread_to_others(port: int, half: bytes) -> None:
    with ExitStack() as stack:
        attack = [sent(port, half, stack) for _ in range(50)]
        assert answer(port) == b"="
        assert answer(port, "POST", b"whole") == b"=whole"
        assert not ended(attack), "a half-sent request was ended: the others may have waited for it"


def test_a_request_may_arrive_in_pieces_and_another_follow_it(port: int) -> None:
    with ExitStack() as stack:
        whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\npiece" * 2
        channel = sent(port, b"", stack)
        for at in range(0, len(whole), 7):
            channel.sendall(whole[at : at + 7])
        received = b""
        while received.count(b"=piece") < 2:
            received += received_from(channel)
        assert received.count(b"200 OK") == 2


def test_a_client_that_waits_to_be_told_to_continue_is_told(port: int) -> None:
    with ExitStack() as stack:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        channel = sent(port, head, stack)
        assert channel.recv(4096).startswith(b"HTTP/1.1 100 ")
        channel.sendall(b"asked")
        received = b""
        while not received.endswith(b"=asked"):
            received += received_from(channel)


def test_more_unfinished_requests_than_are_kept_end_the_oldest(port: int) -> None:
    with ExitStack() as stack:
        attack = [sent(port, b"GET /", stack) for _ in range(web_worker.MOST_ARRIVING + 20)]
        assert answer(port) == b"="
        over = ended(attack)
        assert len(over) >= 20, "nothing was dropped"
        assert set(over) <= set(attack[:30]), "a newer one was dropped before an older one"


def test_connections_that_the_client_keeps_open_after_the_answer_cost_no_wait(port: int) -> None:
    with ExitStack() as stack:
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        attack = [sent(port, last, stack) for _ in range(50)]
        for channel in attack:
            while channel.recv(4096):
                pass
        assert answer(port) == b"="
        assert attack[0].fileno() >= 0


@pytest.mark.parametrize(
    ("framing", "expected"),
    [(b"Content-Length: %d" % (web_worker.MAX_BYTES + 1), b"=unread"), (b"Transfer-Encoding: chunked", b"=")],
    ids=["too large", "without a length"],
)
def test_a_body_that_is_never_read_is_not_taken_for_a_request(port: int, framing: bytes, expected: bytes) -> None:
    with ExitStack() as stack:
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        channel = sent(port, b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % framing, stack)
        channel.sendall(smuggled)
        received = b""
        with suppress(ConnectionError):
            while data := channel.recv(4096):
                received += data
        assert received.count(b"HTTP/1.1 ") == 1, received
        assert received.endswith(expected)


def test_a_half_sent_request_ends(tmp_path: Path) -> None:
    with served(tmp_path, head=0.2, request=0.4) as port, ExitStack() as stack:
        for name, channel in {name: sent(port, half, stack) for name, half in HALVES.items()}.items():
            assert channel.recv(1) == b"", name


class Begun(Exception):
    """Raised in place of starting the server."""


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.7"])  # noqa: S104
def test_other_machines_reach_the_server_only_through_a_proxy_or_by_a_setting(
    bind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(serve, "_require_free", begin)
    with override_settings(REFSERVER_RUN_DIR=tmp_path):
        with pytest.raises(CommandError, match="REFSERVER_BEHIND_PROXY"):
            call_command("serve", "--bind", bind)
        assert not [*tmp_path.iterdir()]
        for allowed in ({"REFSERVER_BEHIND_PROXY": True}, {"REFSERVER_WITHOUT_PROXY": True}):
            with override_settings(**allowed), pytest.raises(Begun):
                call_command("serve", "--bind", bind)
        for own in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
            with pytest.raises(Begun):
                call_command("serve", "--bind", own)
