"""A fresh portal: start, idle, launches, polls, a crowd."""

from __future__ import annotations

import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.installation.service import operator_email
from tests.bench.archive import archive
from tests.bench.lists import timed
from tests.bench.rows import Row, both, milliseconds, quantile
from tests.bench.served import Client, Served, cpu, memory

IDLE = 60  # seconds
LAUNCHES = 30
BURST = 100
NEW_LINES = 20
LINES = 1_000
CROWD, CROWD_SECONDS = 200, 60
PATIENCE = 120.0  # seconds that anything here may take


def fresh(folder: Path, database_url: str) -> Iterator[Row]:
    settings = {"LOCAL_SLOTS": "200", "DATABASE_URL": database_url}
    with Served(folder, settings) as portal:
        yield Row("start of serve to its sign-in line, new folder", f"{portal.started_in:.1f} s")
        yield from _idle(portal)
    with Served(folder, settings) as portal:
        yield Row("the same, the next time", f"{portal.started_in:.1f} s")
        api = portal.api(operator_email())
        for step in (_launches, _burst, _polls, _crowd, archive):
            yield from step(portal, api)


def _idle(portal: Served) -> list[Row]:
    time.sleep(5)  # what a start leaves to do is no idling
    pids = portal.processes()
    before, began = cpu(pids), time.monotonic()
    time.sleep(IDLE)
    used = (cpu(pids) - before) / (time.monotonic() - began)
    held = memory(pids)
    return [
        Row(
            "idle: memory of serve, web and worker (PSS)",
            f"{held / 1e6:.0f} MB",
            reach="≤ 200 MB",
            reached=held <= 200e6,
        ),
        Row(f"idle: processor, over {IDLE} s", f"{used:.2%} of a core", reach="≤ 1 %", reached=used <= 0.01),
    ]


def _launches(portal: Served, api: Client) -> list[Row]:
    floor = timed(lambda: subprocess.run(["/bin/sh", "-c", "echo hello"], capture_output=True, check=True), 50)
    made, seen, acknowledged = [], [], []
    local = portal.folder / "local"
    for number in range(LAUNCHES):
        name = f"bench-{number}"
        there = _attempts(local)
        answer = api.ask("POST", "/api/jobs", _job(name, "echo hello; sleep 0.2"))
        assert answer.status == 201, answer.body
        acknowledged.append(answer.seconds)
        began = time.perf_counter()
        _wait(lambda there=there: _attempts(local) - there, 0.001)  # type: ignore[misc]
        made.append(time.perf_counter() - began)
        _wait(lambda name=name: api.ask("GET", f"/api/jobs/{name}/logs").body, 0.005)  # type: ignore[misc]
        seen.append(time.perf_counter() - began)
    base = statistics.median(floor)
    beside = f"a bare /bin/sh: {milliseconds(base)}"
    return [
        Row("launch asked for to acknowledged, p50 / p95", both(acknowledged)),
        Row(
            "launch acknowledged to its objects on this machine, p50 / p95",
            both(made),
            beside,
            statistics.median(made) / base,
            "p50 ≤ 0.3 s, p95 ≤ 1 s",
            quantile(made, 0.5) <= 0.3 and quantile(made, 0.95) <= 1,
        ),
        Row(
            "launch acknowledged to its first line in the API, p50 / p95",
            both(seen),
            beside,
            statistics.median(seen) / base,
        ),
    ]


def _attempts(local: Path) -> set[str]:
    return {path.name for path in local.glob("*-a1")}


def _job(name: str, command: str | list[str]) -> dict[str, object]:
    return {"preset": "digits", "name": name, "command": command}


def _burst(portal: Served, api: Client) -> list[Row]:
    refused: list[int] = []

    def one(number: int) -> None:
        answer = Client(portal.port, dict(api.headers)).ask("POST", "/api/jobs", _job(f"burst-{number}", "true"))
        if answer.status != 201:
            refused.append(answer.status)

    began = time.perf_counter()
    acknowledged = _together(BURST, one)

    def over() -> bool:
        jobs = api.ask("GET", "/api/jobs?q=burst&limit=200").json()["jobs"]
        return all(job["state"] in ("succeeded", "failed") for job in jobs)

    floor = _together(BURST, lambda _: subprocess.run(["/bin/sh", "-c", "true"], check=True))
    floor_said = f"{BURST} bare /bin/sh: {floor:.2f} s"
    _wait(over, 0.2)
    done = time.perf_counter() - began - floor
    return [
        Row(
            f"{BURST} launches at once: all acknowledged",
            f"{acknowledged:.2f} s, {len(refused)} refused",
            reach="0 refused",
            reached=not refused,
        ),
        Row(f"{BURST} launches at once: all ended", f"{done:.1f} s", floor_said, done / floor),
    ]


