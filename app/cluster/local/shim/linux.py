"""The system calls that Python has no words for."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, not of init: none can get away."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent(signal: int) -> None:
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0))


def punch_hole(file: int, start: int, end: int) -> None:
    """The bytes from `start` up to `end` no longer use disk, and read as zeros. The size stays."""
    _check(_libc.fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
