"""An attempt to print for, without a worker: rows are undone after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.database import db
from app.jobs.models import JobAttempt
from app.logs import service
from app.logs.models import LogStream
from tests.conftest import Portal

LIMIT = 1 << 30


class Printer:
    """What the worker does with the pieces of a cluster, in a transaction that is never committed."""

    def __init__(self, attempt_id: int) -> None:
        self.attempt_id = attempt_id
        self.rank = 0

    def fresh(self) -> LogStream:
        """A stream that nothing was printed to yet."""
        self.rank += 1
        return service.stream(self.attempt_id, self.rank)

    def print(
        self,
        stream: LogStream,
        data: bytes,
        skipped: int | None = 0,
        limit: int = LIMIT,
        complete: bool = False,
    ) -> LogStream:
        service.append(stream, data, "cursor", skipped, "The disk was full.", complete, limit)
        return stream

    def printed(self, *parts: bytes) -> LogStream:
        stream = self.fresh()
        for part in parts:
            self.print(stream, part)
        return stream


@pytest.fixture
def printer(portal: Portal) -> Iterator[Printer]:
    job = portal.launch("printer")
    with portal.app.app_context():
        attempt = JobAttempt(job_id=job.id, number=1)
        db.session.add(attempt)
        db.session.flush()
        yield Printer(attempt.id)
        db.session.rollback()
