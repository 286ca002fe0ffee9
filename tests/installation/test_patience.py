"""Callers that keep the web waiting, tried on a real gunicorn with two threads."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from app.config import REPOSITORY
from tests.conftest import Portal, on_sqlite
from tests.jobs.conftest import World

MIB = 1 << 20
SOON = 20.0  # seconds; without an end to its patience the web would never answer
# the real configuration with less patience, so that nobody waits for these tests
CONFIGURATION = f"""
exec(open({str(REPOSITORY / "gunicorn.conf.py")!r}).read())
from app import patience
patience.HEAD = patience.BODY = patience.PAUSE = patience.ANSWER = 0.5
"""

pytestmark = on_sqlite  # what the database is makes no difference to a socket


class Web:
    def __init__(self, port: int, process: subprocess.Popen[bytes], said: Path) -> None:
        self.port, self.process, self.said = port, process, said

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)

    def healthy(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200


@pytest.fixture
def web(portal: Portal, tmp_path: Path) -> Iterator[Web]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    configuration, said = tmp_path / "impatient.conf.py", tmp_path / "web.out"
    configuration.write_text(CONFIGURATION)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    settings = {"DATA_DIR": str(portal.config.data_dir), "SECRET_KEY": portal.config.secret_key, "PORT": str(port)}
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(configuration), "wsgi:app"],
            cwd=REPOSITORY,
            env={**kept, **settings, "WEB_THREADS": "2"},
            stdout=output,
            stderr=output,
        )
    started = Web(port, process, said)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                assert started.healthy()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        yield started
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


HOST = b"Host: 127.0.0.1\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X-Slow: ", id="half a head"),
        pytest.param(
            b"POST /sign-in HTTP/1.1\r\n" + HOST + FORM + b"Content-Length: 100\r\n\r\nemail=", id="half a form"
        ),
    ],
)
def test_callers_that_stop_in_the_middle_keep_nobody_else_out(web: Web, sent: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            caller = stack.enter_context(closing(web.connect()))
            caller.sendall(sent)
        assert web.healthy()
    assert "Traceback" not in web.said.read_text()


def test_callers_that_send_a_byte_now_and_then_come_to_an_end_too(web: Web) -> None:
    with closing(web.connect()) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X-Slow: ")
        caller.settimeout(0.1)
        until = time.monotonic() + SOON
        while True:
            assert time.monotonic() < until
            try:
                caller.sendall(b"x")
                if caller.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


def test_callers_that_do_not_read_keep_nobody_else_out(portal: Portal, web: Web) -> None:
    portal.launch("job")
    world = World(portal)
    world.print(world.begin("job"), os.urandom(16 * MIB), complete=True)
    link = portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=SOON)) as connection:
        connection.request("GET", f"/sign-in/{link}")
        answer = connection.getresponse()
        answer.read()
        cookie = answer.headers["Set-Cookie"].partition(";")[0].encode()
    with ExitStack() as stack:
        for _ in range(3):
            caller = stack.enter_context(closing(web.connect()))
            caller.sendall(b"GET /orgs/lab/jobs/job/log HTTP/1.1\r\n" + HOST + b"Cookie: " + cookie + b"\r\n\r\n")
            assert caller.recv(15) == b"HTTP/1.1 200 OK"
        assert web.healthy()
    assert "Traceback" not in web.said.read_text()


def test_whoever_sends_too_much_can_read_that_it_was_too_much(web: Web) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=SOON)) as connection:
        connection.request("POST", "/sign-in", b"x" * (16 * MIB), {"Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        assert answer.status == 413
        answer.read()
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


def test_a_stop_does_not_wait_for_callers_that_send_nothing(web: Web) -> None:
    with closing(web.connect()):
        assert web.healthy()  # so the one before was accepted
        web.process.terminate()
        assert web.process.wait(10) == 0
