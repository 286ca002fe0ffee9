"""Makes what a program printed for a terminal safe and readable in a page: colours, redrawn lines, escape codes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from markupsafe import Markup, escape

LINE_LIMIT = 64 << 10  # characters shown of one line

_CODES = re.compile(
    r"\x1b\[([0-9;:]*)m"  # 1: colours and styles, the only codes that are kept
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # any other control sequence: moves of the cursor, erasing
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # titles, links, clipboard: dropped with their text
    r"|\x1b[ -/]*[0-~]?"  # the rest that begins with ESC
)
# C0 but tab, DEL, C1, and the characters that turn the direction of text around
_INVISIBLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
STYLE = re.compile(r"(?:(?:a[12347]|[fb](?:1[0-5]|[0-9]))(?: |$)){0,7}")


@dataclass(slots=True)
class Style:
    """The colours and styles that hold at one place, as classes of the style sheet."""

    attributes: set[int] = field(default_factory=set)
    text: int | None = None  # one of 16
    ground: int | None = None

    @classmethod
    def of(cls, classes: str) -> Style:
        """Read back what `classes` wrote; anything else is no style."""
        style = cls()
        if not STYLE.fullmatch(classes):
            return style
        for each in classes.split():
            number = int(each[1:])
            if each[0] == "a":
                style.attributes.add(number)
            elif each[0] == "f":
                style.text = number
            else:
                style.ground = number
        return style

    def classes(self) -> str:
        names = [f"a{number}" for number in sorted(self.attributes)]
        if self.text is not None:
            names.append(f"f{self.text}")
        if self.ground is not None:
            names.append(f"b{self.ground}")
        return " ".join(names)

    def shown(self) -> str:
        """As `classes`, less a text colour that could not be read on its ground."""
        names = self.classes().split()
        return " ".join(name for name in names if not (name[0] == "f" and self.ground is not None))

    def apply(self, codes: str) -> None:
        """Take in the numbers of one `ESC [ … m`."""
        parts = codes.split(";", 32)[:32]
        numbers = [_number(part.partition(":")[0]) for part in parts]
        index = 0
        while index < len(numbers):
            number = numbers[index]
            details = [_number(part) for part in parts[index].split(":", 8)[1:8]]  # as in 38:2::255:0:0
            if number in (38, 48, 58):
                if details:
                    space = 1 if details[0] == 2 and len(details) > 4 else 0  # a colour space may stand in between
                    colour, _ = _long_colour([details[0], *details[1 + space :]])
                else:
                    colour, used = _long_colour(numbers[index + 1 :])
                    index += used
                if colour is not None and number == 38:
                    self.text = colour
                elif colour is not None and number == 48:
                    self.ground = colour
            elif number == 4 and details[:1] == [0]:
                self._apply_one(24)  # an underline of the kind "none"
            else:
                self._apply_one(number)
            index += 1

    def _apply_one(self, number: int) -> None:
        if number == 0:
            self.attributes.clear()
            self.text = self.ground = None
        elif number in (1, 2, 3, 4, 7):
            self.attributes.add(number)
        elif number == 22:
            self.attributes -= {1, 2}
        elif number in (23, 24, 27):
            self.attributes.discard(number - 20)
        elif 30 <= number <= 37:
            self.text = number - 30
        elif 90 <= number <= 97:
            self.text = number - 82
        elif number == 39:
            self.text = None
        elif 40 <= number <= 47:
            self.ground = number - 40
        elif 100 <= number <= 107:
            self.ground = number - 92
        elif number == 49:
            self.ground = None


def _number(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 6 else 0


def _long_colour(numbers: list[int]) -> tuple[int | None, int]:
    """A colour out of 256 or of 16 million as the nearest of the 16, and how many numbers told it."""
    if numbers[:1] == [5] and len(numbers) > 1:
        return _of_256(numbers[1]), 2
    if numbers[:1] == [2] and len(numbers) > 3:
        return _of_rgb(*(min(255, value) for value in numbers[1:4])), 4
    return None, len(numbers)


def _of_256(number: int) -> int:
    if number < 16:
        return number
    if number >= 232:
        return _of_rgb(*[8 + 10 * (min(number, 255) - 232)] * 3)
    number -= 16
    return _of_rgb(*(0 if level == 0 else 55 + 40 * level for level in (number // 36, number // 6 % 6, number % 6)))


def _of_rgb(red: int, green: int, blue: int) -> int:
    brightest = max(red, green, blue)
    if brightest - min(red, green, blue) < 40:  # a grey
        return 0 if brightest < 64 else 8 if brightest < 144 else 7 if brightest < 216 else 15
    bits = sum(1 << bit for bit, value in enumerate((red, green, blue)) if value > brightest * 0.55)
    return bits + (8 if brightest > 170 else 0)


@dataclass(frozen=True, slots=True)
class Shown:
    """One line as a page shows it."""

    html: Markup
    folded: int  # how many earlier states of the line a program drew over
    cut: int  # characters left out at its end


def show(line: bytes, style: Style) -> Shown:
    """Render one line, without its line end. `style` holds at its beginning and is moved on to its end."""
    line = line.removesuffix(b"\r")
    states = line.split(b"\r") if b"\r" in line else [line]
    while len(states) > 1 and not states[-1]:
        states.pop()
    text = states[-1].decode("utf-8", "replace")
    for earlier in states[:-1]:
        if b"\x1b" in earlier[-4096:]:
            _plain_or_spans(earlier[-4096:].decode("utf-8", "replace"), style)  # colours set by what was drawn over
    cut = max(0, len(text) - LINE_LIMIT)
    return Shown(_plain_or_spans(text, style), len(states) - 1, cut)


def _plain_or_spans(text: str, style: Style) -> Markup:
    """The first LINE_LIMIT characters; the codes of the others count too, for the lines that follow."""
    if "\x1b" not in text:
        return _span(text[:LINE_LIMIT], style)
    parts = []
    position = 0
    for found in _CODES.finditer(text):
        if position < found.start() and position < LINE_LIMIT:
            parts.append(_span(text[position : min(found.start(), LINE_LIMIT)], style))
        if found.group(1) is not None:
            style.apply(found.group(1))
        position = found.end()
    parts.append(_span(text[position:LINE_LIMIT], style))
    return Markup("").join(parts)


def _span(text: str, style: Style) -> Markup:
    if not text:
        return Markup("")
    safe = escape(_INVISIBLE.sub("\ufffd", text) if not text.isprintable() else text)
    classes = style.shown()
    return Markup(f'<span class="{classes}">{safe}</span>') if classes else safe  # noqa: S704 - every part is safe already


def plain(line: bytes) -> str:
    """A line as text alone: its last state, without codes and what cannot be seen. For searching."""
    text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")
    if "\x1b" in text:
        text = _CODES.sub("", text)
    return text if text.isprintable() else _INVISIBLE.sub("", text)
