"""What a poll compares: the few facts of a job that tell whether its page has anything new.

Everybody who watches a job asks this once a second, so it is one statement, built once, and no object is loaded for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, String, bindparam, func, select

from app.clusters import service as clusters
from app.clusters.service import ClusterRow
from app.database import BigId, db, now
from app.jobs.models import Job, JobAttempt
from app.jobs.states import State
from app.logs.service import LogStream
from app.presets.service import NAME

QUICK, SLOW = 1, 5  # seconds between polls while something moves, and when nothing does
STILL = timedelta(seconds=45)  # without a new byte or state for so long, nothing moves

_number: BindParameter[int | None] = bindparam("number", type_=BigId)
_PULSE = (
    select(
        Job.version,
        Job.state,
        Job.settled,
        Job.nodes,
        Job.created_at,
        Job.started_at,
        Job.stop_asked_at,
        Job.finished_at,
        ClusterRow.kind,
        ClusterRow.answered_at,
        LogStream.attempt_id,
        LogStream.size,
        LogStream.complete,
        LogStream.last_at,
    )
    .join(ClusterRow, ClusterRow.id == Job.cluster_id)
    .outerjoin(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.number == func.coalesce(_number, Job.attempt)))
    .outerjoin(LogStream, (LogStream.attempt_id == JobAttempt.id) & (LogStream.rank == bindparam("rank", type_=BigId)))
    .where(Job.org_id == bindparam("org_id", type_=BigId), Job.name == bindparam("name", type_=String))
)


@dataclass(frozen=True, slots=True)
class Pulse:
    changes: int  # how often the job changed
    silent: bool  # its cluster has not answered for long
    state: State
    settled: bool
    nodes: int
    moved_at: datetime  # when anything happened last: a state, a wish, a byte
    attempt_id: int | None  # of the log; None: there is none
    size: int  # bytes of the log
    complete: bool  # the log

    @property
    def version(self) -> str:
        """Changes with everything that the page shows of the job beside its log."""
        return f"{self.changes}{'s' if self.silent else ''}"

    @property
    def finished(self) -> bool:
        """Nothing on the page will change any more."""
        # without a log, the first of it may be on its way
        return self.state.final and (self.settled or self.complete)

    @property
    def poll_every(self) -> int:
        return pace(self.moved_at)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page that polls has already."""

    version: str
    size: int  # bytes of the log
    complete: bool  # the log
    every: str  # seconds between its polls
    still: bool  # it shows one place of the log, and stays there

    def lacks_lines(self, now: Pulse) -> bool:
        return not self.still and now.attempt_id is not None and (now.size > self.size or now.complete > self.complete)

    def lacks_news(self, now: Pulse) -> bool:
        """News beside the log: they are told with the head of the page, which differs by role."""
        return self.version != now.version or now.finished or now.attempt_id is None

    def is_up_to_date(self, now: Pulse) -> bool:
        return self.every == str(now.poll_every) and not (
            self.lacks_lines(now) or self.version != now.version or now.finished
        )


def pace(moved_at: datetime) -> int:
    """Seconds until asking again is worth it."""
    return QUICK if moved_at > now() - STILL else SLOW


def read(org_id: int, name: str, rank: int, number: int | None) -> Pulse | None:
    """Of the log of one rank in an attempt, the current one if no number is given. None: no such job in the org."""
    if not NAME.fullmatch(name):  # a database may refuse to be asked for other characters at all
        return None
    asked = {"org_id": org_id, "name": name, "rank": rank, "number": number or None}
    row = db.session.execute(_PULSE, asked).one_or_none()
    return pulse(row, row, row) if row is not None else None


def pulse(job: Any, stream: Any, cluster: Any) -> Pulse:
    """From a Job, its LogStream if there is one, and its ClusterRow, or from whatever has the same names."""
    logged = stream is not None and stream.attempt_id is not None
    moments = (job.created_at, job.started_at, job.stop_asked_at, job.finished_at, stream.last_at if logged else None)
    return Pulse(
        changes=job.version,
        silent=not job.state.final and clusters.silent_since(cluster) is not None,
        state=job.state,
        settled=job.settled,
        nodes=job.nodes,
        moved_at=max(moment for moment in moments if moment is not None),
        attempt_id=stream.attempt_id if logged else None,
        size=stream.size if logged else 0,
        complete=logged and stream.complete,
    )
