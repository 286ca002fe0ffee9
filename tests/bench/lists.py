"""Lists over a million jobs: a request over HTTP, and the server's own share of it, measured inside one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from app import create_app
from app.accounts import service as accounts
from app.config import Config
from app.database import db, transaction
from app.installation.service import operator_email
from tests.bench.data import fill
from tests.bench.retention import retention
from tests.bench.rows import Row, both, milliseconds, quantile
from tests.bench.served import Client, Served

TIMES = 80
REACH = 0.05  # seconds of server time, p95
PAGES: dict[str, str] = {
    "first page": "",
    "one state": "state=failed",
    "active": "state=active",
    "mine": "mine=1",
    "mine in a state": "mine=1&state=failed",
    "search, many found": "q=run-0",
    "search, one found": "q=000777",
    "search, none found": "q=nothing-like-it",
    "search in a state, none found": "state=failed&q=nothing-like-it",
}


def timed(ask: Callable[[], object], times: int = TIMES) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        found.append(time.perf_counter() - began)
    return found


class Inside:
    """The same application in this process: from the request that arrives to the answer that goes out."""

    def __init__(self, config: Config) -> None:
        self._app = create_app(config)
        self.page, self.api = self._app.test_client(), self._app.test_client()
        with self._app.app_context(), transaction():
            user = accounts.by_email(operator_email())
            assert user is not None
            secret = accounts.make_link(user)
        assert self.page.get(f"/sign-in/{secret}").status_code == 303

    def ask(self, path: str, token: str = "") -> None:
        client = self.api if token else self.page
        answer = client.get(path, headers={"Authorization": token} if token else {})
        assert answer.status_code in (200, 204), (answer.status_code, path)

    def close(self) -> None:
        with self._app.app_context():
            db.session.remove()
            db.engine.dispose()


def lists(folder: Path, database_url: str) -> Iterator[Row]:
    fill(Config(data_dir=folder, database_url=database_url))
    with Served(folder, {"DATABASE_URL": database_url}) as portal:
        page, api = portal.browser(), portal.api(operator_email())
        inside = Inside(config_of(portal))
        floor = quantile(timed(lambda: page.ask("GET", "/healthz"), 200), 0.5)
        base = quantile(timed(lambda: inside.ask("/healthz"), 200), 0.5)
        for kind, root, extra in (("page", "/orgs/lab/jobs", deep_pages), ("API", "/api/jobs", deep_cursors)):
            client = page if kind == "page" else api
            token = "" if kind == "page" else api.headers["Authorization"]
            org = "" if kind == "page" else "org=lab"
            paths = {name: f"{root}?{'&'.join(filter(None, (org, query)))}" for name, query in PAGES.items()}
            for name, path in {**paths, **extra(client)}.items():
                outside = timed(lambda client=client, path=path: _asked(client, path))  # type: ignore[misc]
                within = timed(lambda path=path, token=token: inside.ask(path, token))  # type: ignore[misc]
                p95 = quantile(within, 0.95)
                yield Row(
                    f"list {kind}: {name}",
                    f"{both(within)}; over HTTP {both(outside)}",
                    f"/healthz {milliseconds(base)}; over HTTP {milliseconds(floor)}",
                    quantile(within, 0.5) / base,
                    "server time p95 ≤ 50 ms",
                    p95 <= REACH,
                )
        inside.close()
        yield from retention(config_of(portal))


def config_of(portal: Served) -> Config:
    """The settings of a portal that is served, for looking at its database from here."""
    return replace(Config.from_env(portal.environment), local_jobs=False, log_level="WARNING")


def _asked(client: Client, path: str) -> None:
    answer = client.ask("GET", path)
    assert answer.status in (200, 204), (answer.status, path)


def deep_pages(page: Client) -> dict[str, str]:
    first = page.ask("GET", "/orgs/lab/jobs")
    assert first.status == 200
    seen = first.body.split(b"seen=", 1)[1].split(b'"', 1)[0].split(b"&", 1)[0].decode()
    return {
        "deep, half-way down": "/orgs/lab/jobs?before=500000",
        "self-refresh, nothing new": f"/orgs/lab/jobs-list?seen={seen}",
    }


def deep_cursors(api: Client) -> dict[str, str]:
    """Cursors cannot be made up: 20,000 jobs down, page by page."""
    path = "/api/jobs?org=lab&limit=200"
    for _ in range(100):
        answer = api.ask("GET", path)
        assert answer.status == 200, answer.body
        path = f"/api/jobs?org=lab&limit=200&cursor={answer.json()['next']}"
    return {"deep, 20,000 jobs down": path.replace("limit=200&", "")}


def slopes(folder: Path, sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)) -> list[Row]:
    """How the lists of one org grow with its jobs, for docs/scaling.md."""
    settings = [Config(data_dir=folder / str(size), local_jobs=False, log_level="WARNING") for size in sizes]
    return [row for config, size in zip(settings, sizes, strict=True) for row in _slope(config, size)]


def _slope(config: Config, size: int) -> list[Row]:
    fill(config, size, other_orgs=0)
    inside = Inside(config)
    rows = []
    for name, query in (
        ("first page", ""),
        ("one state", "?state=failed"),
        ("half-way down", f"?before={size // 2}"),
        ("search, none found", "?q=nothing-like-it"),
    ):
        took = timed(lambda query=query: inside.ask(f"/orgs/lab/jobs{query}"))  # type: ignore[misc]
        rows.append(Row(f"{size:,} jobs in the org: {name}, server time p50 / p95", both(took)))
    inside.close()
    kept = (config.data_dir / "portal.db").stat().st_size
    rows.append(Row(f"{size:,} jobs in the org: bytes of the jobs' table and its indexes, a job", f"{kept / size:.0f}"))
    return rows
