"""From what a kubelet sends of a container's log to the bytes that were printed, each exactly once. Pure: no network.

The log is asked for with timestamps, because going on after a cut is possible from a time only, and only from a whole
second. So what is sent again has to be recognised. The log is a file that grows, and a request for what came since a
second is answered in the file's order: everything that was taken before comes first, and all of it. It is enough to
know how many lines that are, and a sum over them to see that they are the same. Lines with equal times, or out of
order, make no difference.

A sum that does not come out means that the file was exchanged (the kubelet does so at 10 MiB, and serves the newest
only). Then what follows the last line is taken, and what may be missing before it is said.

A line is given out as it comes, not when it is whole: a progress bar prints for hours without an end of line. The
time stands before the first byte of a line only.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SECOND = 1_000_000_000  # times are in nanoseconds
MARGIN = 1  # seconds before the last line that are asked for again: two streams can be out of order by less
HISTORY = 120  # seconds whose lines are counted, for a clock that is set back
PREFIX = 48  # bytes that a time before a line takes at most
NOTICE = 1024  # bytes kept of a text that is not of the log

_PREFIX = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")

ROTATED = "The node exchanged the log file while the portal did not read it; output {between} may be missing."


@dataclass(slots=True)
class Line:
    """A line that is not whole yet, or the last one that is."""

    time: int
    size: int
    sum: int


@dataclass(slots=True)
class Cursor:
    """Where a pod's log was left."""

    pod: str = ""  # uid
    counts: dict[int, list[int]] = field(default_factory=dict)  # second → how many whole lines, the sum over them
    last: Line | None = None  # the last whole line
    part: Line | None = None  # what was given of the line behind it
    latest: int = 0  # the latest time of all lines
    done: list[str] = field(default_factory=list)  # uids of earlier pods of the rank

    @property
    def since(self) -> int | None:
        """The second to ask from; None: from the beginning."""
        times = [line.time for line in (self.last, self.part) if line is not None]
        return min(times) // SECOND - MARGIN if times else None

    def taken(self) -> tuple[int, int]:
        """How many whole lines from `since` on were taken, and the sum over them."""
        since = self.since or 0
        counted = [count for second, count in self.counts.items() if second >= since]
        return sum(count[0] for count in counted), sum(count[1] for count in counted)

    def count(self, line: Line) -> None:
        second = line.time // SECOND
        bucket = self.counts.get(second)
        if bucket is None:
            bucket = self.counts[second] = [0, 0]
            for old in [each for each in self.counts if each < second - HISTORY]:
                del self.counts[old]
        bucket[0] += 1
        bucket[1] += line.sum
        self.last = line
        self.latest = max(self.latest, line.time)

    def next_pod(self, uid: str) -> None:
        done = [*self.done, self.pod] if self.pod else self.done
        self.pod, self.counts, self.last, self.part, self.latest, self.done = uid, {}, None, None, 0, done

    def to_text(self) -> str:
        since = self.since or 0
        kept: dict[str, Any] = {"pod": self.pod}
        kept["counts"] = [[second, *count] for second, count in self.counts.items() if second >= since]
        for name, line in (("last", self.last), ("part", self.part)):
            if line is not None:
                kept[name] = [line.time, line.size, line.sum]
        kept["latest"] = self.latest
        if self.done:
            kept["done"] = self.done
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        if not text:
            return cls()
        kept = json.loads(text)
        return cls(
            pod=kept["pod"],
            counts={second: [number, total] for second, number, total in kept["counts"]},
            last=Line(*kept["last"]) if "last" in kept else None,
            part=Line(*kept["part"]) if "part" in kept else None,
            latest=kept["latest"],
            done=kept.get("done", []),
        )


