"""Every byte once, whatever is cut, sent again, out of order or exchanged."""

from __future__ import annotations

import random

import pytest

from app.cluster.kubernetes.transcript import HISTORY, Cursor, Transcript
from tests.cluster.kubernetes.fake import Log

START = 1_800_000_000 * 10**9


def answer(log: Log, transcript: Transcript, follow: bool = False) -> bytes:
    return b"".join(log.serve(transcript.cursor.since, follow))


def read(transcript: Transcript, data: bytes, whole: bool = True, limit: int = 1 << 20) -> tuple[bytes, list[str]]:
    """One answer, taken apart."""
    transcript.begin()
    return more(transcript, data, whole, limit)


def more(transcript: Transcript, data: bytes, whole: bool = True, limit: int = 1 << 20) -> tuple[bytes, list[str]]:
    out, gaps = b"", []
    transcript.feed(data)
    while True:
        part, gap = transcript.take(limit)
        if gap is not None:
            gaps.append(gap)
        elif not part:
            break
        out += part
    if whole:
        transcript.end()
    return out, gaps


def log_of(*entries: tuple[float, bytes]) -> Log:
    log = Log()
    for second, data in entries:
        log.write(data, START + int(second * 10**9))
    log.ended = True
    return log


def again(transcript: Transcript) -> Transcript:
    """As another process goes on from what was saved."""
    return Transcript(Cursor.from_text(transcript.cursor.to_text()))


def test_takes_the_times_off() -> None:
    log = log_of((0, b"one\n"), (0.5, b"\n"), (1, b"2026-01-01T00:00:00Z three\n"), (2, b"no end"))
    assert read(Transcript(Cursor()), answer(log, Transcript(Cursor()))) == (
        b"one\n\n2026-01-01T00:00:00Z three\nno end",
        [],
    )


def test_bytes_are_bytes() -> None:
    first, second = bytes(range(256)).replace(b"\n", b"") + b"\n", b"\xff\xfe\r\x00\n"
    log = log_of((0, first), (0, second))
    assert read(Transcript(Cursor()), answer(log, Transcript(Cursor())))[0] == first + second


def test_a_line_in_parts_flows_before_it_ends() -> None:
    transcript = Transcript(Cursor())
    transcript.begin()
    log = log_of((0, b"10 %\r"), (60, b"20 %\r"), (120, b"30 %\r"))
    whole = answer(log, transcript)
    assert more(transcript, whole[:35], whole=False)[0] == b"10 %"
    assert more(transcript, whole[35:], whole=False)[0] == b"\r20 %\r30 %\r"


@pytest.mark.parametrize("zone", [b"Z", b"+00:00", b"+05:30", b"-11:00"])
def test_reads_times_of_any_zone_and_length(zone: bytes) -> None:
    for fraction in (b"", b".5", b".123456789"):
        transcript = Transcript(Cursor())
        assert read(transcript, b"2027-01-15T08:00:01" + fraction + zone + b" hello\n")[0] == b"hello\n"
        assert transcript.cursor.since is not None


def test_goes_on_behind_what_was_taken() -> None:
    log = log_of((0, b"a\n"), (0.9, b"b\n"), (1.1, b"c\n"), (1.2, b"d\n"), (5, b"e\n"))
    first = Transcript(Cursor())
    whole = answer(log, first)
    for cut in range(len(whole) + 1):
        transcript = Transcript(Cursor())
        got, _ = read(transcript, whole[:cut])
        transcript = again(transcript)
        rest, gaps = read(transcript, answer(log, transcript))
        assert (got + rest, gaps) == (b"a\nb\nc\nd\ne\n", []), cut


def test_goes_on_inside_a_line_that_began_long_ago() -> None:
    log = log_of((0, b"first\n"), *((second, b"%d %%\r" % second) for second in range(1, 100)), (100, b"done\n"))
    whole = answer(log, Transcript(Cursor()))
    for cut in (60, 61, 100, 300, len(whole) - 1):
        transcript = Transcript(Cursor())
        got, _ = read(transcript, whole[:cut])
        transcript = again(transcript)
        rest, gaps = read(transcript, answer(log, transcript))
        assert got + rest == b"first\n" + b"".join(b"%d %%\r" % s for s in range(1, 100)) + b"done\n"
        assert gaps == []


def test_equal_lines_and_equal_times_are_told_apart() -> None:
    log = log_of(*((1, b"same\n") for _ in range(50)))
    whole = answer(log, Transcript(Cursor()))
    for cut in range(0, len(whole), 7):
        transcript = Transcript(Cursor())
        got, _ = read(transcript, whole[:cut])
        rest, gaps = read(transcript, answer(log, transcript))
        assert (got + rest, gaps) == (b"same\n" * 50, [])


