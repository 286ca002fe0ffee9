"""The part of a stream that a page shows: numbered lines in groups of 200, gaps between them, one unfinished line."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup, escape

from app.logs import service, terminal
from app.logs.models import LogStream
from app.logs.service import Missing
from app.logs.terminal import Style

WINDOW = 2000  # lines in one answer at most
WINDOW_BYTES = 512 << 10  # and bytes, unless a single line is longer
GROUP = 200  # lines in one element, which the browser skips while it is out of sight
OPEN_LINE = 64 << 10  # bytes of an unfinished line that are looked at
FIND_BYTES = 64 << 20  # bytes searched in one answer
REST = 1 << 20  # bytes of one line that are held in memory; of a longer one the end is not looked at


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # from 1
    html: Markup
    folded: int
    cut: int


@dataclass(frozen=True, slots=True)
class Gap:
    before: int  # number of the line that follows it
    size: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Group:
    """Lines and gaps that go into one element: those whose numbers divided by 200 are the same."""

    index: int
    continues: bool  # the element is in the page already
    items: list[Line | Gap]

    @property
    def start(self) -> int:
        return next((item.number for item in self.items if isinstance(item, Line)), self.index * GROUP + 1)


@dataclass(frozen=True, slots=True)
class View:
    groups: list[Group]
    since: int  # first byte behind the last whole line shown: where the next poll goes on
    size: int  # bytes of the stream known now
    style: str  # holds at `since`
    open_line: Line | None  # the unfinished line at the end
    open_items: list[Line | Gap]  # that line, behind the gaps in it
    first_line: int  # number of the first line shown; 0 where there is none
    last_line: int
    more_above: bool
    more_below: bool
    complete: bool


@dataclass(slots=True)
class _Builder:
    """Cuts pieces into lines and keeps count of where it is."""

    style: Style
    marks: str = ""
    items: list[Line | Gap] = field(default_factory=list)
    rest: bytearray = field(default_factory=bytearray)
    folded: int = 0  # of the line in `rest`: states that are not held any more
    cut: int = 0  # and bytes
    held: list[Gap] = field(default_factory=list)  # gaps inside the line in `rest`
    since: int = 0
    next_number: int = 1
    lines: int = 0

    def add(self, piece: service.Piece, limit: int) -> bool:
        """Take in bytes up to `limit` lines; whether there was room for all of them."""
        data = piece.data
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self.lines >= limit:
                return False
            self._grow(data[start:end])
            start = end + 1
            self._line(piece.first_byte + start)
        self._grow(data[start:])
        return True

    def _grow(self, data: bytes) -> None:
        self.rest += data
        if len(self.rest) <= REST:
            return
        drawn_over = self.rest.rfind(b"\r", 0, -1)
        if drawn_over >= 0:
            self.folded += terminal.show(bytes(self.rest[:drawn_over]), self.style).folded + 1
            self.cut = 0
            del self.rest[: drawn_over + 1]
        if len(self.rest) > REST:
            end = b"\r" if self.rest.endswith(b"\r") else b""
            self.cut += len(self.rest) - REST - len(end)
            self.rest[REST:] = end

    def _line(self, ends_at: int) -> None:
        line = bytes(self.rest)
        shown = terminal.show(line, self.style)
        html = mark(shown.html, terminal.plain(line), self.marks) if self.marks else shown.html
        self.items += self.held
        self.items.append(Line(self.next_number, html, shown.folded + self.folded, shown.cut + self.cut))
        self.rest.clear()
        self.held.clear()
        self.folded = self.cut = 0
        self.next_number += 1
        self.lines += 1
        self.since = ends_at

    def gap(self, gap: Missing, number: int) -> None:
        """Bytes are missing here; what comes behind them is line `number`."""
        if self.rest and number > self.next_number:
            self._line(gap.first_byte)  # its end is missing
        self.next_number = max(self.next_number, number)
        marker = Gap(self.next_number, gap.size, gap.why)
        if self.rest:
            self.held.append(marker)  # the middle of a line is missing
        else:
            self.items.append(marker)
            self.since = gap.end


def tail(stream: LogStream, marks: str = "") -> View:
    """The last lines."""
    start = _start_before(stream, stream.line_start, stream.lines, WINDOW, WINDOW_BYTES)
    return _from_byte(stream, start, WINDOW, Style(), marks)


def around(stream: LogStream, line: int, marks: str = "") -> View:
    """Lines on both sides of one, counted from 1."""
    number = max(0, min(line - 1, stream.lines))
    end = service.byte_of_line(stream.attempt_id, stream.rank, number)
    start = _start_before(stream, end, number, WINDOW // 2, WINDOW_BYTES // 2)
    return _from_byte(stream, start, WINDOW, Style(), marks)


def above(stream: LogStream, line: int) -> View:
    """The lines right before one, counted from 1."""
    key = (stream.attempt_id, stream.rank)
    number = min(line - 1, stream.lines)
    end = service.byte_of_line(*key, number)
    end = _behind_gap(stream, end)
    start = _start_before(stream, end, number, WINDOW, WINDOW_BYTES)
    return _from_byte(stream, start, WINDOW, Style(), until=(end, number + 1))


def below(stream: LogStream, line: int) -> View:
    """The lines from one on, counted from 1."""
    start = service.byte_of_line(stream.attempt_id, stream.rank, line - 1)
    return _from_byte(stream, start, WINDOW, Style())


def new(stream: LogStream, since: int, style: str) -> View:
    """What follows a poll's position, which is the beginning of a line."""
    return _from_byte(stream, since, WINDOW, Style.of(style))