class Transcript:
    """One pod's log over any number of answers. Feed it, then take from it until it gives nothing more."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.notice = ""  # what an answer held that had nothing of the log: the kubelet's own words
        self.given = 0  # bytes
        self._raw = b""
        self._at = 0
        self._gap: str | None = None
        self._line: Line | None = None  # the line that the next byte belongs to; None: a line begins
        self._foreign = False  # the line that the next byte belongs to is not of the log
        self._odd = ""  # such lines of this answer
        self.heard = False  # this answer had something of the log
        self._skip: _Skip | None = None  # while what was taken before is recognised
        self._second = (b"", b"", 0)

    def begin(self) -> None:
        """An answer begins, asked for since `cursor.since`."""
        self._raw, self._at = b"", 0
        self._line, self._foreign, self._odd, self.heard, self.notice = None, False, "", False, ""
        number, total = self.cursor.taken()
        self._skip = _Skip(number, total) if number or self.cursor.part else None

    def end(self) -> bool:
        """The answer is over, or was cut; whether everything that was taken before has been recognised in it."""
        if not self.heard:
            self._odd = (self._odd + self._raw[self._at :].decode("utf-8", "replace"))[:NOTICE]
            self.notice = self._odd.strip()
        self._raw, self._at = b"", 0
        self._line = None
        skip, self._skip = self._skip, None
        return skip is None or self._met(skip)

    def feed(self, data: bytes) -> None:
        """Call when `take` has given nothing."""
        self._raw = self._raw[self._at :] + data
        self._at = 0

    def take(self, limit: int) -> tuple[bytes, str | None]:
        """At most `limit` bytes of what was fed, and why something may be missing before them; None: nothing is."""
        out: list[bytes] = []
        room = limit
        while room > 0 and self._gap is None:
            if self._in_a_line:
                data = self._some(room)
                if data is None:
                    break
                out.append(data)
                room -= len(data)
            elif not self._begin_line():
                break
        given = b"".join(out)
        self.given += len(given)
        if given or self._gap is None:
            return given, None
        gap, self._gap = self._gap, None
        return b"", gap

    @property
    def _in_a_line(self) -> bool:
        return self._line is not None or self._foreign

    def _begin_line(self) -> bool:
        """Read the time before a line; whether it is all there."""
        raw, at = self._raw, self._at
        found = _PREFIX.match(raw, at)
        if found is None:
            if len(raw) - at < PREFIX and raw.find(b"\n", at) < 0:
                return False
            self._foreign = True
            return True
        self._at = found.end()
        self.heard = True
        line = Line(self._time(found), 0, zlib.crc32(raw[at : self._at]))
        self._line = line
        skip = self._skip
        if skip is None:
            return True
        if skip.left == 0:
            self._after_the_taken(line, skip)
        elif line.time > self.cursor.latest:
            # newer than all that was taken, and not all of that has come: it is in a file that is gone
            self._stop_skipping(line, None if self._met(skip) else self._between(line.time))
        return True

    def _after_the_taken(self, line: Line, skip: _Skip) -> None:
        """All whole lines that were taken have come. What follows is new, but for what was given of its first line."""
        part = self.cursor.part
        if skip.sum != 0:
            self._stop_skipping(line, self._between(line.time))
        elif part is None:
            self._stop_skipping(line, None)
        elif part.time == line.time:
            skip.part = part
        else:
            self._stop_skipping(line, self._between(line.time))

    def _stop_skipping(self, line: Line, gap: str | None) -> None:
        self._skip = None
        self.cursor.part = None
        self._gap = gap
        self._line = line

    def _some(self, room: int) -> bytes | None:
        """Bytes up to the end of the line or of what is there; None: nothing is there."""
        raw, at = self._raw, self._at
        if at >= len(raw):
            return None
        end = raw.find(b"\n", at) + 1 or len(raw)
        whole = raw[end - 1] == 10
        if self._foreign:
            # the rest of a line that began before the second that was asked from, or words of the kubelet
            self._odd = (self._odd + raw[at:end].decode("utf-8", "replace"))[:NOTICE]
            self._foreign = not whole
            self._at = end
            return b""
        line, skip = self._line, self._skip
        assert line is not None
        if skip is not None:
            if skip.part is not None:
                end = min(end, at + skip.part.size - line.size)
                whole = raw[end - 1] == 10
            self._extend(line, raw[at:end])
            self._at = end
            self._skipped(line, skip, whole)
            return b""
        end = min(end, at + room)
        whole = raw[end - 1] == 10
        data = raw[at:end]
        self._extend(line, data)
        self._at = end
        if whole:
            self.cursor.count(line)
            self.cursor.part = self._line = None
        else:
            self.cursor.part = line
        return data

    @staticmethod
    def _extend(line: Line, data: bytes) -> None:
        line.size += len(data)
        line.sum = zlib.crc32(data, line.sum)

    def _skipped(self, line: Line, skip: _Skip, whole: bool) -> None:
        part = skip.part
        if part is not None:
            if line.size == part.size and line.sum == part.sum and not whole:
                self._skip = None  # the rest of this line is new
                self.cursor.part = line
            elif whole or line.size >= part.size:
                self._skip = None
                self.cursor.part = None
                self._gap = self._between(line.time)
                self._line = None if whole else line
            return
        if whole:
            skip.left -= 1
            skip.sum -= line.sum
            skip.last = line
            self._line = None
            if skip.left == 0 and self.cursor.part is None and skip.sum == 0:
                self._skip = None

    def _met(self, skip: _Skip) -> bool:
        """Whether the last line that was skipped is the last one that was taken, so that nothing is between."""
        last, met = self.cursor.last, skip.last
        if self.cursor.part is not None or last is None or met is None:
            return False
        return (last.time, last.sum) == (met.time, met.sum)

    def _between(self, time: int) -> str:
        last = self.cursor.part or self.cursor.last
        between = f"between {_clock(last.time)} and {_clock(time)}" if last else f"before {_clock(time)}"
        return ROTATED.format(between=between)

    def _time(self, found: re.Match[bytes]) -> int:
        second, fraction, zone = found.group(1), found.group(2), found.group(3)
        if self._second[:2] != (second, zone):
            text = (second + zone).decode().replace("Z", "+00:00")
            self._second = (second, zone, int(datetime.fromisoformat(text).timestamp()))
        return self._second[2] * SECOND + (int(fraction.ljust(9, b"0")) if fraction else 0)


@dataclass(slots=True)
class _Skip:
    left: int  # whole lines that are still to be recognised
    sum: int  # over those
    last: Line | None = None
    part: Line | None = None  # the line that is being recognised is this one


def _clock(time: int) -> str:
    return f"{datetime.fromtimestamp(time // SECOND, UTC):%H:%M:%S}"