@pytest.mark.parametrize("seed", range(30))
def test_any_log_and_any_cuts(seed: int) -> None:
    """Lines out of order by less than a second, parts of lines, bad bytes, no end of line; cut dozens of times."""
    chance = random.Random(seed)
    log, printed, second, shift = Log(), b"", 0.0, 0.0
    for _ in range(600):
        second += chance.choice([0, 0, 0.0001, 0.01, 0.3, 2])
        if not printed or printed.endswith(b"\n"):
            shift = chance.uniform(-0.4, 0.4)  # the parts of a line are in order
        data = chance.randbytes(chance.choice([0, 1, 10, 200])).replace(b"\n", b"?")
        data += chance.choice([b"\n", b"\n", b"\n", b"", b"\r"])
        if data:
            log.write(data, START + int((second + shift + 1) * 10**9))
            printed += data
    log.ended = True
    transcript, got = Transcript(Cursor()), b""
    for _ in range(60):
        whole = answer(log, transcript)
        part, gaps = read(transcript, whole[: chance.randrange(len(whole) + 1)], limit=chance.choice([1, 7, 1000]))
        assert gaps == []
        got += part
        assert printed.startswith(got)
        if chance.random() < 0.3:
            transcript = again(transcript)
    assert read(transcript, answer(log, transcript)) == (printed[len(got) :], [])


def test_a_clock_that_is_set_back() -> None:
    log = log_of(
        *((100 + n / 10, b"before %d\n" % n) for n in range(50)), *((60 + n, b"after %d\n" % n) for n in range(5))
    )
    whole = answer(log, Transcript(Cursor()))
    for cut in range(whole.index(b"after 0") + 1, len(whole)):
        transcript = Transcript(Cursor())
        got, _ = read(transcript, whole[:cut])
        rest, gaps = read(transcript, answer(log, transcript))
        assert (got + rest, gaps) == (b"".join(e.data for e in log.entries), []), cut


def test_a_file_that_was_exchanged_leaves_a_gap_that_is_told() -> None:
    log = log_of((0, b"a\n"), (1, b"b\n"))
    transcript = Transcript(Cursor())
    read(transcript, answer(log, transcript))
    log = log_of((9, b"z\n"))
    got, gaps = read(transcript, answer(log, transcript))
    assert got == b"z\n"
    assert len(gaps) == 1
    assert "between 08:00:01 and 08:00:09 may be missing" in gaps[0]


def test_a_file_that_was_exchanged_while_it_was_read_leaves_none() -> None:
    transcript = Transcript(Cursor())
    transcript.begin()
    more(transcript, answer(log_of((0, b"a\n"), (0.1, b"b\n")), transcript), whole=False)
    new = log_of((0.2, b"c\n"), (0.3, b"d\n"), (0.4, b"e\n"))
    got, _ = more(transcript, b"".join(new.serve(None, False))[:66])  # two lines of it, then a cut
    assert got == b"c\nd\n"
    assert read(transcript, answer(new, transcript)) == (b"e\n", [])


def test_a_line_whose_rest_went_with_the_file_leaves_a_gap() -> None:
    transcript = Transcript(Cursor())
    read(transcript, answer(log_of((0, b"begun")), transcript))
    got, gaps = read(transcript, answer(log_of((3, b"other\n")), transcript))
    assert (got, len(gaps)) == (b"other\n", 1)


def test_another_line_at_the_same_time_is_not_the_one_that_was_begun() -> None:
    transcript = Transcript(Cursor())
    read(transcript, answer(log_of((1, b"begun")), transcript))
    got, gaps = read(transcript, answer(log_of((1, b"quite other\n")), transcript))
    assert len(gaps) == 1
    assert got == b" other\n"


def test_what_a_kubelet_says_is_not_of_the_log() -> None:
    transcript = Transcript(Cursor())
    assert read(transcript, b"unable to retrieve container logs for containerd://abc") == (b"", [])
    assert transcript.notice == "unable to retrieve container logs for containerd://abc"
    log = log_of((0, b"a\n"))
    assert read(transcript, answer(log, transcript)) == (b"a\n", [])
    assert transcript.notice == ""
    assert read(transcript, b"short\n") == (b"", [])
    assert transcript.notice == "short"


def test_an_answer_that_lacks_what_was_taken_is_known() -> None:
    transcript = Transcript(Cursor())
    log = log_of((0, b"a\n"), (0.5, b"b\n"))
    read(transcript, answer(log, transcript))
    transcript.begin()
    more(transcript, answer(log, transcript)[:33], whole=False)
    assert not transcript.end()
    transcript.begin()
    more(transcript, answer(log, transcript), whole=False)
    assert transcript.end()


def test_the_cursor_stays_small() -> None:
    transcript = Transcript(Cursor())
    transcript.begin()
    for second in range(HISTORY * 3):
        more(transcript, b"".join(log_of(*((second, b"x\n") for _ in range(100))).serve(None, False)), whole=False)
    assert len(transcript.cursor.to_text()) < 250
    assert len(transcript.cursor.counts) <= HISTORY + 1


def test_megabytes_without_an_end_of_line_need_no_memory() -> None:
    transcript = Transcript(Cursor())
    transcript.begin()
    total = len(more(transcript, b"2027-01-15T08:00:01Z ", whole=False)[0])
    for _ in range(100):
        total += len(more(transcript, b"\r 50 % " * 10_000, whole=False)[0])
    assert total == 7_000_000
    assert len(transcript._raw) <= 70_000
    assert len(transcript.cursor.to_text()) < 250
