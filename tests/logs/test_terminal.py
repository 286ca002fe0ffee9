"""Whatever a job prints becomes safe, readable text."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from app.logs import terminal
from app.logs.terminal import LINE_LIMIT, Style, plain, show

NOT_SHOWN = "\ufffd"


def html(line: bytes, style: Style | None = None) -> str:
    return str(show(line, style or Style()).html)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"", ""),
        (b"step 1\tloss 0.5", "step 1\tloss 0.5"),
        ("größer 日本 🚀 e\u0301".encode(), "größer 日本 🚀 e\u0301"),
        (b"windows\r", "windows"),
        (b"<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        (b"\" onmouseover='x' &amp;", "&#34; onmouseover=&#39;x&#39; &amp;amp;"),
        (b"\x1b[31m<b>\x1b[0m", '<span class="f1">&lt;b&gt;</span>'),
        (b"\xff\xfe ok \xc3", f"{NOT_SHOWN}{NOT_SHOWN} ok {NOT_SHOWN}"),
        (b"\xed\xa0\x80", NOT_SHOWN * 3),  # half a surrogate pair
        (b"a\x00b\x07c\x08d", f"a{NOT_SHOWN}b{NOT_SHOWN}c{NOT_SHOWN}d"),
        ("a\u202eb\u2066c\u200fd\u061ce\ufefff".encode(), "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf"),
        ("a\x9b31mb\x85".encode(), f"a{NOT_SHOWN}31mb{NOT_SHOWN}"),  # C1 as characters
        (b"a\x7fb", f"a{NOT_SHOWN}b"),
        # control sequences other than colours
        (b"a\x1b[2K\x1b[1G\x1b[?25lb\x1b[10;20Hc", "abc"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]8;;http://evil/\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b]52;c;cm0gLXJmIC8=\x07x", "x"),
        (b"\x1bPq#0~~\x1b\\x", "x"),
        (b"a\x1b]0;never ended", "a"),
        (b"a\x1b(Bb\x1b=c\x1b", "abc"),
        (b"\x1b[", ""),
        (b"\x1b[<script>m", "cript&gt;m"),  # a control sequence ends with its first letter
    ],
)
def test_a_line_is_shown_as(line: bytes, shown: str) -> None:
    assert html(line) == shown


@pytest.mark.parametrize(
    ("codes", "classes"),
    [
        (b"1", "a1"),
        (b"1;2;3;4;7", "a1 a2 a3 a4 a7"),
        (b"1;22", ""),
        (b"3;23;4;24;7;27", ""),
        (b"31", "f1"),
        (b"97", "f15"),
        (b"31;39", ""),
        (b"44", "b4"),
        (b"104;49", ""),
        (b"31;44", "f1 b4"),
        (b"38;5;9", "f9"),
        (b"38;5;196", "f9"),
        (b"38;5;21", "f12"),
        (b"38;5;232", "f0"),
        (b"38;5;255", "f15"),
        (b"48;5;2", "b2"),
        (b"38;2;255;0;0", "f9"),
        (b"38;2;0;120;0", "f2"),
        (b"38;2;255;255;255", "f15"),
        (b"38;2;128;128;128", "f8"),
        (b"38:5:9", "f9"),
        (b"38:2:255:0:0", "f9"),
        (b"38:2::255:0:0", "f9"),
        (b"38:2::255:0:0;1", "a1 f9"),
        (b"4:3", "a4"),
        (b"4;4:0", ""),
        (b"58;5;1", ""),  # the colour of an underline
        (b"58:2::1:2:3;31", "f1"),
        (b"1;31;0", ""),
        (b"1;31;", ""),  # nothing is 0
        (b"", ""),
        (b"38", ""),
        (b"38;5", ""),
        (b"38;2;1;2", ""),
        (b"38;9;1", ""),
        (b"999;1", "a1"),
        (b"9" * 5000, ""),
        (b"38;5;" + b"9" * 5000, "f0"),
        (b"38;2;99999;99999;99999", "f15"),
    ],
)
def test_colours_and_styles_become_classes(codes: bytes, classes: str) -> None:
    style = Style()
    show(b"\x1b[" + codes + b"m", style)
    assert style.classes() == classes
    assert Style.of(classes).classes() == classes


def test_every_one_of_256_colours_becomes_one_of_16() -> None:
    for number in range(256):
        style = Style()
        style.apply(f"38;5;{number}")
        assert style.text in range(16)


def test_text_and_ground_together_lose_the_text_colour_that_might_be_unreadable() -> None:
    assert html(b"\x1b[37;47mx") == '<span class="b7">x</span>'


def test_a_style_goes_on_into_the_next_line() -> None:
    style = Style()
    show(b"\x1b[1;31mfrom here", style)
    assert html(b"on", style) == '<span class="a1 f1">on</span>'


def test_a_style_read_back_from_an_address_can_only_be_a_style() -> None:
    for forged in ('"><script>', "a1 x", "f99", "a1  f1", "f1\n", "a1 a2 a3 a4 a7 f1 b1 f2", "a5"):
        assert Style.of(forged).classes() == ""


@pytest.mark.parametrize(
    ("line", "shown", "folded"),
    [
        (b"10%\r20%\r30%", "30%", 2),
        (b"10%\r20%\r", "20%", 1),
        (b"\r10%", "10%", 1),
        (b"done\r\r", "done", 0),
        (b"\r\r\r", "", 0),
        (b"\x1b[32m10%\r20%", '<span class="f2">20%</span>', 1),
        (b"\x1b[32m10%\x1b[0m\r20%", "20%", 1),
    ],
)
def test_of_a_redrawn_line_the_last_state_is_shown(line: bytes, shown: str, folded: int) -> None:
    made = show(line, Style())
    assert (str(made.html), made.folded, made.cut) == (shown, folded, 0)


def test_a_line_of_1_mb_is_cut() -> None:
    made = show(b"x" * 1_000_000, Style())
    assert str(made.html) == "x" * LINE_LIMIT
    assert made.cut == 1_000_000 - LINE_LIMIT


def test_codes_behind_the_cut_hold_for_the_lines_that_follow() -> None:
    style = Style()
    show(b"\x1b[31m" + b"x" * LINE_LIMIT + b"\x1b[0m", style)
    assert style.classes() == ""


def test_a_code_is_not_cut_in_two() -> None:
    shown = html(b"x" * (LINE_LIMIT - 2) + b"\x1b[31mred")
    assert shown == "x" * (LINE_LIMIT - 2)


@pytest.mark.parametrize(
    "line",
    [
        b"\x1b[" + b"1" * 1_000_000,
        b"\x1b]" + b"x" * 1_000_000,
        b"\x1b]x" * 300_000,
        b"\x1b[31m" * 200_000,
        b"\x1b[" * 500_000,
        b"\x1b" * 1_000_000,
        b"1\r" * 500_000,
        b"\x1b[1m\r" * 150_000,
        b"<" * 1_000_000,
        b"\x1b[38;5;" + b"1;" * 400_000 + b"m",
    ],
)
def test_hostile_lines_of_1_mb_are_shown_in_bounded_space(line: bytes) -> None:
    assert len(html(line)) < 40 * LINE_LIMIT
    assert len(plain(line)) <= len(line)


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(["\x1b", "[", "]", "1", ";", "m", "<", '"', "\r"])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_nothing_that_is_printed_becomes_markup(line: bytes) -> None:
    shown = html(line)
    page = BeautifulSoup(shown, "html.parser")
    assert {tag.name for tag in page.find_all(True)} <= {"span"}
    assert all(list(tag.attrs) == ["class"] for tag in page.find_all(True))
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\x1b[31mred\x1b[0m and plain", "red and plain"),
        (b"10%\r20%\r", "20%"),
        (b"done\r\r", "done"),
        ("pass\u202eword\u200f\x00".encode(), "password"),
        (b"tab\tstays", "tab\tstays"),
        (b"\xff", "\ufffd"),
    ],
)
def test_for_searching_a_line_is_what_can_be_seen_of_it(line: bytes, text: str) -> None:
    assert terminal.plain(line) == text
