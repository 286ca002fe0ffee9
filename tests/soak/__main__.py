"""`python -m tests.soak --jobs 100000 --seed 1 [--database URL]`: the table, and exit status 1 for a violation."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from app.config import Config
from tests.soak.drive import PARTS, Result, Soak, flat
from tests.soak.faults import Rates

KEY = "a key for the soak, and for nothing else: 0123456789"


def soak(jobs: int, seed: int, rates: Rates, database: str, quiet: bool = False) -> Result:
    with tempfile.TemporaryDirectory(prefix="simpletrain-soak-") as folder:
        config = Config(data_dir=Path(folder), secret_key=KEY, database_url=database)
        began = time.monotonic()

        def say(text: str) -> None:
            if not quiet:
                print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

        return Soak(config, seed, jobs, rates, say).run()


def table(result: Result, grown: list[str]) -> str:
    by_kind = {"kills": 0, "calls of a cluster that failed": 0, "commits that failed": 0}
    other: dict[str, int] = {}
    for what, count in sorted(result.faults.items()):
        if what.startswith("killed"):
            by_kind["kills"] += count
        elif what.startswith("commit:"):
            by_kind["commits that failed"] += count
        elif ": " in what:
            by_kind["calls of a cluster that failed"] += count
        elif what.startswith("stopped by a person"):
            other["stops in the middle of a step"] = other.get("stops in the middle of a step", 0) + count
        else:
            other[what] = count
    rows = [
        ("seed, database", f"{result.seed}, {result.database}"),
        ("jobs; object sets made", f"{result.jobs:,}; {result.made:,}"),
        ("ends", ", ".join(f"{count:,} {state}" for state, count in result.ends.most_common())),
        ("faults", ", ".join(f"{count:,} {what}" for what, count in {**by_kind, **other}.items())),
        ("seconds", f"{result.seconds:,.0f}; {result.jobs / max(0.1, result.seconds):.0f} jobs a second"),
    ]
    if len(result.parts) >= PARTS:
        warm, last = result.parts[PARTS // 5], result.parts[-2]
        first, end = (1, 7), (PARTS - 7, PARTS - 1)
        cpu = result.cpu(*first) * 1000, result.cpu(*end) * 1000
        rows += [
            ("memory after a fifth, at the end", f"{warm.memory / 1e6:.0f} MB, {last.memory / 1e6:.0f} MB"),
            (
                "launch to final state, p50, after a fifth, at the end",
                f"{median(warm.ticks):.0f}, {median(last.ticks):.0f} rounds of the worker",
            ),
            (
                "processor for each job, people and checks included, in the first third, in the last",
                f"{cpu[0]:.1f} ms, {cpu[1]:.1f} ms; "
                f"{result.cost(*first):.2f} and {result.cost(*end):.2f} × a fixed piece of work",
            ),
        ]
    rows.append(("violations", f"{len(result.violations) + len(grown)}"))
    return "\n".join(["| what | got |", "|---|---|", *(f"| {what} | {got} |" for what, got in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database", default="", help="SQLAlchemy URL of an empty database; SQLite if left out")
    parser.add_argument("--faults", type=float, default=1.0, help="how many times as many as usual")
    asked = parser.parse_args()
    result = soak(asked.jobs, asked.seed, Rates().times(asked.faults), asked.database)
    grown = flat(result)
    print(table(result, grown))
    if result.violations or grown:
        print("\n".join(["", *result.violations, *grown]))
        print(f"Once more: python -m tests.soak --jobs {asked.jobs} --seed {asked.seed} --faults {asked.faults}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
