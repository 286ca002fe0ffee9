"""The files in an attempt's folder, and the one way to write them: whole, or not at all, and for good."""

from __future__ import annotations

import contextlib
import json
import os

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


def read_whole(folder: str, name: str) -> Any:
    """What the file says; None where there is none."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))
