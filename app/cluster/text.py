"""How amounts read in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(number: int) -> str:
    amount = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def minute(seconds: float) -> str:
    return f"{moment(seconds):%Y-%m-%d %H:%M} UTC"
