"""Downloads from a real web server, interrupted and resumed, and the client in the documentation."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from django.db import connections
from django.utils import timezone

from backups.identity import tokens
from backups.jobs import submit
from backups.models import AuditEntry, Job
from tests.control.conftest import Site, environment_of
from tests.docs.pages import ROOT, blocks

pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "docs" / "how-to" / "use-the-api.md"
LARGE = 48 << 20
"""More than the buffers of two sockets, so that the server waits for a client that stops reading."""


@pytest.fixture
def large(site: Site) -> Job:
    """A backup that takes a while to send."""
    (site.places.settings["REFSERVER_FILES"] / "noise.bin").write_bytes(os.urandom(LARGE))
    job = site.done(submit.back_up(site.actor, backup="full", verify="none"))
    assert job.state == Job.State.SUCCEEDED, job.error
    return job


@pytest.fixture
def secret(site: Site) -> str:
    """The secret of a token that may download."""
    return tokens.issue(site.person("robot", superuser=True), "robot", ["read", "backup", "download", "restore"], None).secret


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def served(site: Site, port: int) -> Iterator[int]:
    """Runs the project's web server; yields the process id of its worker."""
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "refserver" / "gunicorn_conf.py")]
    command += ["-b", f"127.0.0.1:{port}", "refserver.wsgi:application"]
    with subprocess.Popen(command, env=environment_of(site.places), cwd=ROOT, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: _alive(port), 60)
            [worker] = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            yield int(worker)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def until(holds, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@contextmanager
def asked(port: int, path: str, secret: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """A response whose body has not been read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"Authorization": f"Bearer {secret}", **named})
        yield connection.getresponse()
    finally:
        connection.close()


def opened(worker: int, name: str) -> list[str]:
    """The open files of a process that have *name* in their path."""
    found = []
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if name in target:
            found.append(target)
    return found


def test_download_resumes_after_a_restart_of_the_server(site, large, secret, port):
    path = f"/api/v1/backups/{large.backup_id}/files/data.tar.zst"
    stored = site.repository.backup_folder("default", large.backup_id) / "data.tar.zst"
    with served(site, port), asked(port, path, secret) as answer:
        assert answer.status == 200 and int(answer.headers["Content-Length"]) == stored.stat().st_size
        tag, had = answer.headers["ETag"], answer.read(10_000_001)
    with served(site, port):
        with asked(port, path, secret, Range=f"bytes={len(had)}-", If_Range=tag) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes {len(had)}-{stored.stat().st_size - 1}/{stored.stat().st_size}"
            whole = had + answer.read()
        with asked(port, path, secret, Range=f"bytes={len(had)}-", If_Range='"another"') as answer:
            assert answer.status == 200  # another file: sent from the beginning
        with asked(port, path, secret, Range=f"bytes={stored.stat().st_size}-") as answer:
            assert answer.status == 416 and answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["Content-Range"] == f"bytes */{stored.stat().st_size}"
        with asked(port, path, secret, If_None_Match=tag) as answer:
            assert answer.status == 304 and answer.read() == b""
        with asked(port, path, secret, If_Match='"another"') as answer:
            assert answer.status == 412
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("HEAD", path, headers={"Authorization": f"Bearer {secret}"})
        head = connection.getresponse()
        assert (head.status, head.headers["ETag"], int(head.headers["Content-Length"])) == (200, tag, len(whole))
        assert head.read() == b""
        connection.close()
    assert hashlib.sha256(whole).hexdigest() == site.repository.load("default", large.backup_id).manifest.data.sha256
    parts = [entry.after["range"] for entry in AuditEntry.objects.filter(action="backup.downloaded").order_by("number")]
    assert parts == ["", f"bytes {len(had)}-{len(whole) - 1}/{len(whole)}", ""]
    entry = AuditEntry.objects.filter(action="backup.downloaded").first()
    assert (entry.who, entry.via, entry.target) == ("robot", "api", f"backup:{large.backup_id}")


def test_disconnected_client_leaves_no_open_file(site, large, secret, port):
    path = f"/api/v1/backups/{large.backup_id}/files/data.tar.zst"
    with served(site, port) as worker:
        for headers in ({}, {"Range": "bytes=100-"}):
            with asked(port, path, secret, **headers) as answer:
                answer.read(1000)
                assert opened(worker, "data.tar.zst")
            until(lambda: not opened(worker, "data.tar.zst"), 20)
        assert _alive(port)


def test_download_of_a_deleted_backup_completes(site, large, secret, port):
    path = f"/api/v1/backups/{large.backup_id}/files/data.tar.zst"
    sha256 = site.repository.load("default", large.backup_id).manifest.data.sha256
    with served(site, port) as worker, asked(port, path, secret) as answer:
        had = answer.read(100_000)
        assert site.done(submit.delete(site.actor, [large.backup_id])).state == Job.State.SUCCEEDED
        with site.repository.writing("emptying", timezone.now()), site.repository.removing():
            assert site.repository.empty_trash(timezone.now() + timedelta(days=1000), timedelta(0))
        assert opened(worker, "(deleted)")
        whole = had + answer.read()
        assert hashlib.sha256(whole).hexdigest() == sha256
        with asked(port, path, secret) as gone:
            assert gone.status == 404


@pytest.fixture
def working(site: Site) -> Iterator[None]:
    """A worker in a thread."""
    stop = Event()

    def work() -> None:
        while not stop.is_set():
            site.work()
            stop.wait(0.1)
        connections.close_all()

    thread = Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join(60)


def test_documented_client_works(site, secret, port, working, tmp_path):
    script = ["set -eu"]
    for block in blocks(DOCUMENT):
        if block.marker == "served":
            script.append(block.text)
        elif block.marker.startswith("served: "):
            (tmp_path / block.marker.removeprefix("served: ")).write_text(block.text)
    assert len(script) == 6
    environment = {**os.environ, "SITE": f"http://127.0.0.1:{port}", "TOKEN": secret}
    with served(site, port):
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "writers were held up" in done.stdout and "data.tar.zst: OK" in done.stdout and "to fetched" in done.stdout
    assert Job.objects.filter(kind="backup", state=Job.State.SUCCEEDED).count() == 2
    assert (tmp_path / "fetched" / "data.tar.zst").stat().st_size
    assert Job.objects.get(kind="restore").arguments["folder"] == "look"


def test_documented_client_resumes_lost_connections(site, large, secret, port, tmp_path):
    """A proxy closes every connection after 9 MB."""
    [client] = [block.text for block in blocks(DOCUMENT) if block.marker == "served: client.py"]
    (tmp_path / "client.py").write_text(client)
    code = (
        "import client, pathlib, sys\n"
        f"client.download('/api/v1/backups/{large.backup_id}/files/data.tar.zst', pathlib.Path('data.tar.zst'))"
    )
    with served(site, port), cutting(port, 9_000_000) as (between, count):
        environment = {**os.environ, "SITE": f"http://127.0.0.1:{between}", "TOKEN": secret}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert len(count) >= 6
    found = hashlib.sha256((tmp_path / "data.tar.zst").read_bytes()).hexdigest()
    assert found == site.repository.load("default", large.backup_id).manifest.data.sha256


@contextmanager
def cutting(port: int, most: int) -> Iterator[tuple[int, list[int]]]:
    """A proxy that forwards at most *most* bytes of a response; yields its port and a list of bytes per connection."""
    connections_made: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    stop = Event()

    def one(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port), timeout=60) as server:
            client.settimeout(60)
            server.sendall(client.recv(65536))
            passed = 0
            while passed < most and (piece := server.recv(65536)):
                client.sendall(piece)
                passed += len(piece)
            connections_made.append(passed)

    def serve() -> None:
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            one(client)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], connections_made
    finally:
        stop.set()
        thread.join(60)
        listener.close()
