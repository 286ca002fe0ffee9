"""What a page shows of a log, and that polls put together are the whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.logs import service, terminal, view
from app.logs.models import LogStream
from app.logs.view import GROUP, WINDOW, Gap, Line, View
from tests.logs.conftest import Printer
from tests.logs.test_archive import few, many, skips


def shown(seen: View) -> list[tuple[int, str] | str]:
    """Numbers and texts of lines, and "gap" for gaps."""
    return [
        (item.number, str(item.html)) if isinstance(item, Line) else "gap"
        for group in seen.groups
        for item in group.items
    ]


def polls(stream: LogStream, since: int = 0, style: str = "") -> Iterator[View]:
    """What a page gets that polls until there is nothing more."""
    while True:
        seen = view.new(stream, since, style)
        yield seen
        if not seen.more_below:
            return
        assert seen.since > since, "a poll that does not get on"
        since, style = seen.since, seen.style


def lines(*numbers: int) -> list[tuple[int, str]]:
    return [(number, f"line {number}") for number in numbers]


def numbered(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, last + 1))


said_lines = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"d\n"]), max_size=20).map(b"".join)


@many
@given(said=st.lists(st.tuples(said_lines, skips), max_size=10), window=st.integers(1, 7), room=st.integers(1, 30))
def test_polls_put_together_are_the_whole_with_continuous_numbers(
    printer: Printer,
    said: list[tuple[bytes, int | None]],
    window: int,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "WINDOW", window)
    monkeypatch.setattr(view, "WINDOW_BYTES", room)
    monkeypatch.setattr(service, "MERGE", 8)
    stream = printer.fresh()
    expected: list[tuple[int, str] | str] = []
    rest = b""
    number = 1
    got: list[tuple[int, str] | str] = []
    since, style = 0, ""
    for data, skipped in said:
        printer.print(stream, data, skipped)
        if skipped is None or skipped:
            if rest:
                expected.append((number, rest.decode()))
                number += 1
            expected.append("gap")
            rest = b""
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            expected.append((number, line.decode()))
            number += 1
        for seen in polls(stream, since, style):
            got += shown(seen)
            since, style = seen.since, seen.style
        assert got == expected
        assert seen.size == stream.size
        opened = seen.open_line
        assert (opened.number, str(opened.html)) == (number, rest.decode()) if opened else rest == b""


@many
@given(said=st.lists(st.tuples(said_lines, skips), max_size=10), window=st.integers(1, 7), room=st.integers(1, 30))
def test_going_up_from_the_tail_reaches_the_beginning_and_shows_everything_once(
    printer: Printer,
    said: list[tuple[bytes, int | None]],
    window: int,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "MERGE", 8)
    stream = printer.fresh()
    for data, skipped in said:
        printer.print(stream, data, skipped)
    whole = [item for seen in polls(stream) for item in shown(seen)]
    monkeypatch.setattr(view, "WINDOW", window)
    monkeypatch.setattr(view, "WINDOW_BYTES", room)
    seen = view.tail(stream)
    assert not seen.more_below
    got = shown(seen)
    while seen.more_above:
        seen = view.above(stream, seen.first_line)
        assert seen.first_line, "a page that does not get on"
        got = shown(seen) + got
    assert got == whole


@few
@given(said=st.lists(st.sampled_from([b"x" * 90 + b"\n", b"\n" * 20, b"y" * 50, b"short\n"]), min_size=10, max_size=60))
def test_a_page_of_a_log_beyond_its_limit_has_no_number_twice_and_one_gap(
    printer: Printer, said: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 16)
    stream = printer.fresh()
    since, style = 0, ""
    for part in said:
        printer.print(stream, part, limit=500)
        for seen in polls(stream, since, style):
            since, style = seen.since, seen.style
    page = [item for seen in polls(stream) for item in shown(seen)] + [
        (item.number, "") if isinstance(item, Line) else "gap" for item in view.tail(stream).open_items
    ]
    numbers = [item[0] for item in page if not isinstance(item, str)]
    assert numbers == sorted(set(numbers))
    assert page.count("gap") == len(service.gaps(stream.attempt_id, stream.rank, 0, stream.size))
    assert numbers == [] or numbers[-1] >= stream.lines
    assert since == stream.line_start


def test_the_tail_shows_the_last_lines_and_knows_that_there_are_more(printer: Printer) -> None:
    stream = printer.printed(numbered(1, 5000))
    seen = view.tail(stream)
    assert shown(seen) == lines(*range(3001, 5001))
    assert seen.more_above
    assert not seen.more_below
    assert seen.since == stream.size
    above = view.above(stream, seen.first_line)
    assert shown(above) == lines(*range(1001, 3001))
    assert shown(view.above(stream, above.first_line)) == lines(*range(1, 1001))
    assert not view.above(stream, 1001).more_above


def test_around_a_line_are_lines_on_both_sides(printer: Printer) -> None:
    stream = printer.printed(numbered(1, 5000))
    seen = view.around(stream, 2500)
    assert shown(seen) == lines(*range(1500, 3500))
    assert seen.more_above
    assert seen.more_below
    assert shown(view.below(stream, seen.last_line + 1)) == lines(*range(3500, 5001))
    assert view.around(stream, 10**18).last_line == 5000
    assert view.around(stream, 1).first_line == 1


def test_long_lines_leave_no_hole_between_tail_and_what_is_above(printer: Printer) -> None:
    long = b"".join(b"%06d " % number + b"x" * 993 + b"\n" for number in range(1, 3001))
    stream = printer.printed(long)
    seen = view.tail(stream)
    assert seen.last_line == 3000
    assert not seen.more_below
    first = seen.first_line
    while seen.more_above:
        seen = view.above(stream, first)
        assert seen.last_line == first - 1
        first = seen.first_line
    assert first == 1
    around = view.around(stream, 1500)
    assert around.first_line < 1500 < around.last_line


def test_lines_are_in_groups_of_200_and_polls_go_on_in_the_last_one(printer: Printer) -> None:
    stream = printer.printed(numbered(1, 250))
    first = view.tail(stream)
    assert [(group.index, group.start, len(group.items), group.continues) for group in first.groups] == [
        (0, 1, 200, False),
        (1, 201, 50, False),
    ]
    printer.print(stream, numbered(251, 600))
    seen = view.new(stream, first.since, first.style)
    assert [(group.index, group.start, len(group.items), group.continues) for group in seen.groups] == [
        (1, 251, 150, True),
        (2, 401, 200, False),
    ]
    assert GROUP == 200


def test_a_page_takes_at_most_2000_lines_of_a_flood_and_the_polls_catch_up(printer: Printer) -> None:
    stream = printer.printed(numbered(1, 4500))
    seen = list(polls(stream))
    assert [len(shown(each)) for each in seen] == [WINDOW, WINDOW, 500]
    assert [item for each in seen for item in shown(each)] == lines(*range(1, 4501))
    assert [each.open_line for each in seen] == [None] * 3


def test_a_style_is_carried_from_poll_to_poll(printer: Printer) -> None:
    stream = printer.printed(b"\x1b[31mred\n")
    first = view.new(stream, 0, "")
    printer.print(stream, b"still red\x1b[0m\nplain\n")
    second = view.new(stream, first.since, first.style)
    assert shown(second) == [(2, '<span class="f1">still red</span>'), (3, "plain")]
    assert second.style == ""


def test_the_unfinished_line_is_shown_and_drawn_anew(printer: Printer) -> None:
    stream = printer.printed(b"done\n\x1b[32m10%")
    first = view.tail(stream)
    assert first.open_line == Line(2, terminal.show(b"\x1b[32m10%", terminal.Style()).html, 0, 0)
    assert first.style == ""  # what the unfinished line sets does not hold at its beginning
    printer.print(stream, b"\r20%")
    second = view.new(stream, first.since, first.style)
    assert second.groups == []
    assert second.open_line is not None
    assert str(second.open_line.html) == '<span class="f2">20%</span>'
    assert second.open_line.folded == 1


def test_of_a_progress_bar_of_1_mb_only_the_end_is_read(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = printer.printed(b"start\n", *(b"%7d/100000\r" % step * 1000 for step in range(80)))
    assert stream.size > 1_000_000
    read = 0
    decompress = zlib.decompress

    def counted(data: bytes) -> bytes:
        nonlocal read
        out = decompress(data)
        read += len(out)
        return out

    monkeypatch.setattr("zlib.decompress", counted)
    seen = view.new(stream, 6, "")
    assert seen.open_line is not None
    assert str(seen.open_line.html) == "     79/100000"
    assert read <= 2 * service.CHUNK
    assert seen.since == 6


def test_a_line_longer_than_memory_should_hold_is_shown_from_its_beginning_and_its_last_state(
    printer: Printer,
) -> None:
    stream = printer.printed(*(b"x" * 1_000_000 for _ in range(3)), b"\n")
    (line,) = [item for group in view.tail(stream).groups for item in group.items]
    assert isinstance(line, Line)
    assert len(line.html) == terminal.LINE_LIMIT
    assert line.cut == 3_000_000 - terminal.LINE_LIMIT
    stream = printer.printed(*(b"\x1b[31mstep %06d\r" % step * 1000 for step in range(100)), b"\x1b[0mend\r\nnext\n")
    first, second = [item for seen in polls(stream) for group in seen.groups for item in group.items]
    assert isinstance(first, Line)
    assert isinstance(second, Line)
    assert str(first.html) == "end"
    assert first.folded == 100_000
    assert str(second.html) == "next"


def test_work_on_a_line_of_10_mb_grows_with_its_length_and_not_its_square(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0

    class Counted(bytearray):
        def __iadd__(self, more: bytes) -> Counted:  # type: ignore[override,misc]
            nonlocal copied
            copied += len(more)
            return super().__iadd__(more)

    monkeypatch.setattr(view, "bytearray", Counted, raising=False)
    stream = printer.printed(*(b"y" * 250_000 for _ in range(40)), b"needle\n")
    assert view.find(stream, "needle").lines == [1]
    assert copied == 10_000_006
    shown_bytes: list[int] = []
    show = terminal.show

    def counted(line: bytes, style: terminal.Style) -> terminal.Shown:
        shown_bytes.append(len(line))
        return show(line, style)

    monkeypatch.setattr(terminal, "show", counted)
    view.tail(stream)
    assert sum(shown_bytes) <= view.REST


def test_a_gap_is_shown_where_it_is_with_its_size_and_why(printer: Printer) -> None:
    stream = printer.printed(b"one\ncut o")
    printer.print(stream, b"three\n", skipped=1234)
    printer.print(stream, b"four\n", skipped=None)
    seen = view.tail(stream)
    assert shown(seen) == [(1, "one"), (2, "cut o"), "gap", (3, "three"), "gap", (4, "four")]
    gaps = [item for group in seen.groups for item in group.items if isinstance(item, Gap)]
    assert gaps == [Gap(3, 1234, "The disk was full."), Gap(4, None, "The disk was full.")]


def test_a_gap_at_the_very_beginning_and_the_very_end_is_shown(printer: Printer) -> None:
    stream = printer.fresh()
    printer.print(stream, b"late\n", skipped=None)
    printer.print(stream, b"", skipped=5, complete=True)
    seen = view.tail(stream)
    assert shown(seen) == ["gap", (1, "late"), "gap"]
    assert seen.complete
    assert shown(view.new(stream, seen.since, "")) == []


def test_the_numbers_behind_a_trimmed_middle_are_the_true_ones(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 0)
    stream = printer.fresh()
    for number in range(1, 101):
        printer.print(stream, b"line %d\n" % number, limit=200)
    seen = view.tail(stream)
    items = shown(seen)
    at = items.index("gap")
    assert items[:at] == lines(*range(1, at + 1))
    assert items[at + 1 :] == lines(*range(101 - len(items[at + 1 :]), 101))
    (gap,) = [item for group in seen.groups for item in group.items if isinstance(item, Gap)]
    assert gap.before == items[at + 1][0]


def test_the_middle_of_one_giant_line_that_went_missing_is_marked(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 0)
    stream = printer.printed(b"a\n")
    for _ in range(50):
        printer.print(stream, b"z" * 10, limit=100)
    seen = view.tail(stream)
    assert shown(seen) == [(1, "a")]
    assert [type(item) for item in seen.open_items] == [Gap, Line]
    assert shown(view.new(stream, seen.since, "")) == []  # it is drawn with the open line, not added at each poll
    printer.print(stream, b"\nnext\n", limit=1000)
    (gap, line, after) = shown(view.new(stream, seen.since, ""))
    assert gap == "gap"
    assert line[0] == 2
    assert after == (3, "next")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("line 7", [7, *range(70, 80), *range(700, 801 - 1)]),
        ("LINE 999", [999]),
        ("no such thing", []),
        ("open end", [1001]),
    ],
)
def test_finding_gives_the_numbers_of_the_lines(printer: Printer, text: str, found: list[int]) -> None:
    stream = printer.printed(numbered(1, 500), numbered(501, 1000), b"the open end")
    assert view.find(stream, text) == view.Found(found, whole=True)


def test_finding_looks_through_colours_and_invisible_characters(printer: Printer) -> None:
    stream = printer.printed("x\nCUDA out \x1b[31mof\x1b[0m mem\u202eory\n10%\rfolded away\rleft\n".encode())
    assert view.find(stream, "cuda out of memory").lines == [2]
    assert view.find(stream, "folded").lines == []
    assert view.find(stream, "left").lines == [3]


def test_finding_numbers_lines_rightly_behind_a_gap(printer: Printer) -> None:
    stream = printer.printed(b"one\ncut")
    printer.print(stream, b"off\nthere\n", skipped=10)
    assert view.find(stream, "cut").lines == [2]
    assert view.find(stream, "cutoff").lines == []
    assert view.find(stream, "there").lines == [4]


def test_finding_stops_at_many_matches_and_says_so(printer: Printer) -> None:
    stream = printer.printed(b"match\n" * 2000)
    assert view.find(stream, "match") == view.Found(list(range(1, 1001)), whole=False)


def test_finding_does_not_search_without_end(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "FIND_BYTES", 1000)
    monkeypatch.setattr(service, "MERGE", 100)
    stream = printer.printed(*(b"words\n" * 10 for _ in range(100)), b"needle\n")
    assert view.find(stream, "needle") == view.Found([], whole=False)


@pytest.mark.parametrize(
    ("line", "text", "html"),
    [
        (b"a loss of loss", "LOSS", "a <mark>loss</mark> of <mark>loss</mark>"),
        (b"<b>loss</b>", "<b>", "<mark>&lt;b&gt;</mark>loss&lt;/b&gt;"),
        (b"\x1b[31mlo\x1b[0mss", "loss", "<mark>loss</mark>"),
        (b"nothing", "loss", "nothing"),
        ("lo\u202ess".encode(), "loss", "<mark>loss</mark>"),
    ],
)
def test_matches_are_marked(printer: Printer, line: bytes, text: str, html: str) -> None:
    stream = printer.printed(line + b"\n")
    assert shown(view.tail(stream, text)) == [(1, html)]


def test_polls_go_on_in_an_element_that_the_page_has_also_behind_gaps(printer: Printer) -> None:
    stream = printer.fresh()
    printer.print(stream, b"", skipped=None)
    first = view.tail(stream)
    assert [(group.index, group.continues) for group in first.groups] == [(0, False)]
    printer.print(stream, numbered(1, 10))
    second = view.new(stream, first.since, "")
    assert [(group.index, group.continues) for group in second.groups] == [(0, True)]
    printer.print(stream, b"x\n", skipped=5)
    third = view.new(stream, second.since, "")
    assert shown(third) == ["gap", (11, "x")]
    assert [(group.index, group.continues) for group in third.groups] == [(0, True)]


def test_lines_far_behind_what_a_page_has_go_into_an_element_of_their_own(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 0)
    stream = printer.printed(numbered(1, 10))
    first = view.tail(stream)
    for at in range(20):
        printer.print(stream, b"x\n" * 100, limit=300 if at == 19 else 1 << 20)
    seen = view.new(stream, first.since, "")
    assert shown(seen)[100] == "gap"
    numbers = [item[0] for item in shown(seen) if not isinstance(item, str)]
    assert [group.continues for group in seen.groups] == [True, False, False][: len(seen.groups)]
    assert numbers[-1] == 2010
