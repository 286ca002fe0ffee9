"""Reads objects of a cluster without trusting their shape: what is missing, null or odd is empty, never an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]

_EPOCH = datetime.fromtimestamp(0, UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)


def field(found: object, *path: str) -> object:
    for key in path:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def mapping(found: object, *path: str) -> Object:
    value = field(found, *path)
    return value if isinstance(value, dict) else {}


def items(found: object, *path: str) -> list[Object]:
    value = field(found, *path)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(found: object, *path: str) -> str:
    value = field(found, *path)
    return value if isinstance(value, str) else ""


def number(found: object, *path: str) -> int | None:
    value = field(found, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def moment(found: object, *path: str) -> datetime | None:
    """A time; None too for the first second of 1970, which stands for `never` in the status of a container."""
    try:
        read = datetime.fromisoformat(text(found, *path))
        read = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return None if read <= _EPOCH else read


def condition(found: object, kind: str, status: str = "True") -> Object:
    """The condition of that type, where it has that status; else empty."""
    for each in items(found, "status", "conditions"):
        if each.get("type") == kind and each.get("status") == status:
            return each
    return {}


def named(found: list[Object], name: str) -> Object:
    return next((each for each in found if each.get("name") == name), {})


@dataclass(frozen=True, slots=True)
class Event:
    about: str  # uid of the object
    kind: str
    reason: str
    message: str
    warning: bool
    first: datetime
    last: datetime

    def says(self, *reasons: str) -> bool:
        return self.reason in reasons


def events(found: Iterable[object]) -> list[Event]:
    """The oldest first; those without any time, which tell nothing in an order, are left out."""
    read = [event for each in found if (event := _event(each)) is not None]
    return sorted(read, key=lambda event: (event.last, event.first))


def _event(found: object) -> Event | None:
    times = [
        moment(found, "firstTimestamp"),
        moment(found, "eventTime"),
        moment(found, "metadata", "creationTimestamp"),
        moment(found, "series", "lastObservedTime"),
        moment(found, "lastTimestamp"),
    ]
    known = [time for time in times if time is not None]
    if not known:
        return None
    return Event(
        about=text(found, "involvedObject", "uid"),
        kind=text(found, "involvedObject", "kind"),
        reason=text(found, "reason"),
        message=text(found, "message"),
        warning=text(found, "type") == "Warning",
        first=known[0],
        last=max(known),
    )


def latest(found: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in found if time is not None), default=None)


def earliest(found: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in found if time is not None), default=None)


def order(time: datetime | None) -> datetime:
    """For sorting: what has no time comes first."""
    return time or _FIRST
