"""Notices that an attempt has moved on. Costs nothing while none is active."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from app.cluster.local.folder import AttemptFolder, Life
from app.cluster.protocol import AttemptKey

INTERVAL = 0.25  # seconds

Look = tuple[Life, int, bool]


class Watch:
    """Looks at the attempts that may still change, and calls `changed` when one of them did."""

    def __init__(self) -> None:
        self._changed: Callable[[], None] | None = None
        self._active: dict[AttemptKey, AttemptFolder] = {}
        self._seen: dict[AttemptKey, Look] = {}
        self._something = threading.Event()  # set while there is an active attempt, and to end
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards `_active`
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="this-machine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._something.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def add(self, folder: AttemptFolder) -> None:
        with self._lock:
            self._active[folder.key] = folder
            self._something.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._something.wait()
            with contextlib.suppress(OSError):  # no file handle is free, say: the next look tries again
                if self._look() and self._changed:
                    self._changed()
            self._closing.wait(INTERVAL)

    def _look(self) -> bool:
        """Whether anything differs from the last look. What cannot change any more is not looked at again."""
        with self._lock:
            active = list(self._active.values())
        moved = False
        for folder in active:
            life = folder.life
            stillborn = life is Life.UNBORN and folder.stillborn
            look = (life, folder.changed_at, stillborn)
            moved |= self._seen.get(folder.key) != look
            self._seen[folder.key] = look
            if stillborn or life not in (Life.UNBORN, Life.ALIVE):
                self._forget(folder.key)
        return moved

    def _forget(self, key: AttemptKey) -> None:
        with self._lock:
            self._active.pop(key, None)
            self._seen.pop(key, None)
            if not self._active and not self._closing.is_set():
                self._something.clear()
