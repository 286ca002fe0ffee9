"""The worker's process: takes its turn, starts a thread for each cluster and one for logs, and ends cleanly."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from flask import Flask

from app.clusters import service as clusters
from app.config import Config
from app.database import db
from app.installation import service as installation
from app.metrics import exposition, figures
from app.postgresql import LineLost
from app.worker import place
from app.worker.collect import Collector
from app.worker.loop import ClusterLoop
from app.worker.place import Place
from app.worker.registry import build
from app.worker.retain import Retainer
from app.worker.turn import Replaced, Turn

LOOK_EVERY = 1.0  # seconds between looks at whether anything changed
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
    exposition.tell_of_worker(app)
    while not ended.is_set():
        try:
            with place.take(config) as taken:
                return _Worker(app, config, taken, ended).work()
        except installation.Taken:
            ended.wait(0.5)
        except LineLost as error:
            log.warning("the database does not answer (%s); trying again", error)
            ended.wait(1.0)
    return 0


def _end(ended: threading.Event, _frame: FrameType | None = None) -> None:
    ended.set()


class _Worker:
    def __init__(self, app: Flask, config: Config, taken: Place, ended: threading.Event) -> None:
        self._app = app
        self._config = config
        self._place = taken
        self._ended = ended
        self._error: BaseException | None = None
        self._loops: dict[int, tuple[ClusterLoop, int]] = {}  # by the cluster's id, with the `changes` that it knows
        self._broken: dict[int, tuple[str, int]] = {}  # clusters that could not be made: name, `changes`
        self._turn: Turn
        self._instance: str
        self._collector: Collector

    def work(self) -> int:
        with self._app.app_context():
            self._turn = Turn()
            self._instance = installation.identity()
            self._tell_of_this_machine()
        self._collector = Collector(self._app, self._turn, self._config.log_limit, self._fail)
        self._collector.start()
        retainer = Retainer(self._app, self._config)
        retainer.start()
        self._keep_clusters()
        log.info("the worker works, epoch %s, clusters: %s", self._turn.epoch, ", ".join(self._names()) or "none")
        try:
            self._watch()
        finally:
            retainer.close()
            for loop, _ in self._loops.values():
                loop.stop()
            for loop, _ in self._loops.values():
                loop.join(END_PATIENCE)
            self._collector.close()
        if self._error is not None:
            log.error("the worker ends: %s: %s", type(self._error).__name__, self._error)
            return 1
        log.info("the worker has ended")
        return 0

    def _tell_of_this_machine(self) -> None:
        """The worker is where its jobs run. One that runs none here makes no cluster of it, and closes one it was."""
        refused = self._config.local_jobs_refused
        if not refused or clusters.by_name(clusters.THIS_MACHINE) is not None:
            with self._turn.transaction():
                clusters.ensure_this_machine(refused)

    def _names(self) -> list[str]:
        return [loop.name for loop, _ in self._loops.values()]

    def _keep_clusters(self) -> None:
        """Have a loop for each cluster of the table, with the settings that it has there now."""
        with self._app.app_context():
            rows = {row.id: row for row in clusters.everything()}
            for cluster_id, (loop, changes) in list(self._loops.items()):
                if cluster_id not in rows or rows[cluster_id].changes != changes:
                    log.info("cluster %s has new settings", loop.name)
                    loop.stop()
                    loop.join(END_PATIENCE)
                    if loop.works:
                        continue  # it hangs in a step: a second one beside it would do that step twice
                    self._collector.forget(loop.cluster)
                    del self._loops[cluster_id]
            for cluster_id, (name, _) in list(self._broken.items()):
                if cluster_id not in rows:
                    figures.LOOKED.forget(cluster=name)
                    del self._broken[cluster_id]
            for row in rows.values():
                if row.id not in self._loops and self._broken.get(row.id) != (row.name, row.changes):
                    self._begin(row)
            db.session.rollback()

    def _begin(self, row: clusters.ClusterRow) -> None:
        try:
            cluster = build(row, self._config, self._instance)
        except Exception as error:
            # a bad credential is this cluster's own matter; its settings may be mended while the others work
            log.error("cluster %s cannot be used: %s", row.name, error)
            cluster_id, name, changes, problem = row.id, row.name, row.changes, str(error)
            with self._turn.transaction():
                clusters.record(cluster_id, None, problem, None)
            if cluster_id not in self._broken:
                figures.LOOKED.set(time.time(), cluster=name)  # from now on nobody looks at it, and an alert says so
            self._broken[cluster_id] = name, changes
            return
        self._broken.pop(row.id, None)
        if row.refused:
            log.info("cluster %s takes no jobs: %s", row.name, row.refused)
        loop = ClusterLoop(
            self._app, self._turn, row.id, row.name, cluster, self._instance, self._collector, self._fail, row.refused
        )
        loop.start()
        self._loops[row.id] = (loop, row.changes)

    def _fail(self, error: BaseException) -> None:
        """A thread cannot go on: end the process, and let a fresh one begin where this one stopped."""
        if not isinstance(error, Replaced):
            log.error("a thread of the worker failed", exc_info=error)
        self._error = self._error or error
        self._ended.set()
        self._place.ring()

    def _watch(self) -> None:
        alive_at = time.monotonic()
        while not self._ended.is_set():
            if self._place.wait(LOOK_EVERY):
                for loop, _ in self._loops.values():
                    loop.ring()
                self._quietly(self._keep_clusters)
            if time.monotonic() > alive_at + ALIVE_EVERY:
                alive_at = time.monotonic()
                self._quietly(self._tell_that_it_lives)

    def _tell_that_it_lives(self) -> None:
        with self._app.app_context():
            self._turn.alive()

    def _quietly(self, step: Callable[[], None]) -> None:
        """The database may be away for a while; that ends nothing."""
        try:
            step()
        except Replaced as error:
            self._fail(error)
        except Exception:
            log.exception("%s failed; it is tried again", step.__name__)
