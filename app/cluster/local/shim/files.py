"""The files in an attempt's folder, and the one way to write them: whole, or not at all, and for good."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SPEC = "spec.json"
LOCK = "lock"  # held by the supervisor for life
STARTED = "started"
RUNNING = "running"
EXIT = "exit"
STOP = "stop"  # the wish to stop: level-triggered
CONTROL = "control"  # a FIFO; a byte in it makes the supervisor look at once

ROOM_CHECK = 0.5  # seconds between tries while the disk is full


def log_of(rank: int) -> str:
    return f"rank-{rank}.log"


def gap_of(rank: int) -> str:
    return f"gap-{rank}"


def write_whole(folder: str, name: str, content: Mapping[str, Any]) -> None:
    """After this returns, the file survives a power cut; before, a reader sees the old one or none."""
    scratch = os.path.join(folder, f".{name}.{os.getpid()}")
    target = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(target, "wb") as file:
            file.write(json.dumps(content).encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, os.path.join(folder, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_once_there_is_room(folder: str, name: str, content: Mapping[str, Any]) -> None:
    """As `write_whole`; while the disk is full it is tried again, however long that takes."""
    while not try_to_write(folder, name, content):
        time.sleep(ROOM_CHECK)


def try_to_write(folder: str, name: str, content: Mapping[str, Any]) -> bool:
    """As `write_whole`, but a full disk only makes it return False."""
    try:
        write_whole(folder, name, content)
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def read_whole(folder: str, name: str) -> Any:
    """What the file says; None where there is none."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))
