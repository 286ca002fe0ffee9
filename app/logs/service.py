"""The archive of what jobs print. Bytes go in and come out unchanged; gaps are kept beside them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlalchemy import delete, func, select

from app.database import db, now
from app.logs.models import LogChunk, LogGap, LogStream

__all__ = ["LogGap", "LogStream"]

CHUNK = 256 << 10  # bytes of one row at most
CHUNK_SMALL = 4 << 10  # where the limit of a log is so low that larger ones would exceed it by far
MERGE = 32 << 10  # a last chunk this small takes in what follows, so that a slow job does not make a row a line
REPLY = 1 << 20  # bytes of one reply of the API at most
REPLY_GAPS = 50  # of one reply at most: programs refuse long headers
UNKNOWN = 1  # positions that a gap of unknown size takes up


# writing: only the worker does


def stream(attempt_id: int, rank: int) -> LogStream:
    """Call inside a transaction where it may not exist yet."""
    found = db.session.get(LogStream, (attempt_id, rank))
    if found is None:
        found = LogStream(attempt_id=attempt_id, rank=rank, cursor="", size=0, lines=0, line_start=0, complete=False)
        db.session.add(found)
        db.session.flush()
    return found


def append(to: LogStream, data: bytes, cursor: str, skipped: int | None, why: str, complete: bool, limit: int) -> None:
    """Add what a cluster gave, with the cursor behind it. Call inside a transaction of the worker.

    Beyond `limit` bytes the head and the tail stay, half each, and the gap between them grows.
    """
    if skipped is None or skipped:
        db.session.add(LogGap(attempt_id=to.attempt_id, rank=to.rank, first_byte=to.size, size=skipped, why=why))
        if to.size > to.line_start:
            to.lines += 1  # the gap ends the line that it cut off
        # bytes of unknown number take up one position, so that whoever is behind the gap has seen it
        to.size += UNKNOWN if skipped is None else skipped
        to.line_start = to.size
        db.session.flush()
    most = min(CHUNK, max(CHUNK_SMALL, limit // 16))
    for start in range(0, len(data), most):
        _append_chunk(to, data[start : start + most], min(MERGE, most))
    to.cursor = cursor
    to.complete = complete
    if to.size > limit and data:
        _trim(to, limit)


def end(of: LogStream) -> None:
    """Close a stream of which no more can come; where its end was not read, that is marked. Call in a transaction."""
    if of.complete:
        return
    why = "The end of the log could not be read any more."
    append(of, b"", of.cursor, None, why, complete=True, limit=of.size + 1)


def _append_chunk(to: LogStream, data: bytes, merge: int) -> None:
    last = _last_chunk(to)
    if last is not None and last.end == to.size and last.size + len(data) <= merge:
        last.data = zlib.compress(zlib.decompress(last.data) + data, 3)
        last.size += len(data)
        last.at = now()
    else:
        db.session.add(
            LogChunk(
                attempt_id=to.attempt_id,
                rank=to.rank,
                first_byte=to.size,
                first_line=to.lines,
                size=len(data),
                data=zlib.compress(data, 3),
            )
        )
    last_end = data.rfind(b"\n")
    if last_end >= 0:
        to.lines += data.count(b"\n")
        to.line_start = to.size + last_end + 1
    to.size += len(data)
    to.last_at = now()
    db.session.flush()


def _last_chunk(to: LogStream) -> LogChunk | None:
    return db.session.scalar(
        select(LogChunk)
        .where(LogChunk.attempt_id == to.attempt_id, LogChunk.rank == to.rank)
        .order_by(LogChunk.first_byte.desc())
        .limit(1)
    )


def _trim(to: LogStream, limit: int) -> None:
    half = limit // 2
    of_stream = (LogChunk.attempt_id == to.attempt_id, LogChunk.rank == to.rank)
    # chunks go whole, so head and tail are kept to within one chunk of the limit, never below it
    gone = db.session.execute(
        delete(LogChunk)
        .where(*of_stream, LogChunk.first_byte >= half, LogChunk.first_byte + LogChunk.size <= to.size - half)
        .returning(LogChunk.first_byte, LogChunk.size)
    ).all()
    if not gone:
        return
    first = min(row.first_byte for row in gone)
    end = max(row.first_byte + row.size for row in gone)
    # what the cluster skipped right behind them belongs to the same hole
    behind = db.session.get(LogGap, (to.attempt_id, to.rank, end))
    if behind is not None and behind.size is not None:
        end += behind.size
    gap = db.session.scalar(
        select(LogGap)
        .where(
            LogGap.attempt_id == to.attempt_id,
            LogGap.rank == to.rank,
            LogGap.first_byte >= half,
            LogGap.first_byte <= first,
        )
        .order_by(LogGap.first_byte)
        .limit(1)
    )
    if gap is None:
        gap = LogGap(attempt_id=to.attempt_id, rank=to.rank, first_byte=first, size=0, why="")
        db.session.add(gap)
    gap.size = end - gap.first_byte
    if gap.first_byte <= to.line_start < end:
        to.line_start = end  # the beginning of the unfinished line went too
    gap.why = f"The log grew beyond {limit:,} bytes; its beginning and its end are kept."
    # gaps that lie inside this one are part of it now
    db.session.execute(
        delete(LogGap).where(
            LogGap.attempt_id == to.attempt_id,
            LogGap.rank == to.rank,
            LogGap.first_byte > gap.first_byte,
            LogGap.first_byte < end,
        )
    )


# letting go: what retention asks for


def stored(attempt_id: int) -> int:
    """Bytes that what an attempt printed takes up here, compressed."""
    query = select(func.coalesce(func.sum(func.length(LogChunk.data)), 0))
    return int(db.session.scalar(query.where(LogChunk.attempt_id == attempt_id)) or 0)


def remove(attempt_id: int, why: str, chunks: int) -> int:
    """Remove so many chunks of an attempt's output at most, and mark with `why` what is missing from then on.

    How many there were: fewer than asked for means that none is left. Call inside a transaction, for an attempt that
    prints nothing any more.
    """
    removed = 0
    for of in streams(attempt_id):
        if removed >= chunks:
            break
        removed += _remove_first(of, why, chunks - removed)
    return removed


def _remove_first(of: LogStream, why: str, chunks: int) -> int:
    of_stream = (LogChunk.attempt_id == of.attempt_id, LogChunk.rank == of.rank)
    ends = db.session.execute(
        select(LogChunk.first_byte, LogChunk.size).where(*of_stream).order_by(LogChunk.first_byte).limit(chunks)
    ).all()
    if not ends:
        return 0  # nothing was printed, or all of it is gone
    end = ends[-1].first_byte + ends[-1].size
    if len(ends) < chunks:
        end = of.size  # the last ones: what was missing behind them is part of the gap
    db.session.execute(delete(LogChunk).where(*of_stream, LogChunk.first_byte < end))
    db.session.execute(
        delete(LogGap).where(LogGap.attempt_id == of.attempt_id, LogGap.rank == of.rank, LogGap.first_byte < end)
    )
    db.session.add(LogGap(attempt_id=of.attempt_id, rank=of.rank, first_byte=0, size=end, why=why))
    of.line_start = max(of.line_start, end)
    db.session.flush()
    return len(ends)


# reading


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that follow each other, from the archive."""

    first_byte: int
    first_line: int  # number, from 0, of the line that the first byte belongs to
    data: bytes

    @property
    def end(self) -> int:
        return self.first_byte + len(self.data)


