"""The archive gives back exactly the bytes that went in, and says where some are missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from app.database import db
from app.logs import service
from app.logs.models import LogChunk, LogStream
from tests.logs.conftest import Printer

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(many, max_examples=15)

text = st.binary(max_size=60) | st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r"]), max_size=30).map(b"".join)
skips = st.just(0) | st.just(0) | st.integers(1, 50) | st.none()
steps = st.lists(st.tuples(text, skips), max_size=12)


@dataclass
class Truth:
    """What was printed, remembered the simple way: each position holds a byte or nothing."""

    cells: list[int | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of each position, the number of its line from 0
    line: int = 0
    partial: bool = False

    def add(self, data: bytes, skipped: int | None) -> None:
        if skipped is None or skipped:
            if self.partial:
                self.line, self.partial = self.line + 1, False
            self.cells += [None] * (1 if skipped is None else skipped)
            self.lines += [self.line] * (1 if skipped is None else skipped)
        for byte in data:
            self.cells.append(byte)
            self.lines.append(self.line)
            self.partial = byte != 10
            if byte == 10:
                self.line += 1

    def bytes_from(self, position: int) -> bytes:
        return bytes(byte for byte in self.cells[position:] if byte is not None)


def written(printer: Printer, said: list[tuple[bytes, int | None]], limit: int = 1 << 30) -> tuple[LogStream, Truth]:
    stream, truth = printer.fresh(), Truth()
    for data, skipped in said:
        printer.print(stream, data, skipped, limit)
        truth.add(data, skipped)
    return stream, truth


def gap_positions(stream: LogStream, since: int = 0) -> set[int]:
    found = service.gaps(stream.attempt_id, stream.rank, since, stream.size)
    return {position for gap in found for position in range(gap.first_byte, gap.end)}


@many
@given(said=steps, data=st.data())
def test_reading_from_any_position_gives_exactly_the_bytes_behind_it(
    printer: Printer, said: list[tuple[bytes, int | None]], data: st.DataObject
) -> None:
    stream, truth = written(printer, said)
    assert stream.size == len(truth.cells)
    since = data.draw(st.integers(0, stream.size))
    pieces = list(service.pieces(stream.attempt_id, stream.rank, since))
    assert b"".join(piece.data for piece in pieces) == truth.bytes_from(since)
    for piece in pieces:
        assert list(piece.data) == truth.cells[piece.first_byte : piece.end]
        assert piece.first_line == truth.lines[piece.first_byte]
    assert gap_positions(stream, since) == {
        position for position, byte in enumerate(truth.cells) if byte is None and position >= since
    }


@many
@given(said=steps, limit=st.integers(1, 40))
def test_replies_with_cursors_put_together_are_the_whole(
    printer: Printer, said: list[tuple[bytes, int | None]], limit: int
) -> None:
    stream, truth = written(printer, said)
    got, since, missing = b"", 0, 0
    while True:
        reply = service.read(stream.attempt_id, stream.rank, since, limit)
        assert len(reply.data) <= limit
        got += reply.data
        missing += sum(gap.end - gap.first_byte for gap in reply.gaps)
        assert reply.next > since or reply.at_end
        since = reply.next
        if reply.at_end:
            break
    assert got == truth.bytes_from(0)
    assert missing == truth.cells.count(None)  # each gap told once
    again = service.read(stream.attempt_id, stream.rank, since, limit)
    assert (again.data, again.next, again.at_end, again.gaps) == (b"", since, True, [])


@many
@given(said=steps)
def test_line_numbers_and_their_places_are_right(printer: Printer, said: list[tuple[bytes, int | None]]) -> None:
    stream, truth = written(printer, said)
    key = (stream.attempt_id, stream.rank)
    assert stream.lines == truth.line
    for line in range(1, truth.line + 1):
        kept = [at for at, number in enumerate(truth.lines) if number >= line and truth.cells[at] is not None]
        found = service.byte_of_line(*key, line)
        # right behind the line before, or behind the gap there
        assert found <= (kept[0] if kept else stream.size)
        assert truth.bytes_from(found) == (truth.bytes_from(kept[0]) if kept else b"")
    assert service.byte_of_line(*key, 0) == 0  # so that a gap at the very beginning is seen
    assert service.byte_of_line(*key, truth.line + 5) == stream.size


@many
@given(said=steps, data=st.data())
def test_the_next_line_start_and_the_last_line_before_are_found(
    printer: Printer, said: list[tuple[bytes, int | None]], data: st.DataObject
) -> None:
    stream, truth = written(printer, said)
    key = (stream.attempt_id, stream.rank)
    position = data.draw(st.integers(1, stream.size + 1))
    starts = [
        at
        for at in range(position, len(truth.cells))
        if truth.cells[at] is not None and (truth.cells[at - 1] in (None, 10))
    ]
    found = service.line_start_from(*key, position)
    assert position <= found <= (starts[0] if starts else max(position, stream.size))
    assert truth.bytes_from(found) == (truth.bytes_from(starts[0]) if starts else b"")
    before = [at for at in range(min(position, len(truth.cells))) if truth.cells[at] is not None]
    expected = (truth.lines[before[-1]], before[-1] + 1) if before else None
    assert service.last_line_before(*key, position) == expected


@pytest.mark.parametrize("sizes", [(1, 2, 3), (service.MERGE, 1), (service.CHUNK, service.CHUNK + 1), (700_000, 5)])
def test_large_and_small_pieces_are_kept_alike(printer: Printer, sizes: tuple[int, ...]) -> None:
    parts = [bytes((at * 7 + size) % 251 for at in range(size)) for size in sizes]
    stream = printer.printed(*parts)
    got = b"".join(piece.data for piece in service.pieces(stream.attempt_id, stream.rank))
    assert got == b"".join(parts)
    assert stream.lines == got.count(b"\n")


def test_a_slow_job_does_not_make_a_row_a_line(printer: Printer) -> None:
    stream = printer.printed(*(b"a line\n" for _ in range(300)))
    rows = db.session.scalar(select(func.count()).select_from(LogChunk).where(LogChunk.attempt_id == stream.attempt_id))
    assert rows == 1


def test_a_merge_rewrites_no_more_than_a_small_chunk(printer: Printer) -> None:
    stream = printer.printed(*(b"x" * 1000 for _ in range(100)))
    rows = db.session.scalars(
        select(LogChunk.size).where(LogChunk.attempt_id == stream.attempt_id, LogChunk.rank == stream.rank)
    ).all()
    assert sum(rows) == 100_000
    assert max(rows) <= service.MERGE
    assert len(rows) <= 100_000 // (service.MERGE - 1000) + 1


# beyond the limit


@few
@given(
    said=st.lists(st.binary(min_size=1, max_size=400) | st.just(b"line\n" * 40), min_size=5, max_size=60),
    limit=st.integers(100, 2000),
)
def test_beyond_the_limit_head_and_tail_stay_with_one_marked_gap(
    printer: Printer, said: list[bytes], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 64)
    monkeypatch.setattr(service, "CHUNK", 256)
    stream, truth = written(printer, [(part, 0) for part in said], limit)
    whole = truth.bytes_from(0)
    assert stream.size == len(whole)  # the true size is told, whatever was left out
    pieces = list(service.pieces(stream.attempt_id, stream.rank))
    kept = sum(len(piece.data) for piece in pieces)
    assert kept <= limit + 2 * 256
    for piece in pieces:
        assert piece.data == whole[piece.first_byte : piece.end]
        assert piece.first_line == truth.lines[piece.first_byte]
    found = service.gaps(stream.attempt_id, stream.rank, 0, stream.size)
    if len(whole) <= limit:
        assert not found
        return
    assert len(found) <= 1
    for gap in found:
        assert gap.first_byte >= limit // 2
        assert gap.end <= len(whole) - limit // 2
        assert gap.size == len(whole) - kept
        assert f"{limit:,}" in gap.why


@few
@given(said=st.lists(st.tuples(st.binary(max_size=200), skips), min_size=5, max_size=40), limit=st.integers(100, 1000))
def test_no_byte_is_missing_unmarked_beyond_the_limit_with_other_gaps(
    printer: Printer, said: list[tuple[bytes, int | None]], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 64)
    stream, truth = written(printer, said, limit)
    kept: set[int] = set()
    for piece in service.pieces(stream.attempt_id, stream.rank):
        assert list(piece.data) == truth.cells[piece.first_byte : piece.end]
        kept |= set(range(piece.first_byte, piece.end))
    missing = gap_positions(stream)
    assert not kept & missing
    assert kept | missing == set(range(stream.size))
    assert stream.size == len(truth.cells)


def test_what_the_cluster_skipped_right_behind_the_hole_is_part_of_it(printer: Printer) -> None:
    limit = 1 << 20
    stream = printer.fresh()
    printer.print(stream, b"a" * (2 << 20), 0, limit)
    printer.print(stream, b"b" * (1 << 19), 1 << 20, limit)
    (gap,) = service.gaps(stream.attempt_id, stream.rank, 0, stream.size)
    assert (gap.first_byte, gap.end) == (1 << 19, 3 << 20)
    assert service.read(stream.attempt_id, stream.rank, 0).data == b"a" * (1 << 19) + b"b" * (1 << 19)


def test_whoever_stopped_to_read_in_the_middle_is_told_what_went_missing_there(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MERGE", 0)
    stream = printer.fresh()
    for _ in range(30):
        printer.print(stream, b"0123456789" * 10, limit=1 << 30)
    reader = service.read(stream.attempt_id, stream.rank, 0, 1500).next
    assert reader == 1500
    for _ in range(30):
        printer.print(stream, b"0123456789" * 10, limit=2000)
    reply = service.read(stream.attempt_id, stream.rank, reader)
    assert [(gap.first_byte, gap.size) for gap in reply.gaps] == [(1500, 3500)]
    assert len(reply.data) == 1000


def test_gaps_of_known_and_unknown_size_are_told_once(printer: Printer) -> None:
    stream = printer.printed(b"before\n")
    printer.print(stream, b"", skipped=None)
    printer.print(stream, b"between\n", skipped=10)
    printer.print(stream, b"", skipped=None, complete=True)
    reply = service.read(stream.attempt_id, stream.rank, 0)
    assert reply.data == b"before\nbetween\n"
    assert [gap.size for gap in reply.gaps] == [None, 10, None]
    assert service.read(stream.attempt_id, stream.rank, reply.next).gaps == []


def test_a_stream_that_is_not_there_reads_as_empty(printer: Printer) -> None:
    reply = service.read(printer.attempt_id, 77, 0)
    assert (reply.data, reply.next, reply.at_end, reply.gaps) == (b"", 0, True, [])


def test_ranks_do_not_mix(printer: Printer) -> None:
    first, second = printer.printed(b"of one\n"), printer.printed(b"of the other\n")
    assert service.read(first.attempt_id, first.rank, 0).data == b"of one\n"
    assert service.read(second.attempt_id, second.rank, 0).data == b"of the other\n"
    assert [stream.rank for stream in service.streams(first.attempt_id)] == [first.rank, second.rank]
