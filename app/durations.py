"""Lengths of time as people write them: 90s, 10m, 24h, 1h30m, 7d."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 3650 * 86400  # what can be added to a date and written in hours
_WRITTEN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)


def seconds(written: str) -> int:
    """How many seconds `written` means. Raises ValueError with a sentence that says how to write it."""
    found = _WRITTEN.fullmatch(written.strip().replace(" ", "").lower())
    if not found or not any(found.groups()):
        raise ValueError("Write a number with its unit, such as 90s, 10m, 24h or 7d.")
    total = sum(int(number or 0) * _UNITS[unit] for number, unit in zip(found.groups(), "dhms", strict=True))
    if total < 1:
        raise ValueError("It must be at least 1s.")
    if total > LONGEST:
        raise ValueError("It can be at most 3650d.")
    return total


def written(total: int) -> str:
    """The shortest way to write `total` seconds that `seconds` reads back."""
    parts = []
    rest = total
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    return "".join(parts) or "0s"


def spoken(total: float) -> str:
    """A length to read, to two units: 45 s, 3 h 12 min, 2 d 4 h."""
    whole = max(0, round(total))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for index, (unit, size) in enumerate(units):
        if whole >= (size if unit != "d" else 2 * size):  # people say 24 h and 36 h
            text = f"{whole // size} {unit}"
            if index + 1 < len(units):
                smaller, small = units[index + 1]
                rest = whole % size // small
                # seconds beside minutes matter only while there are few of both
                if rest and not (unit == "min" and whole >= 600):
                    text += f" {rest} {smaller}"
            return text
    return "0 s"
