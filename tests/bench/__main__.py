"""Measures, prints the tables, and with --write keeps them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.config import REPOSITORY
from tests.bench.fresh import fresh
from tests.bench.installed import installed
from tests.bench.kubernetes import on_kubernetes
from tests.bench.lists import lists, slopes
from tests.bench.page import page
from tests.bench.rows import POSTGRESQL, SQLITE, Part, Row
from tests.postgresql import NoPostgresql, Postgresql

DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "1GB"}
TITLES = {
    "fresh": "The portal",
    "lists": "Lists, with 100,000 jobs in the org and 1,000,000 in the table",
    "kubernetes": "On a real Kubernetes",
    "installed": "What is installed",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    parser.add_argument("--only", choices=[*TITLES, "slopes"], action="append", help="measure only a part; repeatable")
    parser.add_argument(
        "--database", choices=["sqlite", "postgresql"], help="measure one of them only; both if left out"
    )
    asked = parser.parse_args()
    begun, load = time.monotonic(), os.getloadavg()[0]
    parts = [Part(title) for name, title in TITLES.items() if name in (asked.only or TITLES)]
    with tempfile.TemporaryDirectory(prefix="simpletrain-bench-") as folder:
        if "slopes" in (asked.only or ()):
            parts.append(Part("How lists grow"))
            parts[-1].measure("", lambda: slopes(Path(folder)))
        for part in parts:
            if part.title == TITLES["fresh"]:
                _on_each(part, asked.database, Path(folder) / "fresh", fresh)
            elif part.title == TITLES["lists"]:
                _on_each(part, asked.database, Path(folder) / "lists", lists)
            elif part.title == TITLES["kubernetes"]:
                part.measure("", on_kubernetes)
            elif part.title == TITLES["installed"]:
                part.measure("", installed)
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    minutes = (time.monotonic() - begun) / 60
    how = (
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC in one run of {minutes:.0f} minutes on "
        f"{machine}, which bore the load and the databases too; load average {load:.1f} at the beginning, "
        f"{os.getloadavg()[0]:.1f} at the end."
    )
    text = page(how, [part.table() for part in parts])
    print(text)
    if asked.write:
        (REPOSITORY / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")


def _on_each(part: Part, only: str | None, folder: Path, measured: Callable[[Path, str], Iterable[Row]]) -> None:
    if only != "postgresql":
        part.measure(SQLITE, lambda: measured(folder / "sqlite", ""))
    if only != "sqlite":

        def there() -> Iterator[Row]:
            with _server() as url:
                yield from measured(folder / "postgresql", url)

        part.measure(POSTGRESQL, there)


@contextmanager
def _server() -> Iterator[str]:
    """A PostgreSQL that keeps what it was told, as one in production does; the URL of a database on it."""
    try:
        with Postgresql(settings=DURABLE) as server:
            yield server.url(server.create())
    except NoPostgresql as problem:
        raise RuntimeError(str(problem)) from problem


if __name__ == "__main__":
    main()
