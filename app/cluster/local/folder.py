"""One attempt's folder as the portal sees it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from app.cluster.local.shim import files, locks
from app.cluster.local.shim.records import Exit, Gap, Running, Spec, Started, Stop
from app.cluster.protocol import AttemptKey

NAME = re.compile(r"([a-z0-9]+)-a([1-9][0-9]*)")
BIRTH = 10.0  # seconds in which a supervisor has surely taken its lock


class Life(StrEnum):
    """What files and lock say of an attempt. Only the first three can change."""

    MISSING = "missing"  # there is no folder, or nothing in it
    UNBORN = "unborn"  # it is to be run, and no supervisor has taken it on yet
    ALIVE = "alive"  # its supervisor holds the lock
    OVER = "over"  # how it ended is written down
    DEAD = "dead"  # it was started, and its supervisor vanished without a word


class AttemptFolder:
    def __init__(self, root: Path, key: AttemptKey) -> None:
        if not NAME.fullmatch(str(key)):
            raise ValueError(f"{key} does not name an attempt.")
        self.key = key
        self.path = root / str(key)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def life(self) -> Life:
        if self.has(files.EXIT):
            return Life.OVER
        if locks.holder(str(self)) is not None:
            # A moment ago it may have been on the point of writing `exit`; that look comes at the next change.
            return Life.ALIVE
        # The lock is freed only after `exit` is there, so this second look leaves no gap between the two.
        if self.has(files.EXIT):
            return Life.OVER
        if self.has(files.STARTED):
            return Life.DEAD
        return Life.UNBORN if self.has(files.SPEC) or self.has(files.STOP) else Life.MISSING

    @property
    def holds_something(self) -> bool:
        return self.has(files.SPEC) and self.life in (Life.UNBORN, Life.ALIVE)

    @property
    def stillborn(self) -> bool:
        """Waited for so long that no supervisor will come. Meaningful while `life` is UNBORN."""
        try:
            written = (self.path / files.SPEC).stat().st_mtime
        except FileNotFoundError:
            return False
        return abs(time.time() - written) > BIRTH

    @property
    def changed_at(self) -> int:
        """Moves whenever a file comes, goes or is replaced; 0 without a folder."""
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def has(self, name: str) -> bool:
        return files.exists(str(self), name)

    @property
    def spec(self) -> Spec | None:
        spec: Spec | None = files.read_whole(str(self), files.SPEC)
        return spec

    @property
    def stop(self) -> Stop | None:
        stop: Stop | None = files.read_whole(str(self), files.STOP)
        return stop

    @property
    def started(self) -> Started | None:
        started: Started | None = files.read_whole(str(self), files.STARTED)
        return started

    @property
    def running(self) -> Running | None:
        running: Running | None = files.read_whole(str(self), files.RUNNING)
        return running

    @property
    def exit(self) -> Exit | None:
        exit: Exit | None = files.read_whole(str(self), files.EXIT)
        return exit

    def gap(self, rank: int) -> Gap | None:
        gap: Gap | None = files.read_whole(str(self), files.gap_of(rank))
        return gap

    @property
    def instance(self) -> str:
        """Whose it is; empty when nobody's mark is in it."""
        owner = self.spec or self.stop
        return owner["instance"] if owner else ""

    def write_spec(self, spec: Spec) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_whole(str(self), files.SPEC, spec)

    def ask_to_stop(self, instance: str) -> None:
        """From here on it cannot start any more; where it runs, its supervisor sees it at once."""
        if not self.has(files.STOP):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_whole(str(self), files.STOP, {"instance": instance, "at": time.time()})
        try:
            control = os.open(self.path / files.CONTROL, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return  # nobody listens (yet): the file `stop` is there for whoever comes
        try:
            os.write(control, b"s")
        except BlockingIOError:
            pass  # full of earlier calls, so it will be read
        finally:
            os.close(control)

    def conclude_unborn(self, as_stopped: bool) -> bool:
        """Writes the last word on an attempt that was never started, in the supervisor's stead.

        False when a supervisor is at work or has been. After True none will ever begin: it finds `exit`.
        """
        with self._locked() as ours:
            if not ours or self.has(files.STARTED) or self.has(files.EXIT):
                return False
            verdict: Exit = {
                "why": "stopped" if as_stopped else "could_not_start",
                "detail": "" if as_stopped else "Its supervisor did not begin to work.",
                "finished_at": time.time(),
                "running_at": None,
                "ranks": [],
                "first_failed": None,
                "killed": False,
                "left_behind": 0,
                "oom_kills": 0,
            }
            files.write_whole(str(self), files.EXIT, verdict)
            return True

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        file = locks.take_for_a_moment(str(self))
        try:
            yield file is not None
        finally:
            if file is not None:
                os.close(file)


def folders(root: Path) -> list[AttemptFolder]:
    """All there are, from a complete listing."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    found = filter(None, (NAME.fullmatch(name) for name in sorted(names)))
    return [AttemptFolder(root, AttemptKey(match[1], int(match[2]))) for match in found]
