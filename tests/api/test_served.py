"""The API through a real gunicorn: what only a socket can send, and what is answered before there is a request."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import select

from app.config import REPOSITORY
from app.database import db, transaction
from app.jobs.models import Job
from app.logs import service as logs
from tests.conftest import Portal, on_sqlite
from tests.jobs.conftest import World

MIB = 1 << 20
LONG = 64  # MiB of log

pytestmark = on_sqlite  # what the database is makes no difference to a socket


@pytest.fixture
def port(portal: Portal) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    settings = {"DATA_DIR": str(portal.config.data_dir), "SECRET_KEY": portal.config.secret_key, "PORT": str(free)}
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
        cwd=REPOSITORY,
        env={**kept, **settings, "API_RATE": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while True:
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", free), 1).close()
                break
            except OSError:
                assert time.monotonic() < until
        yield free
    finally:
        server.terminate()
        server.wait(30)


def exchanged(port: int, sent: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer to these very bytes."""
    with closing(socket.create_connection(("127.0.0.1", port), 30)) as connection:
        connection.settimeout(30)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while part := connection.recv(65536):
            got += part
    head, _, body = got.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head.lower(), body


def test_whatever_a_socket_sends_is_refused_or_a_problem(portal: Portal, port: int) -> None:
    host = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {portal.token('bob')}\r\nConnection: close\r\n".encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    body = b'{"preset": "plain", "command": "true", "name": "sent"}'
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    json = b"Content-Type: application/json\r\n"

    # answered by the portal
    odd: list[tuple[bytes, int, bytes]] = []
    for sent, status in {
        b"GET /api/jobs/a%FF HTTP/1.1\r\n" + host + b"\r\n": 404,
        b"GET /api/jobs?q=%FF HTTP/1.1\r\n" + host + b"\r\n": 422,
        b"GET /api/me HTTP/1.1\r\n" + host + chunked + b"\r\n" + chunks: 422,
        b"DELETE /api/jobs/x HTTP/1.1\r\n" + host + b"Content-Length: 2\r\n\r\n{}": 422,
        b"BREW /api/me HTTP/1.1\r\n" + host + b"\r\n": 405,
        b"TRACE /api/me HTTP/1.1\r\n" + host + b"\r\n": 405,
        b"GET /api/nothing HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n": 400,
        b"POST /api/jobs HTTP/1.1\r\n" + host + json + b"Content-Length: 5000000\r\n\r\n": 413,
        b"POST /api/jobs HTTP/1.1\r\n" + host + json + b"Content-Length: 20\r\n\r\n{}": 400,
        b"POST /api/jobs HTTP/1.1\r\n" + host + json + b"\r\n": 400,
        b"GET /api/me HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n"
        % port: 401,
    }.items():
        got, head, answer = exchanged(port, sent)
        if (got, b"application/problem+json" in head) != (status, True):
            odd.append((sent[:60], got, answer))
    assert odd == []
    got, head, _ = exchanged(port, b"POST /api/jobs HTTP/1.1\r\n" + host + json + chunked + b"\r\n" + chunks)
    assert got == 201

    # refused by gunicorn, which has read no address yet
    for sent in (
        b"GET /api/jobs/a\xff HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /api/" + b"x" * 9000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /api/me HTTP/1.1\r\n" + host + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /api/me HTTP/1.1\r\n" + host + b"Bad Header: x\r\n\r\n",
        b"GET /api/me HTTP/1.1\r\n" + host + b"X: a\x00b\r\n\r\n",
        b"GET /api/me HTTP/9.9\r\n" + host + b"\r\n",
        b"POST /api/jobs HTTP/1.1\r\n" + host + chunked + b"Content-Length: 4\r\n\r\n" + chunks,
        b"POST /api/jobs HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + chunks,
        b"POST /api/jobs HTTP/1.1\r\n" + host + b"Content-Length: -1\r\n\r\n",
        b"POST /api/jobs HTTP/1.1\r\n" + host + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ):
        got, head, _ = exchanged(port, sent)
        if not (400 <= got <= 431 or got == 501):
            odd.append((sent[:60], got, head))
    assert odd == []
    names = [job.name for job in jobs_of(portal)]
    assert names == ["sent"]


def jobs_of(portal: Portal) -> list[Job]:
    return portal.read(lambda: list(db.session.scalars(select(Job))))  # type: ignore[no-any-return]


def test_a_long_log_comes_whole_a_mebibyte_at_a_time(portal: Portal, port: int) -> None:
    portal.launch("job")
    attempt = World(portal).begin("job")
    printed = os.urandom(MIB // 2)
    with portal.app.app_context():
        for number in range(2 * LONG):
            with transaction():
                logs.append(logs.stream(attempt, 0), printed, "c", 0, "", number == 2 * LONG - 1, 1 << 40)
    headers = {"Authorization": f"Bearer {portal.token('bob')}"}
    size, place, replies = 0, "", 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while True:
            connection.request("GET", f"/api/jobs/job/logs?{place}", headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status == 200, data
            assert data == (printed * 2)[: len(data)]
            size, replies = size + len(data), replies + 1
            if answer.headers["Log-Complete"]:
                break
            place = f"since={answer.headers['Log-Cursor']}"
    assert (size, replies) == (LONG * MIB, LONG)
