"""One cluster's own thread: looks at its jobs whenever something may have changed, and takes one step for each.

Clusters share nothing but the database: one that hangs delays no other. A job whose step fails is tried again later,
after a growing pause, and delays no other job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.orm.exc import StaleDataError

from app.cluster.protocol import AttemptKey, Capacity, Cluster, ClusterError, Code, Health
from app.clusters import service as clusters
from app.database import db
from app.jobs.models import Job, Wish
from app.jobs.states import FINAL, State
from app.worker.collect import Collector
from app.worker.steps import Steps
from app.worker.sweep import sweep
from app.worker.turn import Replaced, Turn

QUEUE_LOOK = 200  # queued jobs considered at a time, in the order in which they came
IDLE = 30.0  # seconds between looks when nothing moves and nobody rings
BUSY = 1.0  # seconds between looks while something waits for room, a stop or its log
SWEEP_EVERY = 3600.0  # seconds
RECORD_EVERY = 30.0  # seconds between records of a cluster that answers as before

log = logging.getLogger("simpletrain.worker")


class ClusterLoop:
    def __init__(
        self,
        app: Flask,
        turn: Turn,
        cluster_id: int,
        name: str,
        cluster: Cluster,
        instance: str,
        collector: Collector,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self._app = app
        self._turn = turn
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._instance = instance
        self._failed = failed
        self._rung = threading.Event()
        self._stopping = False
        self._steps = Steps(turn, cluster, name, instance, collector, self.ring)
        self._pauses: dict[int, tuple[int, float]] = {}  # job id: failures in a row, not before (monotonic seconds)
        self._wait_until = 0.0
        self._recorded: tuple[Health, Capacity] | None = None
        self._recorded_at = 0.0
        self._swept_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"cluster {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ring(self) -> None:
        """Something may have changed: look now."""
        self._rung.set()

    def stop(self) -> None:
        """End after the step that is being taken."""
        self._stopping = True
        self._rung.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._cluster.start(self.ring)
            while not self._stopping:
                self._rung.clear()
                with self._app.app_context():
                    busy = self.look()
                self._rung.wait(BUSY if busy else IDLE)
        except BaseException as error:
            self._failed(error)
        finally:
            self._cluster.close()

    def look(self) -> bool:
        """One pass over everything that is not settled; whether something waits for time to pass."""
        try:
            self._sweep_sometimes()
            busy = self._pass()
            self._record()
            return busy
        except (Replaced, KeyboardInterrupt, SystemExit):
            raise
        except Exception:
            # the database is away, or a bug: nothing that is done here may end the thread
            log.exception("cluster %s: a look failed; looking again", self.name)
            db.session.rollback()
            time.sleep(BUSY)
            return True

    def _pass(self) -> bool:
        unsettled = db.session.execute(
            select(Job.id, Job.state, Job.wish, Job.attempt)
            .where(Job.cluster_id == self._cluster_id, Job.settled.is_(False), Job.state != State.QUEUED)
            .order_by(Job.id)
        ).all()
        stopped_early = db.session.scalars(
            select(Job.id)
            .where(
                Job.cluster_id == self._cluster_id,
                Job.settled.is_(False),
                Job.state == State.QUEUED,
                Job.wish == Wish.STOP,
            )
            .order_by(Job.id)
        ).all()
        db.session.rollback()
        busy = bool(stopped_early)
        for job_id in stopped_early:
            self._step(job_id, self._steps.look)
        for row in unsettled:
            if self._stopping:
                return False
            if row.state in FINAL:
                busy = self._step(row.id, self._steps.settle) is not True or busy
            else:
                self._step(row.id, self._steps.look)
                busy = busy or row.wish is Wish.STOP
        waiting = self._admit()
        known = {row.id for row in unsettled}
        self._pauses = {job: pause for job, pause in self._pauses.items() if job in known or waiting}
        return busy or waiting or bool(self._pauses)

    def _admit(self) -> bool:
        """First come, first served: a job that has to wait holds back those behind it that need the same thing."""
        queued = db.session.execute(
            select(Job.id, Job.gpus, Job.name)
            .where(
                Job.cluster_id == self._cluster_id,
                Job.settled.is_(False),
                Job.state == State.QUEUED,
                Job.wish == Wish.RUN,
            )
            .order_by(Job.id)
            .limit(QUEUE_LOOK)
        ).all()
        db.session.rollback()
        short: dict[str, str] = {}  # what is short, and the first job that waits for it
        held_back: dict[str, list[int]] = {}
        for row in queued:
            if self._stopping:
                return False
            needs = ("gpu" if row.gpus else "slot", "disk", "")
            blocker = next((short[need] for need in needs if need in short), None)
            if blocker is not None:
                held_back.setdefault(blocker, []).append(row.id)
                continue
            answer = self._step(row.id, self._steps.launch)
            if answer is not None and hasattr(answer, "resource"):
                short[answer.resource] = row.name
        for blocker, job_ids in held_back.items():
            self._say_behind(blocker, job_ids)
        return bool(queued)

    def _say_behind(self, blocker: str, job_ids: list[int]) -> None:
        text = f"It waits behind {blocker}, which came first and needs the same."
        stale = db.session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.reason_text != text)).all()
        db.session.rollback()
        if not stale:
            return
        with self._turn.transaction() as session:
            session.execute(
                update(Job)
                .where(Job.id.in_(stale), Job.state == State.QUEUED, Job.wish == Wish.RUN)
                .values(reason_code=Code.BEHIND, reason_text=text, reason_raw="", version=Job.version + 1)
            )

    def _step(self, job_id: int, step: Callable[[int], object]) -> object:
        """Take one step. Whatever fails in it is this job's own matter."""
        failures, not_before = self._pauses.get(job_id, (0, 0.0))
        if time.monotonic() < not_before:
            return None
        try:
            answer = step(job_id)
        except (Replaced, KeyboardInterrupt, SystemExit):
            raise
        except StaleDataError:
            db.session.rollback()  # a person's wish came in between: the next look sees it
            self.ring()
            return None
        except Exception as error:
            db.session.rollback()
            pause = min(60.0, 2.0**failures)
            if isinstance(error, ClusterError):
                pause = error.retry_after or pause
                log.warning("job %s on %s: %s", job_id, self.name, error.text)
            else:
                log.exception("job %s on %s: %s failed", job_id, self.name, getattr(step, "__name__", "a step"))
            self._pauses[job_id] = (failures + 1, time.monotonic() + pause)
            return None
        self._pauses.pop(job_id, None)
        return answer

    def _record(self) -> None:
        health, capacity = self._cluster.health(), self._cluster.capacity()
        same = self._recorded is not None and self._recorded[1] == capacity and self._recorded[0].error == health.error
        if same and time.monotonic() < self._recorded_at + RECORD_EVERY:
            return
        if same and self._recorded is not None and self._cluster.enforces_max_runtime:
            return  # this machine cannot fall silent: nothing new to tell
        with self._turn.transaction():
            clusters.record(self._cluster_id, health.answered_at, health.error, capacity)
        self._recorded, self._recorded_at = (health, capacity), time.monotonic()

    def _sweep_sometimes(self) -> None:
        if self._swept_at and time.monotonic() < self._swept_at + SWEEP_EVERY:
            return
        self._swept_at = time.monotonic()
        for key in sweep(self._cluster, self._cluster_id):
            log.warning("cluster %s: removed %s, which no job of the portal belongs to", self.name, key)


def key_of(job: Job) -> AttemptKey:
    return AttemptKey(job.uid, job.attempt)