def _together(count: int, work: Callable[[int], object]) -> float:
    """Seconds until all of them are done."""
    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _polls(portal: Served, api: Client) -> list[Row]:
    """Processor time of the web process for each poll, beside a request that does nothing."""
    # every line has the same length, so that where the last twenty begin is known
    command = f"seq -f 'line %05.0f of a log of training' {LINES}; sleep 600"
    assert api.ask("POST", "/api/jobs", _job("watched", command)).status == 201
    size = LINES * len("line 00001 of a log of training\n")
    page = portal.browser()
    _wait(lambda: len(api.ask("GET", "/api/jobs/watched/logs").body) == size, 0.1)
    _wait(lambda: b"line %05d" % LINES in page.ask("GET", "/orgs/lab/jobs/watched").body, 0.1)
    version = _version(page.ask("GET", "/orgs/lab/jobs/watched").body)
    root = f"/orgs/lab/jobs/watched/poll?version={version}"

    def since(at: int) -> str:
        """The path of a poll, at the pace that the server wants now."""
        path = f"{root}&since={at}&size={at}&every="
        return next((f"{path}{pace}" for pace in (1, 5) if page.ask("GET", f"{path}{pace}").status == 204), f"{path}1")

    web = portal.web()

    def each(path: str, times: int, status: int) -> tuple[float, list[float]]:
        before, took = cpu(web), []
        for _ in range(times):
            answer = page.ask("GET", path)
            assert answer.status == status, (answer.status, path)
            took.append(answer.seconds)
        return (cpu(web) - before) / times, took

    floor, _ = each("/healthz", 2000, 200)
    nothing, nothing_took = each(since(size), 1000, 204)
    behind = since(size - NEW_LINES * (size // LINES))
    shown = len(set(re.findall(rb"line \d{5} of", page.ask("GET", behind).body)))
    assert shown == NEW_LINES, f"{shown} lines came"
    lines, lines_took = each(behind, 500, 200)
    api.ask("DELETE", "/api/jobs/watched")
    beside = f"/healthz: {milliseconds(floor)}"
    return [
        Row(
            "poll with nothing new: processor time of the web process",
            milliseconds(nothing),
            beside,
            nothing / floor,
            "≤ 3 ms",
            nothing <= 0.003,
        ),
        Row("the same: time over HTTP, p50 / p95", both(nothing_took)),
        Row(
            f"poll with {NEW_LINES} new lines: processor time of the web process",
            milliseconds(lines),
            beside,
            lines / floor,
        ),
        Row(f"poll with {NEW_LINES} new lines: time over HTTP, p50 / p95", both(lines_took)),
    ]


def _version(page: bytes) -> str:
    return page.split(b"version=", 1)[1].split(b"&", 1)[0].decode()


def _crowd(portal: Served, api: Client) -> list[Row]:
    """Many people on a job page with its log, one poll a second each."""
    command = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.5; done"
    assert api.ask("POST", "/api/jobs", _job("crowd", command)).status == 201
    page = portal.browser()
    _wait(lambda: b"line 2" in page.ask("GET", "/orgs/lab/jobs/crowd").body, 0.2)
    first = _poll_path(page.ask("GET", "/orgs/lab/jobs/crowd").body)
    took: list[float] = []
    errors: list[str] = []
    end = time.monotonic() + CROWD_SECONDS

    def watch(number: int) -> None:
        client = Client(portal.port, dict(page.headers))
        path = first
        time.sleep(number / CROWD)
        while time.monotonic() < end:
            due = time.monotonic() + 1
            try:
                answer = client.ask("GET", path)
            except OSError as error:
                errors.append(str(error))
                continue
            took.append(answer.seconds)
            if answer.status == 200:
                path = _poll_path(answer.body)
            elif answer.status != 204:
                errors.append(str(answer.status))
            time.sleep(max(0.0, due - time.monotonic()))

    web = portal.web()
    before = cpu(web)
    _together(CROWD, watch)
    used = (cpu(web) - before) / CROWD_SECONDS
    api.ask("DELETE", "/api/jobs/crowd")
    p95 = quantile(took, 0.95)
    return [
        Row(
            f"{CROWD} people on a job page, a poll a second each, {CROWD_SECONDS} s: p50 / p95",
            f"{both(took)}, {len(errors)} errors",
            reach="p95 ≤ 300 ms, 0 errors",
            reached=p95 <= 0.3 and not errors,
        ),
        Row(
            "the same: polls that were answered; processor of the web process",
            f"{len(took):,}; {used:.0%} of a core, {milliseconds(used * CROWD_SECONDS / max(1, len(took)))} each",
        ),
    ]


def _poll_path(page: bytes) -> str:
    found = page.split(b'id="poller"', 1)[1].split(b'hx-get="', 1)[1].split(b'"', 1)[0]
    return found.decode().replace("&amp;", "&")


def _wait(condition: Callable[[], object], pause: float) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        time.sleep(pause)
