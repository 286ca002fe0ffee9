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
from sqlalchemy import exists, select, update
from sqlalchemy.orm.exc import StaleDataError

from app import journal
from app.cluster.protocol import AttemptKey, Capacity, Cluster, ClusterError, Code, Health, Wait
from app.clusters import service as clusters
from app.database import db, now
from app.jobs.models import Job, JobAttempt, Wish
from app.jobs.states import FINAL, State
from app.metrics import figures
from app.worker.collect import Collector
from app.worker.steps import Looked, Steps
from app.worker.sweep import sweep
from app.worker.turn import Replaced, Turn

QUEUE_LOOK = 200  # queued jobs considered at a time, in the order in which they came
IDLE = 30.0  # seconds between looks when nothing moves and nobody rings
CLOCK = 5.0  # seconds, where the worker keeps the time limits of jobs
BUSY = 1.0  # seconds between looks while something waits for room, a stop or its log
SWEEP_EVERY = 3600.0  # seconds
SWEEP_SOON = 60.0  # seconds, where something that was asked to end is left
RECORD_EVERY = 30.0  # seconds between records of a cluster that answers as before

_LAUNCHED = exists().where(
    JobAttempt.job_id == Job.id, JobAttempt.number == Job.attempt, JobAttempt.launched_at.is_not(None)
)

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
        refused: str = "",
    ) -> None:
        self.name = name
        self._app = app
        self._turn = turn
        self._cluster_id = cluster_id
        self.cluster = cluster
        self._instance = instance
        self._failed = failed
        self._refused = refused  # why nothing more is started here; empty: it is
        self._rung = threading.Event()
        self._stopping = False
        self._steps = Steps(turn, cluster, name, instance, collector, self.ring)
        # by job and wish, so that a stop waits for no failed launch: failures in a row, not before (monotonic seconds)
        self._pauses: dict[tuple[int, Wish], tuple[int, float]] = {}
        self._unsure: set[int] | None = None  # queued jobs that may exist on the cluster; None: not looked yet
        self._recorded: tuple[Health, Capacity] | None = None
        self._recorded_at = 0.0
        self._known: dict[int, Looked] = {}  # by job id: what the last look found, while it ran
        self._sweep_at = 0.0  # monotonic seconds
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

    @property
    def works(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        journal.begin(cluster=self.name, epoch=self._turn.epoch)
        try:
            self._begin_figures()
            self.cluster.start(self.ring)
            while not self._stopping:
                self._rung.clear()
                with self._app.app_context():
                    busy = self.look()
                self._rung.wait(BUSY if busy else IDLE if self.cluster.enforces_max_runtime else CLOCK)
        except BaseException as error:
            self._failed(error)
        finally:
            self.cluster.close()
            for figure in (figures.LOOKED, figures.ANSWERED):
                figure.forget(cluster=self.name)

    def _begin_figures(self) -> None:
        """From the start: a cluster that never answers must not be missing where an alert asks for how long."""
        figures.LOOKED.set(time.time(), cluster=self.name)
        if not self.cluster.enforces_max_runtime:
            figures.ANSWERED.set(time.time(), cluster=self.name)
        for result in ("launched", "refused", "error"):
            figures.LAUNCHES.add(0, cluster=self.name, result=result)  # the step from nothing to 1 is no increase

    def look(self) -> bool:
        """One pass over everything that is not settled; whether something waits for time to pass."""
        began = time.monotonic()
        try:
            self._sweep_sometimes()
            busy = self._pass()
            self._record()
            figures.LOOK.observe(time.monotonic() - began, cluster=self.name)
            figures.LOOKED.set(time.time(), cluster=self.name)
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
            select(Job.id, Job.uid, Job.name, Job.attempt, Job.version, Job.state, Job.wish)
            .where(
                Job.cluster_id == self._cluster_id,
                Job.settled.is_(False),
                # a queued one that exists is held by the cluster's own queue
                (Job.state != State.QUEUED) | (Job.wish == Wish.STOP) | _LAUNCHED,
            )
            .order_by(Job.id)
        ).all()
        db.session.rollback()
        busy = False
        for row in unsettled:
            if self._stopping:
                return False
            if row.state in FINAL:
                with journal.about(job=row.name, uid=row.uid, attempt=row.attempt):
                    busy = self._step(row.id, row.wish, self._steps.settle) is not True or busy
            else:
                if not self._is_as_known(row.id, AttemptKey(row.uid, row.attempt), row.version, row.wish):
                    with journal.about(job=row.name, uid=row.uid, attempt=row.attempt):
                        looked = self._step(row.id, row.wish, self._steps.look)
                    self._known.pop(row.id, None)
                    if isinstance(looked, Looked):
                        self._known[row.id] = looked
                # what starts slowly is judged by how long it takes, and a limit by the clock: no event says so
                busy = busy or row.wish is Wish.STOP or row.state is State.STARTING
        waiting = self._admit()
        here = {row.id for row in unsettled}
        self._pauses = {of: pause for of, pause in self._pauses.items() if of[0] in here or waiting}
        self._known = {job_id: looked for job_id, looked in self._known.items() if job_id in here}
        return busy or waiting or bool(self._pauses)

    def _is_as_known(self, job_id: int, key: AttemptKey, version: int, wish: Wish) -> bool:
        """Whether the row, the cluster and the clock say what they said at the last look: then it is not repeated.

        A thousand running jobs cost a thousand comparisons in memory this way, and no query.
        """
        known = self._known.get(job_id)
        if known is None or known.version != version or wish is not Wish.RUN:
            return False
        if known.limit is not None and known.limit < now():
            return False
        try:
            same = self.cluster.observe(key) == known.seen
        except ClusterError:
            return False  # `look` meets the same, and its pause is kept
        if same:
            self._steps.follow(known.attempt_id, known.nodes, key)
        return same

    def _admit(self) -> bool:
        """First come, first served: a job that has to wait holds back those behind it that need the same thing."""
        queued = db.session.execute(
            select(Job.id, Job.uid, Job.attempt, Job.gpus, Job.name)
            .where(
                Job.cluster_id == self._cluster_id,
                Job.settled.is_(False),
                Job.state == State.QUEUED,
                Job.wish == Wish.RUN,
                ~_LAUNCHED,
            )
            .order_by(Job.id)
            .limit(QUEUE_LOOK)
        ).all()
        db.session.rollback()
        if self._unsure is None:
            # a worker that died may have started some and not recorded it
            left = self.cluster.owned() if any(row.attempt for row in queued) else frozenset()
            self._unsure = {row.id for row in queued if AttemptKey(row.uid, row.attempt or 1) in left}
        short: dict[str, str] = {}  # what is short, and the first job that waits for it
        held_back: dict[str, list[int]] = {}
        for row in queued:
            if self._stopping:
                return False
            needs = ("gpu" if row.gpus else "slot", "disk")
            blocker = next((short[need] for need in needs if need in short), None)
            if row.id not in self._unsure and (self._refused or blocker is not None):
                held_back.setdefault(blocker or "", []).append(row.id)
                continue
            self._unsure.add(row.id)
            with journal.about(job=row.name, uid=row.uid, attempt=row.attempt or 1):
                answer = self._step(row.id, Wish.RUN, self._steps.launch)
            if (row.id, Wish.RUN) not in self._pauses:
                self._unsure.discard(row.id)
            if isinstance(answer, Wait):
                short[answer.resource] = row.name
                if answer.retry_after is not None:
                    self._pauses[row.id, Wish.RUN] = (0, time.monotonic() + answer.retry_after)
        for blocker, job_ids in held_back.items():
            if self._refused:
                self._say_waiting(job_ids, Code.CLUSTER_OFF, self._refused)
            else:
                text = f"It waits behind {blocker}, which came first and needs the same."
                self._say_waiting(job_ids, Code.BEHIND, text)
        return bool(queued) and not self._refused

    def _say_waiting(self, job_ids: list[int], code: Code, text: str) -> None:
        stale = db.session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.reason_text != text)).all()
        db.session.rollback()
        if not stale:
            return
        with self._turn.transaction() as session:
            session.execute(
                update(Job)
                .where(Job.id.in_(stale), Job.state == State.QUEUED, Job.wish == Wish.RUN)
                .values(reason_code=code, reason_text=text, reason_raw="", version=Job.version + 1)
            )

    def _step(self, job_id: int, wish: Wish, step: Callable[[int], object]) -> object:
        """Take one step. Whatever fails in it is this job's own matter."""
        failures, not_before = self._pauses.get((job_id, wish), (0, 0.0))
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
            figures.CLUSTER_ERRORS.add(cluster=self.name)
            pause = min(60.0, 2.0 ** min(failures, 6))
            if isinstance(error, ClusterError):
                pause = error.retry_after or pause
                log.warning("job %s on %s: %s", job_id, self.name, error.text)
            else:
                log.exception("job %s on %s: %s failed", job_id, self.name, getattr(step, "__name__", "a step"))
            self._pauses[job_id, wish] = (failures + 1, time.monotonic() + pause)
            return None
        self._pauses.pop((job_id, wish), None)
        return answer

    def _record(self) -> None:
        health, capacity = self.cluster.health(), self.cluster.capacity()
        if health.answered_at is not None and not self.cluster.enforces_max_runtime:
            figures.ANSWERED.set(health.answered_at.timestamp(), cluster=self.name)
        same = self._recorded is not None and self._recorded[1] == capacity and self._recorded[0].error == health.error
        if same and time.monotonic() < self._recorded_at + RECORD_EVERY:
            return
        if same and self._recorded is not None and self.cluster.enforces_max_runtime:
            return  # this machine cannot fall silent: nothing new to tell
        with self._turn.transaction():
            clusters.record(self._cluster_id, health.answered_at, health.error, capacity)
        self._recorded, self._recorded_at = (health, capacity), time.monotonic()

    def _sweep_sometimes(self) -> None:
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_EVERY
        done = sweep(self.cluster, self._cluster_id)
        if done.again_soon:
            self._sweep_at = time.monotonic() + SWEEP_SOON
        for key in done.removed:
            log.warning("cluster %s: removed %s, which no job of the portal belongs to", self.name, key)
