"""A row of the table, and how figures are written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    what: str
    got: str
    floor: str = ""
    ratio: float | None = None
    reach: str = ""  # the figure of the design
    reached: bool | None = None


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
