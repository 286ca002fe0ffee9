"""Where the supervisor begins: it leaves the process that started it behind, and makes sure that it is the only one."""

from __future__ import annotations

import os

from . import files, locks
from .supervisor import supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Spec


def main(folder: str) -> None:
    """Does nothing where another supervisor is at work or has been. The starter returns once that is decided."""
    decided = _detach()
    try:
        spec = _claim(folder)
    finally:
        os.close(decided)
    if spec is not None:
        supervise(folder, spec)


def _detach() -> int:
    """Goes on in a child, in a session of its own. The parent ends when the returned file is closed.

    So whoever started this need wait only for the parent to know that the lock is taken, and has no child to reap
    later.
    """
    decided, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os.read(decided, 1)  # ends without a byte when the child closes its end, also by dying
        os._exit(0)
    os.close(decided)
    os.setsid()
    return tell


def _claim(folder: str) -> Spec | None:
    """What to run; None when it is not for this process to run it."""
    if not locks.take_for_life(folder):
        return None
    if files.exists(folder, files.STARTED) or files.exists(folder, files.EXIT):
        return None
    spec: Spec | None = files.read_whole(folder, files.SPEC)  # none: the folder was removed since the lock was taken
    return spec
