"""The one place that a worker has, and how it is told there that something changed.

The kernel frees it when the worker ends, however it ends: a lock on a file in DATA_DIR, and on PostgreSQL a lock of
the worker's own connection, so that workers on several hosts take turns too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from app import wake
from app.config import Config
from app.database import sqlite_file, sqlite_module
from app.installation import service as installation
from app.postgresql import Line, LineLost, Lock

LOOK_ANYWAY = 10.0  # seconds between looks on PostgreSQL though nobody told: the safety net under lost notifications

log = logging.getLogger("simpletrain.worker")


@contextmanager
def take(config: Config) -> Iterator[Place]:
    """Raises Taken while another worker has it, LineLost where PostgreSQL does not answer."""
    with installation.locked(config.data_dir / "worker.lock"), closing(Place(config)) as place:
        yield place


class Place:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._line = None if config.sqlite else self._call()
        if self._line is None and not config.sqlite:
            raise installation.Taken("another host's worker")
        self._alarm = wake.Alarm(wake.pipe_of(config.data_dir))
        self._counter = _ChangeCounter(config) if config.sqlite else None
        self._looked_at = time.monotonic()

    def ring(self) -> None:
        self._alarm.ring()

    def wait(self, seconds: float) -> bool:
        """Whether something may have changed; at the latest after so many seconds."""
        if self._counter is not None:
            rung, changed = self._alarm.wait(seconds), self._counter.changed()
            return rung or changed
        mended = self._mend()
        try:
            rung = self._alarm.wait(0 if mended else seconds, self._line)
        except LineLost as error:
            log.warning("the connection to the database is lost (%s); looking every second until it is back", error)
            self._hang_up()
            rung = False
        # what was told while nobody listened is not told again
        if rung or mended or self._line is None or time.monotonic() > self._looked_at + LOOK_ANYWAY:
            self._looked_at = time.monotonic()
            return True
        return False

    def close(self) -> None:
        self._alarm.close()
        self._hang_up()
        if self._counter is not None:
            self._counter.close()

    def _mend(self) -> bool:
        """Call again where the line is lost; whether it is there anew.

        Another worker may have taken the place meanwhile; then the epoch keeps this one from writing, and ends it. It
        may also be this worker's own old connection, which the server has not missed yet.
        """
        if self._line is not None:
            return False
        try:
            self._line = self._call()
        except LineLost:
            return False
        if self._line is not None:
            log.info("the connection to the database is back")
        return self._line is not None

    def _call(self) -> Line | None:
        line = Line(self._config)
        try:
            if line.lock(Lock.WORKER):
                line.listen()
                return line
        except LineLost:
            line.close()
            raise
        line.close()
        return None

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class _ChangeCounter:
    """SQLite's own counter of other connections' commits: the safety net under lost wake-ups, at a few microseconds."""

    def __init__(self, config: Config) -> None:
        path = sqlite_file(config.database)
        self._connection: Any = sqlite_module().connect(str(path))
        self._seen = self._read()

    def _read(self) -> int:
        found: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return found

    def changed(self) -> bool:
        fresh = self._read()
        changed, self._seen = fresh != self._seen, fresh
        return changed

    def close(self) -> None:
        self._connection.close()
