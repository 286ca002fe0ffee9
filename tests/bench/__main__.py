"""Measures, prints a table, and with --write keeps it in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from app.config import REPOSITORY
from app.installation.service import operator_email
from tests.bench.data import fill
from tests.bench.kubernetes import on_kubernetes
from tests.bench.rows import Row, milliseconds, quantile
from tests.bench.served import Client, Served, cpu, memory


def timed(ask: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        found.append(time.perf_counter() - began)
    return found


def small(folder: Path) -> list[Row]:
    """A fresh portal: start, idle, launches, polls."""
    rows = []
    with Served(folder, {"LOCAL_SLOTS": "200"}) as portal:
        rows.append(Row("start of serve to its sign-in line, new folder", f"{portal.started_in:.1f} s"))
        pids = portal.processes()
        before, began = cpu(pids), time.monotonic()
        time.sleep(60)
        used = (cpu(pids) - before) / (time.monotonic() - began)
        held = memory(pids)
        rows.append(
            Row(
                "idle: memory of serve, web and worker (PSS)",
                f"{held / 1e6:.0f} MB",
                reach="≤ 200 MB",
                reached=held <= 200e6,
            )
        )
        rows.append(Row("idle: processor", f"{used:.2%} of a core", reach="≤ 1 %", reached=used <= 0.01))
        api = portal.api(operator_email())
        rows += launches(portal, api)
        rows += polls(portal, api)
        rows += crowd(portal, api)
    return rows


def launches(portal: Served, api: Client) -> list[Row]:
    floor = timed(lambda: subprocess.run(["/bin/sh", "-c", "echo hello"], capture_output=True, check=True), 50)
    seen = []
    for number in range(30):
        name = f"bench-{number}"
        asked = {"preset": "digits", "name": name, "command": "echo hello; sleep 0.2"}
        assert api.ask("POST", "/api/jobs", asked).status == 201
        began = time.perf_counter()
        while not api.ask("GET", f"/api/jobs/{name}/logs").body:
            time.sleep(0.005)
        seen.append(time.perf_counter() - began)
    base = statistics.median(floor)
    rows = [
        Row(
            "launch acknowledged to its first line in the API, this machine, p50",
            milliseconds(statistics.median(seen)),
            f"a bare /bin/sh: {milliseconds(base)}",
            statistics.median(seen) / base,
        ),
        Row("the same, p95", milliseconds(quantile(seen, 0.95))),
    ]
    took: list[float] = []
    refused: list[int] = []

    def one(number: int) -> None:
        client = Client(portal.port, dict(api.headers))
        answer = client.ask("POST", "/api/jobs", {"preset": "digits", "name": f"burst-{number}", "command": "true"})
        took.append(answer.seconds)
        if answer.status != 201:
            refused.append(answer.status)

    began = time.perf_counter()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    acknowledged = time.perf_counter() - began
    while any(
        job["state"] not in ("succeeded", "failed")
        for job in api.ask("GET", "/api/jobs?q=burst&limit=200").json()["jobs"]
    ):
        time.sleep(0.2)
    done = time.perf_counter() - began
    rows.append(
        Row(
            "100 launches at once: all acknowledged",
            f"{acknowledged:.2f} s, {len(refused)} refused",
            reached=not refused,
        )
    )
    rows.append(Row("100 launches at once: all ended", f"{done:.1f} s"))
    return rows


def polls(portal: Served, api: Client) -> list[Row]:
    """Processor time of the web process for each poll, beside a request that does nothing."""
    asked = {
        "preset": "digits",
        "name": "watched",
        "command": "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done",
    }
    assert api.ask("POST", "/api/jobs", asked).status == 201
    page = portal.browser()
    while b"poller" not in (answer := page.ask("GET", "/orgs/lab/jobs/watched")).body or b"line 3" not in answer.body:
        time.sleep(0.2)
    web = portal.web()

    def each(path: Callable[[], str], times: int, status: int) -> float:
        before = cpu(web)
        for _ in range(times):
            answer = page.ask("GET", path())
            assert answer.status == status, (answer.status, path())
        return (cpu(web) - before) / times

    floor = each(lambda: "/healthz", 2000, 200)
    version = api.ask("GET", "/api/jobs/watched").json() and _version(answer.body)
    quiet = f"/orgs/lab/jobs/watched/poll?version={version}&since=0&size={1 << 40}&every=1"
    nothing = each(lambda: quiet, 1000, 204)
    size = [0]

    def twenty() -> str:
        size[0] = 0
        return f"/orgs/lab/jobs/watched/poll?version={version}&since=0&size=1&every=1"

    lines = each(twenty, 200, 200)
    api.ask("DELETE", "/api/jobs/watched")
    return [
        Row(
            "poll with nothing new: processor time",
            milliseconds(nothing),
            f"/healthz: {milliseconds(floor)}",
            nothing / floor,
            "≤ 3 ms",
            nothing <= 0.003,
        ),
        Row(
            "poll with new lines: processor time",
            milliseconds(lines),
            f"/healthz: {milliseconds(floor)}",
            lines / floor,
        ),
    ]


def _version(page: bytes) -> str:
    return page.split(b"version=", 1)[1].split(b"&", 1)[0].decode()


def crowd(portal: Served, api: Client) -> list[Row]:
    """200 people on a job page with its log, one poll a second each, for 60 s."""
    asked = {
        "preset": "digits",
        "name": "crowd",
        "command": "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.5; done",
    }
    assert api.ask("POST", "/api/jobs", asked).status == 201
    page = portal.browser()
    while b"line 2" not in (answer := page.ask("GET", "/orgs/lab/jobs/crowd")).body:
        time.sleep(0.2)
    first = _poll_path(answer.body)
    took: list[float] = []
    errors: list[int] = []
    end = time.monotonic() + 60

    def watch(offset: float) -> None:
        client = Client(portal.port, dict(page.headers))
        path = first
        time.sleep(offset)
        while time.monotonic() < end:
            due = time.monotonic() + 1
            answer = client.ask("GET", path)
            took.append(answer.seconds)
            if answer.status == 200:
                path = _poll_path(answer.body)
            elif answer.status != 204:
                errors.append(answer.status)
            time.sleep(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=watch, args=(number / 200,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.ask("DELETE", "/api/jobs/crowd")
    p95 = quantile(took, 0.95)
    return [
        Row(
            f"200 people, one poll a second each, 60 s: p95 of {len(took):,} polls",
            milliseconds(p95),
            reach="≤ 300 ms, 0 errors",
            reached=p95 <= 0.3 and not errors,
        ),
        Row("the same: p50, errors", f"{milliseconds(statistics.median(took))}, {len(errors)}"),
    ]


def _poll_path(page: bytes) -> str:
    found = page.split(b'id="poller"', 1)[1].split(b'hx-get="', 1)[1].split(b'"', 1)[0]
    return found.decode().replace("&amp;", "&")


def large(folder: Path) -> list[Row]:
    """Lists over a million jobs, 100,000 of them in the org that is asked about."""
    fill(folder)
    rows = []
    with Served(folder) as portal:
        page, api = portal.browser(), portal.api(operator_email())
        floor = statistics.median(timed(lambda: page.ask("GET", "/healthz"), 200))
        deep = api.ask("GET", "/api/jobs?org=lab&limit=1").json()["jobs"]
        assert deep
        for what, path in (
            ("first page", "/orgs/lab/jobs"),
            ("one state", "/orgs/lab/jobs?state=failed"),
            ("mine", "/orgs/lab/jobs?mine=1"),
            ("search, many found", "/orgs/lab/jobs?q=run-0"),
            ("search, one found", "/orgs/lab/jobs?q=000777"),
            ("search, none found", "/orgs/lab/jobs?q=nothing-like-it"),
            ("deep page", "/orgs/lab/jobs?before=50000"),
            ("self-refresh, nothing new", ""),
        ):
            asked = path
            if not asked:
                seen = (
                    page.ask("GET", "/orgs/lab/jobs")
                    .body.split(b"seen=", 1)[1]
                    .split(b'"', 1)[0]
                    .split(b"&", 1)[0]
                    .decode()
                )
                asked = f"/orgs/lab/jobs-list?seen={seen}"
            p95 = quantile(timed(lambda asked=asked: page.ask("GET", asked), 60), 0.95)  # type: ignore[misc]
            rows.append(
                Row(
                    f"list page, 100,000 of 1,000,000 jobs: {what}, p95",
                    milliseconds(p95),
                    f"/healthz: {milliseconds(floor)}",
                    p95 / floor,
                    "≤ 50 ms",
                    p95 <= 0.05,
                )
            )
        p95 = quantile(timed(lambda: api.ask("GET", "/api/jobs?org=lab"), 60), 0.95)
        rows.append(
            Row(
                "list API, the same: first page, p95",
                milliseconds(p95),
                f"/healthz: {milliseconds(floor)}",
                p95 / floor,
                "≤ 50 ms",
                p95 <= 0.05,
            )
        )
    return rows


def installed() -> list[Row]:
    site = next((REPOSITORY / ".venv" / "lib").glob("python*/site-packages"), None)
    if site is None:
        return []
    total = sum(path.lstat().st_size for path in site.rglob("*") if path.is_file())
    return [Row("size of .venv's packages as installed here", f"{total / 1e6:.0f} MB")]


def table(rows: list[Row]) -> str:
    lines = ["| what | got | floor | ratio | reach |", "|---|---|---|---|---|"]
    for row in rows:
        mark = "" if row.reached is None else " ✓" if row.reached else " ✗"
        ratio = f"{row.ratio:.1f} ×" if row.ratio is not None else ""
        lines.append(f"| {row.what} | {row.got} | {row.floor} | {ratio} | {row.reach}{mark} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/benchmarks.md")
    parser.add_argument("--only", choices=["small", "large", "kubernetes"], help="measure only a part")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="simpletrain-bench-") as folder:
        if arguments.only in (None, "small"):
            rows += small(Path(folder) / "small")
        if arguments.only in (None, "large"):
            rows += large(Path(folder) / "large")
    if arguments.only in (None, "kubernetes"):
        rows += on_kubernetes()
    rows += installed()
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    how = f"Measured {datetime.now(UTC):%Y-%m-%d} by `make bench` in one run on {machine}, which bore the load too."
    text = f"{how}\n\n{table(rows)}\n"
    print(text)
    if arguments.write:
        path = REPOSITORY / "docs" / "benchmarks.md"
        path.write_text(f"# Benchmarks\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