def streams(attempt_id: int) -> list[LogStream]:
    return list(
        db.session.scalars(select(LogStream).where(LogStream.attempt_id == attempt_id).order_by(LogStream.rank))
    )


def find_stream(attempt_id: int, rank: int) -> LogStream | None:
    return db.session.get(LogStream, (attempt_id, rank))


def pieces(attempt_id: int, rank: int, since: int = 0, until: int | None = None) -> Iterator[Piece]:
    """The archive from a byte on, a chunk at a time. Each chunk is its own short read.

    So nobody who downloads slowly holds a read transaction open, which would stop SQLite's WAL from shrinking.
    """
    position = since
    while until is None or position < until:
        chunk = _chunk_at(attempt_id, rank, position)
        if chunk is None:
            return
        end, data = chunk.end, zlib.decompress(chunk.data)
        piece = Piece(chunk.first_byte, chunk.first_line, data)
        if chunk.first_byte < position:
            cut = position - chunk.first_byte
            piece = Piece(position, chunk.first_line + data.count(b"\n", 0, cut), data[cut:])
        if until is not None and piece.end > until:
            piece = Piece(piece.first_byte, piece.first_line, piece.data[: until - piece.first_byte])
        if piece.data:
            yield piece  # whereupon the reader may end the transaction, and somebody may remove the row
        position = end


