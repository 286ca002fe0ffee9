"""Lengths of time, as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import durations


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("24h", 86_400),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("1d 2h 3m 4s", 93_784),
        (" 1H ", 3600),
        ("007m", 420),
        ("3650d", 3650 * 86_400),
    ],
)
def test_a_length_is_read(written: str, seconds: int) -> None:
    assert durations.seconds(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "10", "h", "1.5h", "-1h", "1h1h", "30m1h", "1w", "٣m", "1h\0", "0s", "3651d", "9999999s" * 9]
)
def test_what_is_no_length_is_refused_with_a_sentence(written: str) -> None:
    with pytest.raises(ValueError, match=r"^(Write|It).*\.$"):
        durations.seconds(written)


@given(st.integers(1, durations.LONGEST))
def test_what_is_written_can_be_read_back(total: int) -> None:
    assert durations.seconds(durations.written(total)) == total


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (61, "1 min 1 s"),
        (599, "9 min 59 s"),
        (601, "10 min"),
        (11_520, "3 h 12 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_length_is_spoken_to_two_units(seconds: float, spoken: str) -> None:
    assert durations.spoken(seconds) == spoken
