"""The steps of one job: launch, observe, stop, settle. Each may be repeated at any time, by any worker.

A step looks at the cluster with no transaction open, and then writes what it saw in one short transaction that reads
the row anew. What people wished in between is in that row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm.attributes import flag_modified

from app import durations
from app.accounts.models import User
from app.cluster.faults import fault
from app.cluster.protocol import (
    AttemptKey,
    Cluster,
    Code,
    Launched,
    Observation,
    Reason,
    Refused,
    Wait,
)
from app.database import db, now
from app.jobs import service as jobs
from app.jobs import spec as specs
from app.jobs.models import Job, JobAttempt, JobEvent, JobRank, Wish
from app.jobs.states import State
from app.logs import service as logs
from app.metrics import figures
from app.worker.collect import Collector
from app.worker.derive import derive
from app.worker.turn import Turn

log = logging.getLogger("simpletrain.worker")

LOG_PATIENCE = 120.0  # seconds without a byte for which a finished job waits for the rest of its log


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found and left behind. While nothing of it differs, looking again would change nothing."""

    seen: Observation | None
    version: int  # of the job's row
    limit: datetime | None  # when the worker has to stop it
    attempt_id: int
    nodes: int


@dataclass(slots=True)
class Steps:
    """The steps on one cluster."""

    turn: Turn
    cluster: Cluster
    cluster_name: str
    instance: str
    collector: Collector
    look_again: Callable[[], None]  # called when a log is complete
    still: dict[int, tuple[int, float]] = field(default_factory=dict)  # job id: size of its log, since (monotonic)

    # launch

    def launch(self, job_id: int) -> Wait | None:
        """Make a queued job exist on the cluster; the answer if it has to wait."""
        with self.turn.transaction():
            job = db.session.get_one(Job, job_id, with_for_update=True)
            if job.state is not State.QUEUED or job.wish is not Wish.RUN:
                return None
            if job.attempt == 0:
                job.attempt = 1
                db.session.add(JobAttempt(job_id=job.id, number=1))
            attempt = jobs.attempt_value(job, self.instance)
        fault("launch.before_cluster")
        at = now()  # before the call: what the cluster tells of the start comes after it
        try:
            answer = self.cluster.launch(attempt)
        except Exception:
            self._count_launch("error")
            raise
        fault("launch.before_record")
        with self.turn.transaction():
            job = db.session.get_one(Job, job_id, with_for_update=True)
            acknowledged_at, cancelled = job.created_at, job.state.final
            self._record_launch(job, answer, at)
        fault("launch.after_record")
        if isinstance(answer, Launched):
            self._count_launch("launched")
            figures.LAUNCH_WAIT.observe(max(0.0, (now() - acknowledged_at).total_seconds()), cluster=self.cluster_name)
            log.info("launched")
        elif isinstance(answer, Refused) and not cancelled:
            self._count_launch("refused")
            self._count_end(State.FAILED)
            log.info("refused by the cluster: %s", answer.reason.text)
        return answer if isinstance(answer, Wait) else None

    def _count_launch(self, result: str) -> None:
        figures.LAUNCHES.add(cluster=self.cluster_name, result=result)

    def _count_end(self, state: State) -> None:
        figures.ENDED.add(cluster=self.cluster_name, state=state.value)

    def _record_launch(self, job: Job, answer: Launched | Wait | Refused, at: datetime) -> None:
        if job.state.final:
            return
        if isinstance(answer, Launched):
            row = jobs.attempt_of(job)
            if row is not None and row.launched_at is None:
                row.handle, row.launched_at = answer.handle, at
            if job.state is State.QUEUED and job.wish is Wish.RUN:
                job.enter(State.STARTING, at)
                _because(job, Reason(Code.STARTING, "It is being started."))
                jobs.note(job, f"Sent to {self.cluster_name}", state=State.STARTING, at=at)
        elif isinstance(answer, Refused):
            jobs.finish(job, State.FAILED, answer.reason.code, answer.reason.text, answer.reason.raw)
            jobs.note(job, "Refused", answer.reason.text, state=State.FAILED)
        elif job.wish is Wish.RUN:
            _because(job, answer.reason)

    # look, and make a wish to stop true

    def look(self, job_id: int) -> Looked | None:
        """Bring a job that may have objects on the cluster to the state that they are in."""
        job = db.session.get_one(Job, job_id)
        row = jobs.attempt_of(job)
        key = AttemptKey(job.uid, job.attempt)
        wish, state, launched = job.wish, job.state, row is not None and row.launched_at is not None
        attempt_id, nodes = (row.id if row is not None else 0), job.nodes
        db.session.rollback()
        if wish is Wish.STOP:
            fault("stop.before_cluster")
            self.cluster.stop(key)
            fault("stop.after_cluster")
        seen = self.cluster.observe(key)
        if seen is None and not launched and wish is Wish.RUN:
            return None  # queued: `launch` will make it
        if launched or seen is not None:
            self.follow(attempt_id, nodes, key)
        if state.final:
            return None
        fault("look.before_record")
        with self.turn.transaction():
            job = db.session.get_one(Job, job_id, with_for_update=True)
            if not job.state.final:
                self._record_look(job, seen)
            db.session.flush()
            looked = Looked(seen, job.version, self._limit(job), attempt_id, nodes)
            reached = job.state
        fault("look.after_record")
        if reached.final and not state.final:
            self._count_end(reached)
        if reached is not state:
            log.info("it is %s", reached.value)
        return looked

    def follow(self, attempt_id: int, nodes: int, key: AttemptKey) -> None:
        """Have the output of an attempt archived; repeating it changes nothing."""
        self.collector.follow(attempt_id, nodes, key, self.cluster, self.look_again)

    def _limit(self, job: Job) -> datetime | None:
        """When the worker has to stop the job; None where that is not its business or not yet known."""
        if self.cluster.enforces_max_runtime or job.started_at is None:
            return None
        return job.started_at + timedelta(seconds=specs.from_json(job.spec).max_runtime)

    def _record_look(self, job: Job, seen: Observation | None) -> None:
        spec = specs.from_json(job.spec)
        row = jobs.attempt_of(job)
        stopped_by = ""
        if job.stop_asked_by is not None:
            stopped_by = db.session.scalar(select(User.name).where(User.id == job.stop_asked_by)) or "somebody"
        if seen is not None and row is not None:
            row.launched_at = row.launched_at or now()  # a worker may have died between the start and its record
            news = self._keep_ranks(row, seen) + self._keep_notes(job, seen)
            if news:
                flag_modified(job, "reason_text")  # makes its version grow, so that pages that watch it see the news
            job.started_at = job.started_at or seen.started_at
        state, reason = derive(job.state, job.wish, stopped_by, durations.spoken(spec.max_runtime), seen)
        limit = self._limit(job)
        if state is State.RUNNING and limit is not None and now() > limit:
            job.wish = Wish.STOP  # stop_asked_by stays empty: nobody asked
            state, reason = State.STOPPING, Reason(Code.STOPPING, "It reached its time limit and is being stopped.")
        at = now()
        if state.final:
            ended = seen.finished_at if seen is not None and seen.finished_at else at
            job.exit_code = seen.exit_code if seen is not None else None
            job.finished_at = max(ended, job.started_at or job.created_at)
            if row is not None:
                row.finished_at = job.finished_at
            at = job.finished_at
        elif state is State.RUNNING:
            at = job.started_at or at
        if state is not job.state:
            job.enter(state, at)
            jobs.note(job, _TITLES[state], "" if state is State.RUNNING else reason.text, state=state, at=at)
        _because(job, reason)

    def _keep_ranks(self, row: JobAttempt, seen: Observation) -> int:
        """How many ranks changed."""
        kept = {rank.rank: rank for rank in jobs.ranks(row)}
        for status in seen.ranks:
            rank = kept.get(status.rank)
            if rank is None:
                rank = kept[status.rank] = JobRank(attempt_id=row.id, rank=status.rank, node="")
                db.session.add(rank)
            rank.node = status.node or rank.node
            rank.started_at = status.started_at or rank.started_at
            rank.finished_at = status.finished_at or rank.finished_at
            rank.exit_code = status.exit_code if status.exit_code is not None else rank.exit_code
        return sum(each in db.session.new or db.session.is_modified(each) for each in kept.values())

    def _keep_notes(self, job: Job, seen: Observation) -> int:
        """How many notes were new."""
        if not seen.notes:
            return 0
        rows = db.session.execute(select(JobEvent.at, JobEvent.text).where(JobEvent.job_id == job.id))
        known = {(row.at, row.text) for row in rows}
        fresh = [note for note in seen.notes if (note.at, note.text) not in known]
        for note in fresh:
            jobs.note(job, note.text, note.detail, at=note.at)
        return len(fresh)

    # settle

    def settle(self, job_id: int) -> bool:
        """Clean up behind a finished job once its log is complete; whether nothing is left to do."""
        job = db.session.get_one(Job, job_id)
        row = jobs.attempt_of(job)
        key = AttemptKey(job.uid, job.attempt)
        if row is not None and row.launched_at is not None and not self._log_is_complete(job, row):
            attempt_id, nodes = row.id, job.nodes
            db.session.rollback()
            self.follow(attempt_id, nodes, key)
            return False
        log_bytes = logs.stored(row.id) if row is not None else 0
        db.session.rollback()
        if row is not None:
            fault("settle.before_remove")
            self.cluster.remove(key)
            fault("settle.after_remove")
        with self.turn.transaction():
            job = db.session.get_one(Job, job_id, with_for_update=True)
            job.settled = True
            job.log_bytes = log_bytes
            self.still.pop(job_id, None)
            row = jobs.attempt_of(job)
            if row is not None:
                row.removed_at = now()
                if row.launched_at is not None:
                    for rank in range(job.nodes):
                        logs.end(logs.stream(row.id, rank))
                    self.collector.leave(row.id, job.nodes)
        return True

    def _log_is_complete(self, job: Job, row: JobAttempt) -> bool:
        streams = logs.streams(row.id)
        if sum(stream.complete for stream in streams) >= job.nodes:
            return True
        # A log that has not moved for so long under this worker's eyes does not come: `settle` marks it as missing. The
        # job's own times say nothing: it may have ended while no worker was there.
        size = sum(stream.size for stream in streams)
        known, since = self.still.get(job.id, (-1, 0.0))
        if size != known:
            since = time.monotonic()
            self.still[job.id] = (size, since)
        return time.monotonic() > since + LOG_PATIENCE


_TITLES = {
    State.QUEUED: "Held by the cluster's queue",
    State.STARTING: "Starting",
    State.RUNNING: "Running",
    State.STOPPING: "Stopping",
    State.SUCCEEDED: "Succeeded",
    State.FAILED: "Failed",
    State.CANCELLED: "Cancelled",
    State.LOST: "Lost",
}


def _because(job: Job, reason: Reason) -> None:
    """Change the reason only where it says something new: a changed row makes every watching page load again."""
    if (job.reason_code, job.reason_text, job.reason_raw) != (reason.code, reason.text, reason.raw):
        job.reason_code, job.reason_text, job.reason_raw = reason.code, reason.text, reason.raw
