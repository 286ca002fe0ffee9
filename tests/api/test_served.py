"""The portal through a real gunicorn: what only a socket can send, what is answered before there is a request, and how
long answers come and end."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

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


def said_by(portal: Portal) -> Path:
    """Where what its web process says is kept."""
    return portal.config.data_dir / "web.out"


@pytest.fixture
def port(portal: Portal) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    settings = {"DATA_DIR": str(portal.config.data_dir), "SECRET_KEY": portal.config.secret_key, "PORT": str(free)}
    with said_by(portal).open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
            cwd=REPOSITORY,
            env={**kept, **settings, "API_RATE": "0"},
            stdout=said,
            stderr=said,
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
    typed = b"Content-Type: application/json\r\n"

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
        b"POST /api/jobs HTTP/1.1\r\n" + host + typed + b"Content-Length: 5000000\r\n\r\n": 413,
        b"POST /api/jobs HTTP/1.1\r\n" + host + typed + b"Content-Length: 20\r\n\r\n{}": 400,
        b"POST /api/jobs HTTP/1.1\r\n" + host + typed + b"\r\n": 400,
        b"GET /api/me HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n"
        % port: 401,
    }.items():
        got, head, answer = exchanged(port, sent)
        if (got, b"application/problem+json" in head) != (status, True):
            odd.append((sent[:60], got, answer))
    assert odd == []
    got, head, _ = exchanged(port, b"POST /api/jobs HTTP/1.1\r\n" + host + typed + chunked + b"\r\n" + chunks)
    assert got == 201
    names = [job.name for job in jobs_of(portal)]
    assert names == ["sent"]


HOST = b"Host: 127.0.0.1\r\n"
SECRET = b"st_0123456789ab_secret"
# what gunicorn refuses, which has read no address yet: sent, status, type
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "bytes in the address": (b"GET /api/jobs/a\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "bad-request"),
    "no version": (b"GET /sign-in/" + SECRET + b"\r\n" + HOST + b"\r\n", 400, "bad-request"),
    "another version": (b"GET /api/me HTTP/9.9\r\n" + HOST + b"\r\n", 400, "bad-request"),
    "a method with markup": (b"GET<b> /api/me HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    "a long address": (b"GET /api/" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "uri-too-long"),
    "a long header": (
        b"GET /api/me HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        431,
        "headers-too-large",
    ),
    "many headers": (b"GET /api/me HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 200 + b"\r\n", 431, "headers-too-large"),
    "a header's name with a space": (b"GET / HTTP/1.1\r\n" + HOST + b"Bad Header: x\r\n\r\n", 400, "bad-request"),
    "a header without a colon": (
        b"GET / HTTP/1.1\r\n" + HOST + b"Authorization Bearer " + SECRET + b"\r\n\r\n",
        400,
        "bad-request",
    ),
    "NUL in a header": (b"GET /api/me HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400, "bad-request"),
    "two lengths": (
        b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        400,
        "bad-request",
    ),
    "a length below nothing": (
        b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        400,
        "bad-request",
    ),
    "a length and chunks": (
        b"POST /api/jobs HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400,
        "bad-request",
    ),
    "chunks and more": (
        b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400,
        "bad-request",
    ),
    "another transfer coding": (
        b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: rot13\r\n\r\n",
        501,
        "not-implemented",
    ),
    "an expectation": (b"GET /api/me HTTP/1.1\r\n" + HOST + b"Expect: <b>cake</b>\r\n\r\n", 417, "expectation-failed"),
}


def test_what_gunicorn_refuses_is_a_problem_too_and_repeats_nothing_of_the_request(portal: Portal, port: int) -> None:
    odd = []
    for what, (sent, status, kind) in REFUSED.items():
        got, head, body = exchanged(port, sent)
        told = json.loads(body) if body.startswith(b"{") else {}
        lines = set(head.split(b"\r\n"))
        if (
            (got, told.get("status"), told.get("type")) != (status, status, f"https://simpletrain.io/problems/{kind}")
            or set(told) != {"type", "title", "status"}
            or not lines
            >= {
                b"content-type: application/problem+json",
                b"x-content-type-options: nosniff",
                b"connection: close",
                b"cache-control: no-store",
                b"content-length: %d" % len(body),
            }
        ):
            odd.append((what, got, head, body))
    assert odd == []
    assert jobs_of(portal) == []
    said = said_by(portal).read_text()
    assert said.count("refused with") == len(REFUSED)
    assert SECRET.decode() not in said and "<b>" not in said and "/sign-in/" not in said


def read_slowly(answer: http.client.HTTPResponse, most: int) -> int:
    """As over a slow line, on which the long log would take 20 s. How much came, where it came to an end."""
    size = 0
    while part := answer.read(MIB // 16):
        size += len(part)
        assert size < most
        time.sleep(0.02)
    return size


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


def test_a_download_breaks_off_soon_after_its_reader_is_disabled(portal: Portal, port: int) -> None:
    portal.launch("job")
    world = World(portal)
    world.print(world.begin("job"), os.urandom(LONG * MIB), complete=True)
    link = portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", f"/sign-in/{link}")
        signed_in = connection.getresponse()
        signed_in.read()
        cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
        connection.request("GET", "/orgs/lab/jobs/job/log", headers={"Cookie": cookie})
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(answer.read(MIB)) == MIB
        assert portal.command("users", "disable", "bob@example.org").exit_code == 0
        with pytest.raises(http.client.IncompleteRead):
            read_slowly(answer, LONG * MIB // 2)
    said = said_by(portal).read_text()
    assert "the download of a log was cut off" in said and "Traceback" not in said
