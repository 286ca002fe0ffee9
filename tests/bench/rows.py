"""A row of the table, and how figures are written."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


@dataclass(frozen=True)
class Row:
    """One figure. The same `what` measured on another database becomes another column of the same row."""

    what: str
    got: str
    floor: str = ""
    ratio: float | None = None
    reach: str = ""  # the figure of the design
    reached: bool | None = None


@dataclass
class Part:
    """Rows that were measured together; why, where they could not be."""

    title: str
    rows: dict[str, list[Row]] = field(default_factory=dict)  # by database; one that does not matter is ""

    def measure(self, database: str, ask: Callable[[], Iterable[Row]]) -> None:
        """A part that fails must not take the others with it, nor vanish."""
        found = self.rows[database] = []
        try:
            for row in ask():
                found.append(row)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})".replace("\n", " ")
            left = "what would follow" if found else "all of it"
            found.append(Row(f"{left}, on {database or 'this machine'}", f"could not be measured: {why[:200]}"))

    def table(self) -> str:
        databases = [name for name in self.rows if self.rows[name]]
        if not databases:
            return ""
        names = " | ".join(name or "got" for name in databases)
        lines = [f"| what | {names} | floor | ratio | reach |", "|" + "---|" * (len(databases) + 4)]
        for what in dict.fromkeys(row.what for name in databases for row in self.rows[name]):
            found = [next((row for row in self.rows[name] if row.what == what), None) for name in databases]
            cells = [f"{row.got}{_mark(row)}" if row is not None else "" for row in found]
            first = next(row for row in found if row is not None)
            ratios = " / ".join(f"{row.ratio:.1f} ×" for row in found if row is not None and row.ratio is not None)
            lines.append(f"| {what} | {' | '.join(cells)} | {first.floor} | {ratios} | {first.reach} |")
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def _mark(row: Row) -> str:
    return "" if row.reached is None else " ✓" if row.reached else " ✗"


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def both(values: list[float]) -> str:
    """p50 and p95."""
    return f"{quantile(values, 0.5) * 1000:.1f} / {quantile(values, 0.95) * 1000:.1f} ms"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
