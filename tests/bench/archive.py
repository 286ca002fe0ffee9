"""How fast a log goes into the archive and comes out of it, and what it takes up there."""

from __future__ import annotations

import time
import zlib
from datetime import datetime

from sqlalchemy import func, select

from app import create_app
from app.database import db, now
from app.logs.models import LogChunk
from tests.bench.lists import config_of
from tests.bench.rows import Row, megabytes
from tests.bench.served import Client, Served, cpu

LINES = 1_200_000
PATIENCE = 300.0  # seconds
SCRIPT = f"""
for step in range({LINES}):
    print(f"step {{step}} loss {{3.0 / (1 + step % 997):.6f}} lr 0.0003 tokens/s {{41000 + step * 7919 % 1000}}")
"""


def archive(portal: Served, api: Client) -> list[Row]:
    asked = {"preset": "digits", "name": "talks", "command": ["python", "-c", SCRIPT]}
    worker = [pid for pid in portal.processes() if pid not in portal.web()]
    before = cpu(worker)
    assert api.ask("POST", "/api/jobs", asked).status == 201
    ended = _complete(api)
    archived = now()
    used = cpu(worker) - before
    job = api.ask("GET", "/api/jobs/talks").json()
    assert job["state"] == "succeeded", job["reason"]
    took = (archived - datetime.fromisoformat(job["started_at"])).total_seconds()
    began = time.perf_counter()
    data = _whole(api)
    read = len(data) / (time.perf_counter() - began)
    size = ended
    began = time.perf_counter()
    packed = sum(len(zlib.compress(data[at : at + (256 << 10)], 3)) for at in range(0, len(data), 256 << 10))
    alone = len(data) / (time.perf_counter() - began)
    began = time.perf_counter()
    page = portal.browser().ask("GET", "/orgs/lab/jobs/talks/log")
    downloaded = len(page.body) / (time.perf_counter() - began)
    assert page.body == data and size == len(data)
    kept = _kept(portal)
    floor = f"zlib alone: {alone / 1e6:.0f} MB/s"
    return [
        Row(
            f"log archive: a job prints {megabytes(len(data))} as fast as it can, to the last byte archived",
            f"{len(data) / took / 1e6:.1f} MB/s, {used / len(data) * 1e9:.0f} s of processor for each GB",
            floor,
            alone / (len(data) / took),
        ),
        Row("the same, read through the API, 1 MiB a request", f"{read / 1e6:.0f} MB/s", floor, alone / read),
        Row("the same, downloaded in the page", f"{downloaded / 1e6:.0f} MB/s", floor, alone / downloaded),
        Row(
            "its bytes in the database, for each GB printed",
            f"{kept / len(data) * 1e3:.0f} MB",
            f"zlib alone: {packed / len(data) * 1e3:.0f} MB",
            kept / packed,
        ),
    ]


def _complete(api: Client) -> int:
    """Follow the log to its end, as a client with a cursor does, but rarely; its size."""
    deadline = time.monotonic() + PATIENCE
    cursor, size = "", 0
    while time.monotonic() < deadline:
        answer = api.ask("GET", "/api/jobs/talks/logs" + (f"?since={cursor}" if cursor else ""))
        assert answer.status == 200, answer.body
        cursor, size = answer.headers["Log-Cursor"], size + len(answer.body)
        if answer.headers.get("Log-Complete"):
            return size
        if not answer.body:
            time.sleep(0.05)
    raise TimeoutError("the log did not come to its end")


def _whole(api: Client) -> bytes:
    parts, cursor = [], ""
    while True:
        answer = api.ask("GET", "/api/jobs/talks/logs" + (f"?since={cursor}" if cursor else ""))
        parts.append(answer.body)
        cursor = answer.headers["Log-Cursor"]
        if answer.headers.get("Log-Complete"):
            return b"".join(parts)


def _kept(portal: Served) -> int:
    """Bytes of all chunks: the others of this portal are nothing beside these."""
    app = create_app(config_of(portal))
    with app.app_context():
        found = db.session.scalar(select(func.sum(func.length(LogChunk.data)))) or 0
        db.session.remove()
        db.engine.dispose()
    return int(found)
