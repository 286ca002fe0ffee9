from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from app.database import db, now, transaction
from app.jobs.models import Job, JobAttempt, JobEvent, JobRank, Wish
from app.jobs.states import State
from app.logs import service as logs
from tests.conftest import Portal

Make = Callable[..., None]


@pytest.fixture
def past(portal: Portal) -> Make:
    """A job with a history: past("old", days=40, printed=b"…")."""

    def make(
        name: str,
        days: float = 0,
        printed: bytes = b"",
        state: State = State.SUCCEEDED,
        settled: bool | None = None,
        nodes: int = 1,
    ) -> None:
        portal.launch(name)
        at = now() - timedelta(days=days)
        with portal.app.app_context(), transaction():
            job = db.session.query(Job).filter_by(name=name).one()
            history(job, at, state, state.final if settled is None else settled, printed, nodes)

    return make


def history(job: Job, at: datetime, state: State, settled: bool, printed: bytes, nodes: int = 1) -> None:
    """Give a job that was launched the rows of one that has got so far. Call inside a transaction."""
    job.state, job.wish, job.settled, job.attempt, job.nodes = state, Wish.RUN, settled, 1, nodes
    job.started_at = at - timedelta(minutes=1)
    job.finished_at = at if state.final else None
    attempt = JobAttempt(job_id=job.id, number=1, launched_at=at, finished_at=job.finished_at)
    db.session.add_all([attempt, JobEvent(job_id=job.id, at=at, text="Something happened")])
    db.session.flush()
    for rank in range(nodes):
        db.session.add(JobRank(attempt_id=attempt.id, rank=rank))
        stream = logs.stream(attempt.id, rank)
        logs.append(stream, printed, "c", 0, "", state.final, 1 << 30)
    if settled:
        job.log_bytes = logs.stored(attempt.id)


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)