def _start_before(stream: LogStream, end: int, number: int, lines: int, room: int) -> int:
    """Where to begin so that up to `lines` lines before line `number`, counted from 0, are shown, and not more than
    `room` bytes unless a single line is longer. That line begins at the byte `end`."""
    key = (stream.attempt_id, stream.rank)
    kept = service.last_line_before(*key, end)
    if kept is None:
        return 0
    last, kept_end = kept
    start = service.byte_of_line(*key, min(number, last + 1) - lines)
    if kept_end - start > room:
        start = service.line_start_from(*key, kept_end - room)
        if start >= kept_end:
            start = service.byte_of_line(*key, last)
    # with the first line of all goes the gap that may stand before it
    return 0 if start < service.byte_of_line(*key, 1) else _behind_gap(stream, start)


def _behind_gap(stream: LogStream, position: int) -> int:
    """A gap between two lines is shown with what is above it: pages that begin or end there do so behind it."""
    kept = service.pieces(stream.attempt_id, stream.rank, position, stream.line_start)
    return next((piece.first_byte for piece in kept), position)


def _from_byte(
    stream: LogStream,
    since: int,
    limit: int,
    style: Style,
    marks: str = "",
    until: tuple[int, int] | None = None,  # a byte, and the number of the line that begins there
) -> View:
    builder = _Builder(style, marks, since=since)
    key = (stream.attempt_id, stream.rank)
    end, following = until or (stream.line_start, stream.lines + 1)
    number: int | None = None
    taken = 0
    missing = service.gaps(*key, since, end)
    more_below = False
    for piece in service.pieces(*key, since, end) if end > since else ():
        if number is None:
            number = builder.next_number = piece.first_line + 1
        more_below = builder.lines >= limit or (taken >= WINDOW_BYTES and builder.lines > 0 and until is None)
        if more_below:
            break
        while missing and missing[0].first_byte < piece.first_byte:
            builder.gap(missing.pop(0), piece.first_line + 1)
        if not builder.add(piece, limit):
            more_below = True
            break
        taken += len(piece.data)
    if number is None:
        number = builder.next_number = following
    if not more_below:
        for gap in missing:
            builder.gap(gap, following)
        builder.since = max(builder.since, end)
    at_end = not more_below and until is None
    open_line = _open_line(stream, builder.style) if at_end else None
    ends_inside = at_end and stream.size > stream.line_start
    in_open_line = service.gaps(*key, stream.line_start, stream.size) if ends_inside else []
    open_gaps = [Gap(stream.lines + 1, gap.size, gap.why) for gap in in_open_line]
    numbers = [item.number for item in builder.items if isinstance(item, Line)]
    return View(
        groups=_groups(builder.items, _group_before(stream, since, number) if builder.items else None),
        since=builder.since,
        size=stream.size if at_end else builder.since,
        style=builder.style.classes(),
        open_line=open_line,
        open_items=[*open_gaps, *([open_line] if open_line else [])],
        first_line=numbers[0] if numbers else 0,
        last_line=numbers[-1] if numbers else 0,
        more_above=bool(numbers) and numbers[0] > 1,
        more_below=more_below,
        complete=stream.complete and at_end,
    )


