from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, BigId, Moment, now, word
from app.jobs.states import NEXT, State


class Wish(StrEnum):
    """What people, or the job's time limit, want of it. The worker makes it true."""

    RUN = "run"
    STOP = "stop"


class IllegalTransition(Exception):
    """A bug: somebody tried to move a job in a way that the table of states does not have."""


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[str] = mapped_column(String(8), unique=True)  # names its objects on a cluster
    org_id: Mapped[int] = mapped_column(ForeignKey("orgs.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(63))
    preset_version_id: Mapped[int] = mapped_column(ForeignKey("preset_versions.id"))
    cluster_id: Mapped[int] = mapped_column(ForeignKey("clusters.id"))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # a JobSpec, as JSON
    gpus: Mapped[int]  # per node; these two are in the spec too, here for lists
    nodes: Mapped[int]

    state: Mapped[State] = mapped_column(word(State), default=State.QUEUED)
    reason_code: Mapped[str] = mapped_column(String(32))
    reason_text: Mapped[str] = mapped_column(Text)
    reason_raw: Mapped[str] = mapped_column(Text, default="")
    wish: Mapped[Wish] = mapped_column(word(Wish), default=Wish.RUN)
    stop_asked_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))  # None with a wish to stop: time limit
    stop_asked_at: Mapped[datetime | None] = mapped_column(Moment)
    settled: Mapped[bool] = mapped_column(default=False)  # final, log complete, nothing left on the cluster
    # bytes that its archived log takes up, compressed; known once it is settled
    log_bytes: Mapped[int] = mapped_column(BigId, default=0, server_default=text("0"))
    log_gone: Mapped[bool] = mapped_column(default=False, server_default=false())  # retention removed its log

    attempt: Mapped[int] = mapped_column(default=0)  # number of the current attempt; 0: none yet
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    exit_code: Mapped[int | None]

    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    version: Mapped[int] = mapped_column(default=1)  # grows with each change: what a poll compares

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's own idiom
    __table_args__ = (
        UniqueConstraint("org_id", "name"),
        UniqueConstraint("org_id", "user_id", "idempotency_key"),
        # lists: newest first, whole or narrowed; the name is in the index so that a search reads nothing else
        Index("ix_jobs_org_id_id", "org_id", "id", "name"),
        Index("ix_jobs_org_id_state_id", "org_id", "state", "id", "name"),
        Index("ix_jobs_org_id_user_id_id", "org_id", "user_id", "id", "name"),
        Index("ix_jobs_org_id_user_id_state_id", "org_id", "user_id", "state", "id", "name"),
        # the worker's to-do list
        Index(
            "ix_jobs_unsettled",
            "cluster_id",
            "id",
            sqlite_where=text("settled IS 0"),
            postgresql_where=text("settled IS false"),
        ),
        # retention: the oldest that still have a log, or have none any more; the size is in it so that a sum reads
        # nothing else
        Index(
            "ix_jobs_retention",
            "log_gone",
            "finished_at",
            "id",
            "log_bytes",
            sqlite_where=text("settled IS 1"),
            postgresql_where=text("settled IS true"),
        ),
    )

    def enter(self, state: State, at: datetime) -> None:
        """Move on to a state. Raises IllegalTransition; a final state never changes."""
        if state == self.state:
            return
        if state not in NEXT[self.state]:
            raise IllegalTransition(f"{self.state} to {state}")
        self.state = state
        if state.final:
            self.finished_at = self.finished_at or at

    @property
    def can_stop(self) -> bool:
        return not self.state.final and self.wish == Wish.RUN


class JobAttempt(Base):
    """One try of a job on its cluster. The row is there before anything exists on the cluster."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    handle: Mapped[str | None] = mapped_column(String(253))  # set once the cluster said that the objects exist
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    launched_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    removed_at: Mapped[datetime | None] = mapped_column(Moment)  # when nothing of it was left on the cluster

    __table_args__ = (UniqueConstraint("job_id", "number"),)


class JobRank(Base):
    """One process of an attempt, as the cluster showed it. Its output is a LogStream."""

    __tablename__ = "ranks"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node: Mapped[str] = mapped_column(String(253), default="")
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    exit_code: Mapped[int | None]


class JobEvent(Base):
    """One line of a job's timeline."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(Moment)
    text: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text, default="")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))  # who did it; None: the portal or the cluster
    state: Mapped[State | None] = mapped_column(word(State))  # the state that it brought; None: no change

    __table_args__ = (Index("ix_job_events_job_id", "job_id", "id"),)
