"""Reads one rank's output from its file. The cursor is the offset of the next byte, in decimal."""

from __future__ import annotations

import os

from app.cluster.local.folder import AttemptFolder, Life
from app.cluster.local.shim.files import log_of
from app.cluster.protocol import LogPiece
from app.cluster.text import size

FINAL = (Life.OVER, Life.DEAD, Life.MISSING)


class LocalLog:
    def __init__(self, folder: AttemptFolder, rank: int, cursor: str, limit: int) -> None:
        self._folder = folder
        self._rank = rank
        self._offset = int(cursor or 0)
        self._kept = limit
        self._file: int | None = None

    def read(self, limit: int) -> LogPiece | None:
        # First whether more can come, then what is there: the other way round the last bytes could be missed.
        final = self._folder.life in FINAL
        if not self._opened():
            return LogPiece(b"", str(self._offset), complete=True) if final else None
        data, skipped = self._next(limit)
        if not data and not skipped and not final:
            return None
        return LogPiece(
            data,
            cursor=str(self._offset),
            skipped=skipped,
            skipped_why=f"The job printed more than {size(self._kept)}; the middle was not kept." if skipped else "",
            complete=final and self._offset >= self._size(),
        )

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _next(self, limit: int) -> tuple[bytes, int]:
        """What follows, never out of the hole, and how many bytes the hole swallowed before it. Moves the offset."""
        skipped = 0
        while True:
            start, end = self._gap()
            if start <= self._offset < end:
                skipped += end - self._offset
                self._offset = end
            room = start - self._offset if self._offset < start < end else limit
            data = os.pread(self._handle(), min(limit, room), self._offset)
            # The record is written before the hole is made: if it still leaves out this place, the bytes are true.
            start, end = self._gap()
            if self._offset + len(data) <= start or self._offset >= end:
                self._offset += len(data)
                return data, skipped

    def _gap(self) -> tuple[int, int]:
        gap = self._folder.gap(self._rank)
        return (gap["start"], gap["end"]) if gap else (0, 0)

    def _opened(self) -> bool:
        if self._file is None:
            try:
                self._file = os.open(self._folder.path / log_of(self._rank), os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def _handle(self) -> int:
        assert self._file is not None
        return self._file

    def _size(self) -> int:
        return os.fstat(self._handle()).st_size
