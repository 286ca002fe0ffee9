"""How long retention holds the database at a time, while it lets go of what is old."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select

from app import create_app
from app.config import Config
from app.database import db, now, transaction
from app.jobs.models import Job, JobAttempt, JobEvent
from app.logs import service as logs
from app.retention import service
from tests.bench.rows import Row, both, milliseconds, quantile

REACH = 0.05  # seconds of one transaction, p95
JOBS = 400
LONG, SHORT = 64 << 20, 20_000  # bytes of the first one's log, and of each other's; they do not compress
DAYS = 2_000  # so old are they; nothing else is
STEP = 4 << 20  # bytes


def retention(config: Config) -> list[Row]:
    app = create_app(config)
    with app.app_context():
        _age()
        old = DAYS - 1
        rows = [
            _measured(f"the logs of {JOBS} jobs, one of {LONG >> 20} MiB", replace(config, retain_logs_days=old)),
            _measured(f"these {JOBS} jobs", replace(config, retain_jobs_days=old)),
        ]
        db.session.remove()
        db.engine.dispose()
    return rows


def _age() -> None:
    """Make some of the finished jobs old, and give them logs."""
    ids = db.session.scalars(select(Job.id).where(Job.settled).order_by(Job.id).limit(JOBS)).all()
    for number, job_id in enumerate(ids):
        size = SHORT if number else LONG
        with transaction():
            job = db.session.get_one(Job, job_id)
            job.finished_at = now() - timedelta(days=DAYS)
            attempt = JobAttempt(job_id=job.id, number=job.attempt, finished_at=job.finished_at)
            db.session.add_all([attempt, JobEvent(job_id=job.id, at=job.finished_at, text="It ended.")])
            db.session.flush()
            for begin in range(0, size, STEP):
                end = min(begin + STEP, size)
                logs.append(
                    logs.stream(attempt.id, 0), os.urandom(end - begin), "", 0, "", complete=end == size, limit=1 << 40
                )
            job.log_bytes = logs.stored(attempt.id)


def _measured(what: str, config: Config) -> Row:
    """As the worker does it, with its rests: how long one is says how long the transaction before it was."""
    took: list[float] = []

    def rest(seconds: float) -> bool:
        took.append(seconds / service.REST)
        time.sleep(seconds)
        return False

    gone = service.run(config, rest)
    assert JOBS in (gone.jobs, gone.logs), gone
    return Row(
        f"retention lets go of {what}: a transaction, p50 / p95",
        f"{both(took)}; {len(took)} of them, the longest {milliseconds(max(took))}",
        reach="p95 ≤ 50 ms",
        reached=quantile(took, 0.95) <= REACH,
    )
