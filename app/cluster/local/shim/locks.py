"""The lock on an attempt's folder: whether its supervisor lives is asked of the kernel, never of a process id.

The supervisor holds a POSIX record lock: its children do not inherit it, and it goes with the process, however that
ends. The portal asks and takes with open-file-description locks, which conflict with record locks but belong to one
open file: another thread that opens and closes the same file does not drop them.
"""

from __future__ import annotations

import fcntl
import os
import struct

from .files import LOCK

FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid
WHOLE_FILE = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def take_for_life(folder: str) -> bool:
    """False when somebody else has it, or the folder is gone. The file stays open: closing it would drop the lock."""
    try:
        fcntl.lockf(os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(folder: str) -> int | None:
    """The process that holds the lock (-1: the portal itself, for a moment); None when it is free."""
    try:
        file = os.open(os.path.join(folder, LOCK), os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        answer = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, WHOLE_FILE))
    finally:
        os.close(file)
    return None if answer[0] == fcntl.F_UNLCK else int(answer[4])


def take_for_a_moment(folder: str) -> int | None:
    """An open file that holds the lock until it is closed; None when a supervisor has it, or the folder is gone."""
    try:
        file = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, WHOLE_FILE)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows both
        os.close(file)
        return None
    return file