def _chunk_at(attempt_id: int, rank: int, position: int) -> LogChunk | None:
    """The chunk that holds a byte, or the first one behind it."""
    of_stream = (LogChunk.attempt_id == attempt_id, LogChunk.rank == rank)
    holds = db.session.scalar(
        select(LogChunk)
        .where(*of_stream, LogChunk.first_byte <= position)
        .order_by(LogChunk.first_byte.desc())
        .limit(1)
    )
    if holds is not None and holds.end > position:
        return holds
    return db.session.scalar(
        select(LogChunk).where(*of_stream, LogChunk.first_byte > position).order_by(LogChunk.first_byte).limit(1)
    )


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes that are not in the archive."""

    first_byte: int
    size: int | None  # None: not known
    why: str

    @property
    def end(self) -> int:
        return self.first_byte + (UNKNOWN if self.size is None else self.size)


def gaps(attempt_id: int, rank: int, since: int, until: int) -> list[Missing]:
    """Where bytes are missing from one position to before another. Of a gap that began earlier, what is left of it:
    it may have grown over the place where somebody stopped to read."""
    rows = db.session.execute(
        select(LogGap.first_byte, LogGap.size, LogGap.why)
        .where(
            LogGap.attempt_id == attempt_id,
            LogGap.rank == rank,
            LogGap.first_byte < until,
            LogGap.first_byte + func.coalesce(LogGap.size, UNKNOWN) > since,
        )
        .order_by(LogGap.first_byte)
    )
    found = [Missing(*row) for row in rows]
    return [
        Missing(since, gap.end - since, gap.why) if gap.first_byte < since and gap.size is not None else gap
        for gap in found
    ]


def byte_of_line(attempt_id: int, rank: int, line: int) -> int:
    """Where a line, counted from 0, begins; a line that is missing gives the first byte behind the gap."""
    if line <= 0:
        return 0
    # the newest chunk that begins in an earlier line
    begin = db.session.scalar(
        select(LogChunk.first_byte)
        .where(LogChunk.attempt_id == attempt_id, LogChunk.rank == rank, LogChunk.first_line < line)
        .order_by(LogChunk.first_line.desc(), LogChunk.first_byte.desc())
        .limit(1)
    )
    for piece in pieces(attempt_id, rank, begin or 0):
        missing = line - piece.first_line  # line ends to pass
        if missing <= 0:  # its beginning, or all of it, is in the gap before this piece
            return piece.first_byte
        if piece.data.count(b"\n") >= missing:
            at = -1
            for _ in range(missing):
                at = piece.data.index(b"\n", at + 1)
            return piece.first_byte + at + 1
    found = find_stream(attempt_id, rank)
    return found.size if found else 0


def line_start_from(attempt_id: int, rank: int, position: int) -> int:
    """Where the first line begins that begins at a position or behind it."""
    if position <= 0:
        return 0
    expected = position - 1
    for piece in pieces(attempt_id, rank, expected):
        if piece.first_byte > expected:  # behind a gap
            return piece.first_byte
        at = piece.data.find(b"\n")
        if at >= 0:
            return piece.first_byte + at + 1
        expected = piece.end
    return max(expected, position)


def last_line_before(attempt_id: int, rank: int, position: int) -> tuple[int, int] | None:
    """Number, from 0, of the last line that begins before a position and is kept, and where what is kept of it ends."""
    chunk = db.session.scalar(
        select(LogChunk)
        .where(LogChunk.attempt_id == attempt_id, LogChunk.rank == rank, LogChunk.first_byte < position)
        .order_by(LogChunk.first_byte.desc())
        .limit(1)
    )
    if chunk is None:
        return None
    data = zlib.decompress(chunk.data)[: position - chunk.first_byte]
    return chunk.first_line + data.count(b"\n") - data.endswith(b"\n"), chunk.first_byte + len(data)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one read of the API gives."""

    data: bytes
    next: int
    at_end: bool  # this reply reaches the end of what is there
    gaps: list[Missing]


def read(attempt_id: int, rank: int, since: int, limit: int = REPLY) -> Reply:
    """The bytes from a position on, at most `limit`, and exactly what is missing between them."""
    found = find_stream(attempt_id, rank)
    if found is None or since >= found.size:
        return Reply(b"", since, True, [])
    until = min(found.size, _gap_too_many(attempt_id, rank, since) or found.size)
    parts: list[bytes] = []
    holes: list[tuple[int, int]] = []
    room = limit
    end = since
    for piece in pieces(attempt_id, rank, since, until):
        if piece.first_byte > end:
            holes.append((end, piece.first_byte))
        part = piece.data[:room]
        parts.append(part)
        end = piece.first_byte + len(part)
        room -= len(part)
        if not room:
            break
    else:
        if until > end:
            holes.append((end, until))
            end = until
    # A log that grows is trimmed while it is read, so bytes that stand in this reply may be called missing by now:
    # what counts is where nothing was found.
    missing = [
        replace(gap, size=min(gap.end, behind) - gap.first_byte) if gap.size is not None else gap
        for first, behind in holes
        for gap in gaps(attempt_id, rank, first, behind)
    ]
    return Reply(b"".join(parts), end, end >= found.size, missing)


def _gap_too_many(attempt_id: int, rank: int, since: int) -> int | None:
    """Where the first gap begins that a reply would have no room for."""
    return db.session.scalar(
        select(LogGap.first_byte)
        .where(LogGap.attempt_id == attempt_id, LogGap.rank == rank, LogGap.first_byte > since)
        .order_by(LogGap.first_byte)
        .offset(REPLY_GAPS)
        .limit(1)
    )
