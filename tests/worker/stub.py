"""A cluster in memory that does as it is told, and a worker of one thread around it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from app.accounts import service as accounts
from app.cluster.protocol import (
    Attempt,
    AttemptKey,
    Capacity,
    Code,
    GpuPool,
    Health,
    Launched,
    LogPiece,
    LogSource,
    Observation,
    Outcome,
    Phase,
    Reason,
    Refused,
    Wait,
)
from app.clusters import service as clusters
from app.clusters.models import ClusterRow
from app.database import db, transaction
from app.jobs import service as jobs
from app.jobs.models import Job, JobAttempt, JobEvent
from app.logs import service as logs
from app.logs.models import LogStream
from app.orgs.models import Role
from app.worker.collect import Collector
from app.worker.loop import ClusterLoop
from app.worker.turn import Turn
from tests.conftest import Portal

Answer = Launched | Wait | Refused | BaseException | Callable[[], Launched | Wait | Refused]
T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

NO_GPU = Wait(Reason(Code.NO_FREE_GPU, "It needs 1 GPU; none is free."), resource="gpu")
NO_SLOT = Wait(Reason(Code.NO_FREE_SLOT, "All places are taken."), resource="slot")
TOO_BIG = Refused(Reason(Code.REFUSED, "It asks for more than there is.", "raw refusal"))


def starting() -> Observation:
    return Observation(Phase.STARTING, Reason(Code.STARTING, "Its processes are being started."))


def held() -> Observation:
    return Observation(Phase.HELD, Reason(Code.QUOTA, "The queue holds it.", "raw"))


def running(at: datetime = T0) -> Observation:
    return Observation(Phase.RUNNING, Reason(Code.RUNNING, "It runs."), started_at=at)


def ended(outcome: Outcome, code: int | None = None, at: datetime = T0, text: str = "It ended.") -> Observation:
    codes = {
        Outcome.SUCCEEDED: Code.SUCCEEDED,
        Outcome.FAILED: Code.EXIT_CODE,
        Outcome.STOPPED: Code.STOPPED,
        Outcome.LOST: Code.SUPERVISOR_DIED,
    }
    return Observation(
        Phase.ENDED,
        Reason(codes[outcome], text, "raw"),
        outcome,
        started_at=at,
        finished_at=at + timedelta(seconds=5),
        exit_code=code,
    )


class StubLog:
    """Reads what a test wrote. The cursor is the offset, as on this machine."""

    def __init__(self, cluster: StubCluster, key: AttemptKey, rank: int, cursor: str) -> None:
        self._cluster, self._key, self._rank = cluster, key, rank
        self._at = int(cursor or 0)
        self.closed = False

    def read(self, limit: int) -> LogPiece | None:
        assert not self.closed
        problem = self._cluster.log_problems.get((self._key.job, self._rank))
        if problem is not None:
            raise problem
        printed = bytes(self._cluster.printed[self._key.job, self._rank])
        data = printed[self._at : self._at + limit]
        self._at += len(data)
        skipped = self._cluster.skips.pop((self._key.job, self._rank), 0)
        complete = (self._key.job, self._rank) in self._cluster.log_ends and self._at == len(printed)
        if not data and not skipped and not complete:
            return None
        return LogPiece(data, str(self._at), skipped, "Some were not kept." if skipped else "", complete)

    def close(self) -> None:
        self.closed = True


class StubCluster:
    """Implements `app.cluster.protocol.Cluster`. Knows jobs by their uid; `calls` holds what it was asked, in order."""

    def __init__(self) -> None:
        self.enforces_max_runtime = True
        self.calls: list[tuple[str, str]] = []
        self.attempts: list[Attempt] = []  # as they were asked for
        self.answers: dict[str, list[Answer]] = defaultdict(list)  # to launch, one after the other; then Launched
        self.seen: dict[str, Observation | BaseException] = {}
        self.problems: dict[tuple[str, str], BaseException] = {}  # (method, job)
        self.objects: set[AttemptKey] = set()
        self.printed: dict[tuple[str, int], bytearray] = defaultdict(bytearray)
        self.log_ends: set[tuple[str, int]] = set()
        self.log_problems: dict[tuple[str, int], Exception] = {}
        self.skips: dict[tuple[str, int], int] = {}
        self.opened: list[tuple[str, int, str]] = []
        self.capacity_now = Capacity((GpuPool("H100", 8, 0, 8, 8),), cpu_slots=2, cpu_slots_free=2)
        self.listing_problem: Exception | None = None
        self.sources: list[StubLog] = []

    # what tests tell it

    def show(self, job: Job, seen: Observation | BaseException | None) -> None:
        if seen is None:
            self.seen.pop(job.uid, None)
        else:
            self.seen[job.uid] = seen

    def print(self, job: Job, data: bytes, rank: int = 0, end: bool = False) -> None:
        self.printed[job.uid, rank] += data
        if end:
            self.log_ends.add((job.uid, rank))

    def asked(self, method: str, job: Job | None = None) -> int:
        return sum(call[0] == method and (job is None or call[1] == job.uid) for call in self.calls)

    # what the worker asks

    def start(self, changed: Callable[[], None]) -> None:
        self.calls.append(("start", ""))

    def close(self) -> None:
        self.calls.append(("close", ""))

    def health(self) -> Health:
        return Health(T0)

    def capacity(self) -> Capacity:
        return self.capacity_now

    def launch(self, attempt: Attempt) -> Launched | Wait | Refused:
        job = attempt.key.job
        self._called("launch", attempt.key)
        self.attempts.append(attempt)
        answer: Answer = self.answers[job].pop(0) if self.answers[job] else Launched(f"handle of {attempt.key}")
        if isinstance(answer, BaseException):
            raise answer
        given = answer if isinstance(answer, Launched | Wait | Refused) else answer()
        if isinstance(given, Launched):
            self.objects.add(attempt.key)
            self.seen.setdefault(job, starting())
        return given

    def observe(self, key: AttemptKey) -> Observation | None:
        self._called("observe", key)
        seen = self.seen.get(key.job)
        if isinstance(seen, BaseException):
            raise seen
        return seen

    def stop(self, key: AttemptKey) -> None:
        self._called("stop", key)

    def remove(self, key: AttemptKey) -> None:
        self._called("remove", key)
        self.objects.discard(key)
        self.seen.pop(key.job, None)

    def owned(self) -> frozenset[AttemptKey]:
        if self.listing_problem is not None:
            raise self.listing_problem
        return frozenset(self.objects)

    def open_log(self, key: AttemptKey, rank: int, cursor: str) -> LogSource:
        self.opened.append((key.job, rank, cursor))
        self.sources.append(StubLog(self, key, rank, cursor))
        return self.sources[-1]

    def _called(self, method: str, key: AttemptKey) -> None:
        self.calls.append((method, key.job))
        if problem := self.problems.get((method, key.job)):
            raise problem


@dataclass
class Worker:
    """A worker without threads: the test says when it looks and when it collects."""

    portal: Portal
    cluster: StubCluster
    turn: Turn
    loop: ClusterLoop
    collector: Collector
    failed: list[BaseException] = field(default_factory=list)

    def look(self, times: int = 1) -> bool:
        busy = False
        for _ in range(times):
            with self.portal.app.app_context():
                busy = self.loop.look()
        return busy

    def collect(self, times: int = 1) -> None:
        for _ in range(times):
            with self.portal.app.app_context():
                self.collector.round()

    def launch(self, name: str, **fields: Any) -> Job:
        """A job that the cluster has, starting."""
        job = self.portal.launch(name, **fields)
        self.look()
        assert self.portal.job(name).state == "starting"
        return job

    def run(self, name: str, **fields: Any) -> Job:
        """A job that runs."""
        job = self.launch(name, **fields)
        self.cluster.show(job, running())
        self.look()
        assert self.portal.job(name).state == "running"
        return job

    def stop(self, name: str, person: str = "bob") -> None:
        with self.portal.app.app_context():
            user = accounts.by_email(f"{person}@example.org")
            assert user is not None
            jobs.stop(db.session.scalars(select(Job).where(Job.name == name)).one(), user, Role.MEMBER)

    def settle(self, job: Job) -> None:
        """End the job's log and do what is left to do."""
        for rank in range(job.nodes):
            self.cluster.print(job, b"", rank, end=True)
        self.look()
        self.collect()
        self.look()

    def attempts(self, job: Job) -> list[JobAttempt]:
        def find() -> list[JobAttempt]:
            rows = list(db.session.scalars(select(JobAttempt).where(JobAttempt.job_id == job.id)))
            db.session.expunge_all()
            return rows

        return list(self.portal.read(find))

    def timeline(self, job: Job) -> list[str]:
        return list(
            self.portal.read(
                lambda: list(
                    db.session.scalars(select(JobEvent.text).where(JobEvent.job_id == job.id).order_by(JobEvent.id))
                )
            )
        )

    def log(self, job: Job, rank: int = 0) -> bytes:
        """The bytes of the current attempt in the archive; fails where chunks overlap or leave a hole unmarked."""

        def read() -> bytes:
            attempt = db.session.scalars(select(JobAttempt).where(JobAttempt.job_id == job.id)).one()
            parts, at = [], 0
            gaps = {gap.first_byte: gap.size or 0 for gap in logs.gaps(attempt.id, rank, 0, 1 << 60)}
            for piece in logs.pieces(attempt.id, rank):
                at += gaps.get(at, 0)
                assert piece.first_byte == at, "bytes are missing, or there twice"
                at = piece.end
                parts.append(piece.data)
            return b"".join(parts)

        return bytes(self.portal.read(read))

    def stream(self, job: Job, rank: int = 0) -> LogStream | None:
        def read() -> LogStream | None:
            attempt = db.session.scalars(select(JobAttempt).where(JobAttempt.job_id == job.id)).one()
            found = logs.find_stream(attempt.id, rank)
            if found is not None:
                db.session.expunge(found)
            return found

        found: LogStream | None = self.portal.read(read)
        return found

    def pauses(self) -> list[float]:
        """Seconds for which each failed step still rests."""
        return [not_before - time.monotonic() for _, not_before in self.loop._pauses.values()]

    def rest(self, seconds: float) -> None:
        """As if so much time had passed since steps and logs failed."""
        for key, (failures, not_before) in list(self.loop._pauses.items()):
            self.loop._pauses[key] = (failures, not_before - seconds)
        for following in self.collector._streams.values():
            following.not_before -= seconds


def make_worker(portal: Portal, cluster: Any = None, instance: str = "test-instance", **settings: Any) -> Worker:
    """A fresh worker, which takes over from whatever worker there was."""
    cluster = cluster or StubCluster()
    failed: list[BaseException] = []
    with portal.app.app_context():
        turn = Turn()
        row = db.session.scalars(select(ClusterRow)).one()
        with transaction():
            clusters.record(row.id, None, "", cluster.capacity())
        row = db.session.scalars(select(ClusterRow)).one()
        collector = Collector(portal.app, turn, portal.config.log_limit, failed.append)
        loop = ClusterLoop(portal.app, turn, row.id, row.name, cluster, instance, collector, failed.append, **settings)
    return Worker(portal, cluster, turn, loop, collector, failed)