def _open_line(stream: LogStream, style: Style) -> Line | None:
    """The unfinished line, from its last bytes: a progress bar may have been redrawn in it for hours."""
    if stream.size <= stream.line_start:
        return None
    start = max(stream.line_start, stream.size - OPEN_LINE)
    data = b"".join(piece.data for piece in service.pieces(stream.attempt_id, stream.rank, start, stream.size))
    shown = terminal.show(data, Style.of(style.classes()))
    return Line(stream.lines + 1, shown.html, shown.folded, shown.cut)


def _group_before(stream: LogStream, since: int, number: int) -> int | None:
    """The group that a page has last which has everything before a byte; `number` is the line that begins there."""
    key = (stream.attempt_id, stream.rank)
    kept = service.last_line_before(*key, since)
    if kept is not None and kept[1] == since:
        return kept[0] // GROUP
    if any(gap.end == since for gap in service.gaps(*key, since - 1, since)):
        return (number - 1) // GROUP
    return None


def _groups(items: list[Line | Gap], before: int | None) -> list[Group]:
    groups: list[Group] = []
    for item in items:
        number = item.number if isinstance(item, Line) else item.before
        index = (number - 1) // GROUP
        if not groups or groups[-1].index != index:
            groups.append(Group(index, not groups and index == before, []))
        groups[-1].items.append(item)
    return groups


# finding


@dataclass(frozen=True, slots=True)
class Found:
    lines: list[int]  # numbers of the lines that hold the text, in order
    whole: bool  # the whole stream was searched


def find(stream: LogStream, text: str, most: int = 1000) -> Found:
    """The lines that hold `text`, capitals or not, among the first FIND_BYTES bytes."""
    needle = text.casefold()
    found: list[int] = []
    rest = bytearray()
    searched = 0
    number = 1
    for piece in service.pieces(stream.attempt_id, stream.rank, 0, stream.size):
        lines = piece.data.split(b"\n")
        if piece.first_line + 1 > number:  # a gap swallowed the end of the line before
            if rest and needle in terminal.plain(bytes(rest)).casefold():
                found.append(number)
            rest.clear()
        number = piece.first_line + 1
        for line in lines[:-1]:
            rest += line
            if needle in terminal.plain(bytes(rest)).casefold():
                found.append(number)
                if len(found) >= most:
                    return Found(found, whole=False)
            rest.clear()
            number += 1
        rest += lines[-1]
        if len(rest) > REST:  # of a long line its end is searched
            del rest[: len(rest) - REST]
        searched += len(piece.data)
        if searched >= FIND_BYTES:
            return Found(found, whole=stream.size <= piece.end)
    if rest and needle in terminal.plain(bytes(rest)).casefold():
        found.append(number)  # the unfinished line at the end
    return Found(found, whole=True)


def mark(html: Markup, plain: str, text: str) -> Markup:
    """The line with every match marked; it loses its colours where it has a match, so that a match may cross them."""
    plain = plain[: terminal.LINE_LIMIT]
    lowered, needle = plain.casefold(), text.casefold()
    if not needle or needle not in lowered or len(lowered) != len(plain):
        return html
    parts: list[Markup] = []
    position = 0
    while (at := lowered.find(needle, position)) >= 0:
        parts += [escape(plain[position:at]), Markup("<mark>{}</mark>").format(plain[at : at + len(needle)])]
        position = at + len(needle)
    parts.append(escape(plain[position:]))
    return Markup("").join(parts)
