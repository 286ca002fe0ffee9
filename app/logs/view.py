"""The part of a stream that a page shows: numbered lines in groups of 200, gaps between them, one unfinished line."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup, escape

from app.logs import service, terminal
from app.logs.models import LogGap, LogStream
from app.logs.terminal import Style

WINDOW = 2000  # lines in one answer at most
WINDOW_BYTES = 512 << 10  # and bytes, unless a single line is longer
GROUP = 200  # lines in one element, which the browser skips while it is out of sight
OPEN_LINE = 64 << 10  # bytes of an unfinished line that are looked at
FIND_BYTES = 64 << 20  # bytes searched in one answer


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
    since: int = 0
    next_number: int = 1
    lines: int = 0

    def add(self, data: bytes, limit: int) -> bool:
        """Take in bytes up to `limit` lines; whether there is room for more."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self.lines >= limit:
                return False
            self.rest += data[start:end]
            self._line(bytes(self.rest))
            self.since += len(self.rest) + 1
            self.rest.clear()
            start = end + 1
        self.rest += data[start:]
        return self.lines < limit

    def _line(self, line: bytes) -> None:
        shown = terminal.show(line, self.style)
        html = mark(shown.html, terminal.plain(line), self.marks) if self.marks else shown.html
        self.items.append(Line(self.next_number, html, shown.folded, shown.cut))
        self.next_number += 1
        self.lines += 1

    def gap(self, gap: LogGap, resumes_at: int) -> None:
        if self.rest:  # the line that the gap cut off
            self._line(bytes(self.rest))
            self.rest.clear()
        self.items.append(Gap(self.next_number, gap.size, gap.why))
        self.since = resumes_at


def tail(stream: LogStream, marks: str = "") -> View:
    """The last lines."""
    return _view(stream, max(0, stream.lines - WINDOW + 1), WINDOW, marks=marks)


def around(stream: LogStream, line: int, marks: str = "") -> View:
    """Lines on both sides of one, counted from 1."""
    return _view(stream, max(0, min(line, stream.lines) - WINDOW // 2), WINDOW, marks=marks)


def above(stream: LogStream, line: int) -> View:
    """The lines right before one, counted from 1."""
    first = max(0, line - 1 - WINDOW)
    return _view(stream, first, max(0, line - 1 - first))


def below(stream: LogStream, line: int) -> View:
    """The lines from one on, counted from 1."""
    return _view(stream, line - 1, WINDOW)


def new(stream: LogStream, since: int, style: str) -> View:
    """What follows a poll's position, which is the beginning of a line."""
    return _from_byte(stream, since, WINDOW, Style.of(style))


def _view(stream: LogStream, first: int, limit: int, marks: str = "") -> View:
    start = service.byte_of_line(stream.attempt_id, stream.rank, first)
    return _from_byte(stream, start, limit, Style(), marks)


def _from_byte(stream: LogStream, since: int, limit: int, style: Style, marks: str = "") -> View:
    builder = _Builder(style, marks, since=since)
    key = (stream.attempt_id, stream.rank)
    number: int | None = None
    expected = since
    taken = 0
    missing = {gap.first_byte: gap for gap in service.gaps(*key, since, stream.size)}
    more_below = False
    if stream.line_start > since or missing:
        for piece in service.pieces(*key, since, stream.line_start):
            if number is None:
                number = builder.next_number = piece.first_line + 1
            for gap in [missing.pop(at) for at in sorted(missing) if at <= piece.first_byte and at >= expected]:
                builder.gap(gap, piece.first_byte)
            expected = piece.end
            taken += len(piece.data)
            if not builder.add(piece.data, limit) or (taken >= WINDOW_BYTES and builder.lines):
                more_below = True
                break
    if number is None:
        number = builder.next_number = stream.lines + 1
    if not more_below:
        for at in sorted(missing):
            builder.gap(missing[at], stream.line_start)
        builder.since = max(builder.since, stream.line_start)
    else:
        more_below = builder.since < stream.line_start
    at_end = not more_below
    open_line = _open_line(stream, builder.style) if at_end else None
    numbers = [item.number for item in builder.items if isinstance(item, Line)]
    return View(
        groups=_groups(builder.items, continues_from=number if since else None),
        since=builder.since,
        size=stream.size if at_end else builder.since,
        style=builder.style.classes(),
        open_line=open_line,
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


def _groups(items: list[Line | Gap], continues_from: int | None) -> list[Group]:
    groups: list[Group] = []
    for item in items:
        number = item.number if isinstance(item, Line) else item.before
        index = (number - 1) // GROUP
        if not groups or groups[-1].index != index:
            continues = not groups and continues_from is not None and (continues_from - 1) % GROUP != 0
            groups.append(Group(index, continues, []))
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
    rest = b""
    searched = 0
    number = 1
    for piece in service.pieces(stream.attempt_id, stream.rank, 0, stream.size):
        if not rest:
            number = piece.first_line + 1
        lines = (rest + piece.data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if needle in terminal.plain(line).casefold():
                found.append(number)
                if len(found) >= most:
                    return Found(found, whole=False)
            number += 1
        searched += len(piece.data)
        if searched >= FIND_BYTES:
            return Found(found, whole=False)
    return Found(found, whole=True)


def mark(html: Markup, plain: str, text: str) -> Markup:
    """The line with every match marked; it loses its colours where it has a match, so that a match may cross them."""
    lowered, needle = plain.casefold(), text.casefold()
    if not needle or needle not in lowered or len(lowered) != len(plain):
        return html
    parts: list[Markup] = []
    position = 0
    while (at := lowered.find(needle, position)) >= 0:
        parts += [escape(plain[position:at]), Markup("<mark>{}</mark>").format(plain[at : at + len(needle)])]
        position = at + len(needle)
    parts.append(escape(plain[position : position + terminal.LINE_LIMIT]))
    return Markup("").join(parts)
