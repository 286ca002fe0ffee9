"""The worker's process: takes its turn, starts a thread for each cluster and one for logs, and ends cleanly."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import closing
from types import FrameType
from typing import Any

from flask import Flask

from app import wake
from app.clusters import service as clusters
from app.config import Config
from app.database import db, sqlite_file, sqlite_module
from app.installation import service as installation
from app.worker.collect import Collector
from app.worker.loop import ClusterLoop
from app.worker.registry import build
from app.worker.turn import Replaced, Turn

LOOK_EVERY = 1.0  # seconds between looks at the database's change counter
ALIVE_EVERY = 15.0  # seconds
END_PATIENCE = 20.0  # seconds that a cluster's thread has to finish its step

log = logging.getLogger("simpletrain.worker")


def run(app: Flask) -> int:
    """Work until SIGTERM or SIGINT; the exit status. Waits for its turn while another worker has it."""
    config: Config = app.config["PORTAL"]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: _end(ended))
    with app.app_context():
        installation.verify()
    while not ended.is_set():
        try:
            with installation.locked(config.data_dir / "worker.lock"):
                return _Worker(app, config, ended).work()
        except installation.Taken:
            ended.wait(0.5)
    return 0


def _end(ended: threading.Event, _frame: FrameType | None = None) -> None:
    ended.set()


class _Worker:
    def __init__(self, app: Flask, config: Config, ended: threading.Event) -> None:
        self._app = app
        self._config = config
        self._ended = ended
        self._error: BaseException | None = None
        self._alarm = wake.Alarm(wake.pipe_of(config.data_dir))

    def work(self) -> int:
        with self._app.app_context():
            turn = Turn()
            instance = installation.identity()
            rows = clusters.everything()
            collector = Collector(self._app, turn, self._config.log_limit, self._fail)
            loops = []
            for row in rows:
                if row.refused:
                    log.info("cluster %s takes no jobs: %s", row.name, row.refused)
                cluster = build(row, self._config, instance)
                loops.append(ClusterLoop(self._app, turn, row.id, row.name, cluster, instance, collector, self._fail))
            db.session.rollback()
        log.info("the worker works, epoch %s, clusters: %s", turn.epoch, ", ".join(loop.name for loop in loops))
        collector.start()
        for loop in loops:
            loop.start()
        try:
            self._watch(turn, loops)
        finally:
            for loop in loops:
                loop.stop()
            for loop in loops:
                loop.join(END_PATIENCE)
            collector.close()
            self._alarm.close()
        if self._error is not None:
            log.error("the worker ends: %s: %s", type(self._error).__name__, self._error)
            return 1
        log.info("the worker has ended")
        return 0

    def _fail(self, error: BaseException) -> None:
        """A thread cannot go on: end the process, and let a fresh one begin where this one stopped."""
        if not isinstance(error, Replaced):
            log.error("a thread of the worker failed", exc_info=error)
        self._error = self._error or error
        self._ended.set()
        self._alarm.ring()

    def _watch(self, turn: Turn, loops: list[ClusterLoop]) -> None:
        counter = _ChangeCounter(self._config)
        alive_at = time.monotonic()
        with closing(counter):
            while not self._ended.is_set():
                rung = self._alarm.wait(LOOK_EVERY)
                if rung or counter.changed():
                    for loop in loops:
                        loop.ring()
                if time.monotonic() > alive_at + ALIVE_EVERY:
                    alive_at = time.monotonic()
                    try:
                        with self._app.app_context():
                            turn.alive()
                    except Replaced as error:
                        self._fail(error)
                    except Exception:
                        log.exception("the worker could not tell that it lives")


class _ChangeCounter:
    """SQLite's own counter of other connections' commits: the safety net under lost wake-ups, at a few microseconds."""

    def __init__(self, config: Config) -> None:
        path = sqlite_file(config.database)
        self._connection: Any = sqlite_module().connect(str(path)) if path is not None else None
        self._seen = self._read()

    def _read(self) -> int | None:
        if self._connection is None:
            return None
        found: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return found

    def changed(self) -> bool:
        fresh = self._read()
        if fresh is None:
            return True  # no such counter: look
        changed, self._seen = fresh != self._seen, fresh
        return changed

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
