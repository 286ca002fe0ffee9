"""A stream is one rank's output in one attempt. This feature knows attempts by their id only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, BigId, Moment, now


class LogStream(Base):
    """How far a stream was read from the cluster, saved in the transaction of the chunk that it follows."""

    __tablename__ = "log_streams"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cursor: Mapped[str] = mapped_column(Text, default="")  # the cluster's own
    size: Mapped[int] = mapped_column(BigId, default=0)  # bytes printed so far, missing ones included
    lines: Mapped[int] = mapped_column(BigId, default=0)  # line ends seen so far
    line_start: Mapped[int] = mapped_column(BigId, default=0)  # first byte of the last, perhaps unfinished, line
    last_at: Mapped[datetime | None] = mapped_column(Moment)  # when the last byte arrived
    complete: Mapped[bool] = mapped_column(default=False)


class LogChunk(Base):
    """Some bytes of a stream, compressed. Chunks never overlap."""

    __tablename__ = "log_chunks"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_byte: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)  # from 0
    first_line: Mapped[int] = mapped_column(BigId)  # number, from 0, of the line that the first byte belongs to
    size: Mapped[int]  # bytes, not compressed
    data: Mapped[bytes] = mapped_column(LargeBinary)  # zlib
    at: Mapped[datetime] = mapped_column(Moment, default=now)

    __table_args__ = (Index("ix_log_chunks_line", "attempt_id", "rank", "first_line", "first_byte"),)

    @property
    def end(self) -> int:
        return self.first_byte + self.size


class LogGap(Base):
    """A place where bytes are missing, so that it can be shown and never hidden."""

    __tablename__ = "log_gaps"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_byte: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    size: Mapped[int | None] = mapped_column(BigId)  # None: not known
    why: Mapped[str] = mapped_column(Text)
