"""Bounds the disk that one rank's output takes, without the job noticing: head and tail stay, the middle goes.

The middle becomes a hole in the file, so offsets stay true. The gap is written down, for good, before the hole is
made: a reader that finds zeros also finds the record that says so. Where the file system cannot make holes, nothing
is cut and no gap is ever recorded.
"""

from __future__ import annotations

import os

from . import linux
from .files import gap_of, log_of, write_whole

SLACK = 8  # while it runs a file may exceed the limit by one part in so many, to write the record less often


class LogCap:
    def __init__(self, folder: str, rank: int, limit: int) -> None:
        self.folder = folder
        self.rank = rank
        self.limit = limit
        self.start = limit // 2
        self.end = self.start  # of the gap; nothing is missing yet
        self.file = os.open(os.path.join(folder, log_of(rank)), os.O_WRONLY | os.O_CREAT, 0o600)
        self.works = _can_punch(self.file)

    def check(self, last: bool = False) -> None:
        """Cuts what is too much; the last time exactly to the limit."""
        size = os.fstat(self.file).st_size
        kept = size - (self.end - self.start)
        allowed = self.limit if last else self.limit + self.limit // SLACK
        if not self.works or kept <= allowed:
            return
        end = size - (self.limit - self.start)
        write_whole(self.folder, gap_of(self.rank), {"start": self.start, "end": end})
        linux.punch_hole(self.file, self.start, end)
        self.end = end


def _can_punch(file: int) -> bool:
    try:
        linux.punch_hole(file, 0, 1)  # of an empty file: changes nothing
    except OSError:
        return False
    return True
