"""Launching, finding and stopping jobs. Pages, API and commands call this; it knows no forms and no HTML."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, literal, select, union_all
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import defer

from app import durations, journal, wake
from app.accounts.service import User
from app.audit import service as audit
from app.audit.service import Action
from app.cluster.protocol import Attempt, AttemptKey, Code, JobSpec
from app.clusters import service as clusters
from app.database import BigId, db, now, transaction
from app.jobs import spec as specs
from app.jobs.models import Job, JobAttempt, JobEvent, JobRank, Wish
from app.jobs.request import LaunchRefused, LaunchRequest, resolve
from app.jobs.states import ACTIVE, State
from app.logs import service as logs
from app.logs.service import LogStream
from app.orgs.models import Org, Role
from app.presets import service as presets
from app.presets.service import NAME, PresetView

__all__ = ["Job", "JobEvent", "JobRank", "LaunchRefused", "LaunchRequest", "State"]

PAGE = 50  # jobs on one page
COUNT_CAP = 1000  # tabs count so far and then say "1,000+"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_UID = "abcdefghijklmnopqrstuvwxyz234567"


class JobNotFound(Exception):
    """There is no such job in this org: the same for what never existed and for what another org has."""


class MayNotStop(Exception):
    """A member stops own jobs only; an owner stops any."""


class KeyReused(Exception):
    """The idempotency key belongs to a request that asked for something else."""


# launching


@dataclass(frozen=True, slots=True)
class Launch:
    job: Job
    replayed: bool  # the same request was acknowledged before; nothing new was made


def launch(
    org: Org, user: User, asked: LaunchRequest, key: str | None = None, exactly: PresetView | None = None
) -> Launch:
    """Commit the wish to run a job and wake the worker. Once this returns, no crash can lose it.

    `exactly` is an older version of the preset to use; the newest if left out. Raises LaunchRefused, with nothing kept
    and the key not used up, or KeyReused.
    """
    org_id, user_id = org.id, user.id
    for _ in range(5):
        try:
            with transaction():
                return _launch(org_id, user_id, asked, key, exactly)
        except IntegrityError:
            continue  # another request took the name or the key since we looked: look again
    raise LaunchRefused({"name": "Others take the same names right now. Write one of your own."})


def _launch(org_id: int, user_id: int, asked: LaunchRequest, key: str | None, exactly: PresetView | None) -> Launch:
    if key is not None:
        earlier = db.session.scalar(
            select(Job).where(Job.org_id == org_id, Job.user_id == user_id, Job.idempotency_key == key)
        )
        if earlier is not None:
            if earlier.request_hash != asked.digest():
                raise KeyReused
            return Launch(earlier, replayed=True)
    if not asked.name:
        # PostgreSQL lets many write at once: they would all find the same free name, and all but one begin anew
        db.session.execute(select(Org.id).where(Org.id == org_id).with_for_update(key_share=True))
    preset = next((each for each in presets.of_org(org_id) if each.name == asked.preset), None)
    usable = clusters.of_org(org_id)
    errors: dict[str, str] = {}
    if asked.name and NAME.fullmatch(asked.name) and is_taken(org_id, asked.name):
        free = free_name(org_id, asked.name)
        errors["name"] = f"The name {asked.name} is taken in this org. {free} is free."
    try:
        spec, cluster = resolve(asked, preset, usable)  # today's limits hold, also for an older version
        if exactly is not None:
            preset = exactly
            spec, cluster = resolve(asked, preset, usable)
    except LaunchRefused as refused:
        raise LaunchRefused({**refused.errors, **errors}) from None
    if errors or preset is None:
        raise LaunchRefused(errors)
    job = Job(
        uid=secrets.choice(_LETTERS) + "".join(secrets.choice(_UID) for _ in range(7)),
        org_id=org_id,
        user_id=user_id,
        name=asked.name or free_name(org_id, preset.name),
        preset_version_id=preset.version_id,
        cluster_id=cluster.id,
        spec=specs.to_json(spec),
        gpus=spec.gpus,
        nodes=spec.nodes,
        reason_code=Code.SUBMITTED,
        reason_text="It was just launched.",
        idempotency_key=key,
        request_hash=asked.digest() if key is not None else None,
    )
    db.session.add(job)
    db.session.flush()
    note(job, "Launched", f"for {cluster.name}", user_id=user_id, state=State.QUEUED)
    audit.record(Action.JOB_LAUNCHED, job.name, f"uid {job.uid}, on {cluster.name}", user_id=user_id, org_id=org_id)
    journal.note(job=job.name, uid=job.uid)
    wake.after_commit()
    return Launch(job, replayed=False)


def is_taken(org_id: int, name: str) -> bool:
    return db.session.scalar(select(Job.id).where(Job.org_id == org_id, Job.name == name)) is not None


def free_name(org_id: int, like: str) -> str:
    """A name that nobody in the org uses: `like` itself, or it with a number behind."""
    if not is_taken(org_id, like):
        return like
    stem, _, tail = like.rpartition("-")
    if not stem or not tail.isdigit():
        stem = like
    stem = stem[:52].rstrip("-")
    # the newest job of that stem tells where to go on; names with gaps below it are not worth a search
    newest = db.session.scalars(
        select(Job.name)
        .where(Job.org_id == org_id, Job.name >= f"{stem}-0", Job.name < f"{stem}-a")  # also where : sorts before 0
        .order_by(Job.id.desc())
        .limit(20)
    )
    tails = [name.removeprefix(f"{stem}-") for name in newest]
    numbers = [int(tail) for tail in tails if tail.isdigit() and len(tail) < 10]
    number = max(numbers, default=1) + 1
    while is_taken(org_id, f"{stem}-{number}"):
        number += 1
    return f"{stem}-{number}"


def again(org: Org, user: User, job: Job, key: str | None = None) -> Launch:
    """Run the very same once more, with the preset's version of then, under a new name. Raises LaunchRefused."""
    return launch(org, user, replace(request_of(job), name=None), key, preset_of(job))


def request_of(job: Job) -> LaunchRequest:
    """What to ask for to get this job once more."""
    spec = specs.from_json(job.spec)
    preset = presets.version(job.preset_version_id)
    return LaunchRequest(
        preset=preset.name,
        command=spec.command,
        gpus=spec.gpus,
        nodes=spec.nodes,
        name=job.name,
        env={name: value for name, value in spec.env.items() if preset.content.env.get(name) != value},
        cluster=clusters.by_id(job.cluster_id).name,
        max_runtime=durations.written(spec.max_runtime),
        gpu_type=spec.gpu_types[0] if list(spec.gpu_types) != preset.content.gpu_types and spec.gpu_types else None,
    )


# finding


def readable_job(org: Org, name: str) -> Job:
    """Every member reads every job of the org. Raises JobNotFound."""
    job = None
    if NAME.fullmatch(name):  # a database may refuse to be asked for other characters at all
        job = db.session.scalar(select(Job).where(Job.org_id == org.id, Job.name == name))
    if job is None:
        raise JobNotFound(name)
    return job


def may_stop(job: Job, user: User, role: Role) -> bool:
    return role is Role.OWNER or (role is Role.MEMBER and job.user_id == user.id)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of an org to list."""

    state: str = ""  # a State, "active", or empty for all
    user_id: int | None = None
    q: str = ""  # part of the name

    def narrow(self, query: Select[Any]) -> Select[Any]:
        if self.state and self.state != "active":
            query = query.where(Job.state == State(self.state))
        if self.user_id is not None:
            query = query.where(Job.user_id == self.user_id)
        if self.q:
            query = query.where(Job.name.contains(self.q.lower(), autoescape=True))
        return query


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: list[Job]
    older: int | None  # id of the last job, where there are older ones
    newer: int | None  # id of the first job, where there are newer ones


def page_of_jobs(
    org_id: int, only: Filter, before: int | None = None, after: int | None = None, limit: int = PAGE
) -> JobPage:
    """Newest first. `before` and `after` are ids of jobs: the page below, or right above, that one."""
    if after is not None:
        rows = _jobs(only.narrow(select(Job).where(Job.org_id == org_id, Job.id > after)), only, Job.id, limit + 1)
        more_above = len(rows) > limit
        rows = rows[:limit][::-1]
        return JobPage(rows, rows[-1].id if rows else None, rows[0].id if rows and more_above else None)
    query = only.narrow(select(Job).where(Job.org_id == org_id))
    if before is not None:
        query = query.where(Job.id < before)
    rows = _jobs(query, only, Job.id.desc(), limit + 1)
    more_below = len(rows) > limit
    rows = rows[:limit]
    return JobPage(rows, rows[-1].id if more_below else None, rows[0].id if rows and before is not None else None)


def _jobs(query: Select[Any], only: Filter, order: Any, limit: int) -> list[Job]:
    """The first jobs of a query. A list shows neither command nor variables, which can be long: they stay unread."""
    if only.state == "active":
        # one state is one range of an index, in order; several are not, and would be read whole and sorted
        each = (query.with_only_columns(Job.id).where(Job.state == state) for state in ACTIVE)
        ids = union_all(*(select(one.order_by(order).limit(limit).subquery().c.id) for one in each))
        query = select(Job).where(Job.id.in_(ids))
    elif only.q:
        # the index holds the name: rows are only read of what was found, which PostgreSQL does not see by itself
        found = db.session.scalars(query.with_only_columns(Job.id).order_by(order).limit(limit)).all()
        if not found:
            return []
        query = select(Job).where(Job.id.in_(found))
    return list(db.session.scalars(query.options(defer(Job.spec)).order_by(order).limit(limit)))


def has_jobs(org_id: int) -> bool:
    return db.session.scalar(select(Job.id).where(Job.org_id == org_id).limit(1)) is not None


def counts(org_id: int) -> dict[str, int]:
    """How many jobs an org has by state, final ones counted up to COUNT_CAP + 1 of each state and no further."""
    each = []
    for state in State:
        some = select(Job.id).where(Job.org_id == org_id, Job.state == state)
        if state.final:
            some = some.limit(COUNT_CAP + 1)
        each.append(select(func.count()).select_from(some.subquery()).scalar_subquery())
    row = db.session.execute(select(*each)).one()
    found: dict[str, int] = {state.value: count for state, count in zip(State, row, strict=True)}
    found["active"] = sum(found[state.value] for state in ACTIVE)
    found[""] = sum(found[state.value] for state in State)
    return found


def unfinished() -> list[tuple[str, str, int]]:
    """How many jobs have not ended, by name of the cluster and state, over all orgs: the worker's to-do list."""
    rows = db.session.execute(
        select(Job.cluster_id, Job.state, func.count())
        .where(Job.settled.is_(False), Job.state.in_(ACTIVE))
        .group_by(Job.cluster_id, Job.state)
    ).all()
    names = clusters.names({cluster_id for cluster_id, _, _ in rows})
    return [(names[cluster_id], state.value, count) for cluster_id, state, count in rows]


def timeline(job: Job) -> list[JobEvent]:
    """Oldest first."""
    return list(db.session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.id)))


def _any_number(number: int) -> ColumnElement[int]:
    """One that somebody typed may be too large for the column, and PostgreSQL then refuses to compare them."""
    return literal(number, BigId)


def attempt_of(job: Job, number: int | None = None) -> JobAttempt | None:
    """One of its attempts; the current one if no number is given."""
    return db.session.scalar(
        select(JobAttempt).where(JobAttempt.job_id == job.id, JobAttempt.number == _any_number(number or job.attempt))
    )


def attempt_and_stream(job: Job, number: int | None, rank: int) -> tuple[JobAttempt | None, LogStream | None]:
    """The same with the log of one of its ranks, in one step: a page that is watched asks every second."""
    found = db.session.execute(
        select(JobAttempt, LogStream)
        .outerjoin(LogStream, (LogStream.attempt_id == JobAttempt.id) & (LogStream.rank == rank))
        .where(JobAttempt.job_id == job.id, JobAttempt.number == _any_number(number or job.attempt))
    ).one_or_none()
    return (found[0], found[1]) if found is not None else (None, None)


def ranks(attempt: JobAttempt | None) -> list[JobRank]:
    if attempt is None:
        return []
    return list(db.session.scalars(select(JobRank).where(JobRank.attempt_id == attempt.id).order_by(JobRank.rank)))


def people(user_ids: set[int]) -> dict[int, str]:
    """Names of people by id."""
    rows = db.session.execute(select(User.id, User.name).where(User.id.in_(user_ids)))
    return {row.id: row.name for row in rows}


def addresses(user_ids: set[int]) -> dict[int, str]:
    """E-mail addresses of people by id: names need not be unique, these are."""
    rows = db.session.execute(select(User.id, User.email).where(User.id.in_(user_ids)))
    return {row.id: row.email for row in rows}


def spec_of(job: Job) -> JobSpec:
    return specs.from_json(job.spec)


def preset_of(job: Job) -> PresetView:
    return presets.version(job.preset_version_id)


def near(org_id: int, name: str) -> list[Job]:
    """Jobs whose names begin like a name that was not found: for whoever mistyped it."""
    stem = name.lower()[:6].rstrip("-")
    if len(stem) < 2 or not NAME.fullmatch(stem):
        return []
    last = stem + "z" * 63  # a database may sort by a language's rules, but letters behind digits and z last
    return list(
        db.session.scalars(
            select(Job).where(Job.org_id == org_id, Job.name >= stem, Job.name < last).order_by(Job.name).limit(5)
        )
    )


def attempt_value(job: Job, instance: str) -> Attempt:
    """The job's current attempt, or its first, as the border to the clusters knows it."""
    return Attempt(
        key=AttemptKey(job.uid, max(1, job.attempt)),
        job_name=job.name,
        instance=instance,
        org=str(job.org_id),
        user=str(job.user_id),
        spec=specs.from_json(job.spec),
    )


# stopping


def stop(job: Job, user: User, role: Role) -> None:
    """Commit the wish to stop a job and wake the worker. Repeating it is harmless; a final state stays.

    Raises MayNotStop.
    """
    job_id, user_id = job.id, user.id
    if not may_stop(job, user, role):
        raise MayNotStop
    with transaction():
        fresh = db.session.get_one(Job, job_id, with_for_update=True)
        if fresh.can_stop:
            audit.record(Action.JOB_STOPPED, fresh.name, f"uid {fresh.uid}", user_id=user_id, org_id=fresh.org_id)
            at = now()
            fresh.wish = Wish.STOP
            fresh.stop_asked_by = user_id
            fresh.stop_asked_at = at
            if fresh.attempt == 0:
                # the worker has not begun with it, and after this commit it will not
                finish(fresh, State.CANCELLED, Code.STOPPED, "It was stopped before it began.", at=at)
                fresh.settled = True
                note(fresh, "Cancelled", "before it began", user_id=user_id, state=State.CANCELLED)
            else:
                fresh.reason_code = Code.STOPPING
                fresh.reason_text = "It was asked to stop."
                fresh.reason_raw = ""
                held = fresh.state is State.QUEUED
                if not held:
                    fresh.enter(State.STOPPING, at)
                note(fresh, "Asked to stop", user_id=user_id, state=None if held else State.STOPPING)
        wake.after_commit()


def finish(job: Job, state: State, code: Code, text: str, raw: str = "", at: datetime | None = None) -> None:
    """Enter a state with its reason. Call inside a transaction."""
    job.enter(state, at or now())
    job.reason_code, job.reason_text, job.reason_raw = code, text, raw


def note(
    job: Job,
    text: str,
    detail: str = "",
    user_id: int | None = None,
    state: State | None = None,
    at: datetime | None = None,
) -> None:
    """Add a line to the timeline. Call inside a transaction."""
    db.session.add(JobEvent(job_id=job.id, at=at or now(), text=text, detail=detail, user_id=user_id, state=state))


# letting go: what retention asks for. Never a job that is active, or that the worker has not settled yet.


@dataclass(frozen=True, slots=True)
class Old:
    """A finished job that may go, or whose log may."""

    id: int
    log_bytes: int  # that its log takes up


_SETTLED = Job.settled.is_(True)
_HAS_LOG = (_SETTLED, Job.log_gone.is_(False))


def oldest(before: datetime, most: int, with_log: bool = False) -> list[Old]:
    """The jobs that finished first, before a moment: any, or those whose log is kept."""
    query = select(Job.id, Job.log_bytes).where(_SETTLED, Job.finished_at < before).limit(most)
    if with_log:
        query = query.where(Job.log_gone.is_(False)).order_by(Job.finished_at, Job.id)
    else:
        query = query.where(Job.log_gone.in_([False, True]))  # the index begins with it; which come first is no matter
    return [Old(row.id, row.log_bytes) for row in db.session.execute(query)]


def log_bytes() -> int:
    """Bytes that the logs of finished jobs take up."""
    return int(db.session.scalar(select(func.coalesce(func.sum(Job.log_bytes), 0)).where(*_HAS_LOG)) or 0)


def finished_between(after: datetime, before: datetime) -> int:
    """How many jobs finished between two moments."""
    query = select(func.count()).where(_SETTLED, Job.log_gone.in_([False, True]))
    return db.session.scalar(query.where(Job.finished_at >= after, Job.finished_at < before)) or 0


def logs_between(after: datetime, before: datetime) -> tuple[int, int]:
    """How many logs are kept of the jobs that finished between two moments, and the bytes that they take up."""
    count, taken = db.session.execute(
        select(func.count(), func.coalesce(func.sum(Job.log_bytes), 0)).where(
            *_HAS_LOG, Job.finished_at >= after, Job.finished_at < before, Job.log_bytes > 0
        )
    ).one()
    return count, int(taken)


def logs_beyond(limit: int, after: datetime) -> tuple[int, int]:
    """How many of the logs since a moment do not fit into so many bytes if the newest stay, and their bytes."""
    newest = func.sum(Job.log_bytes).over(order_by=(Job.finished_at.desc(), Job.id.desc()))
    kept = select(Job.log_bytes, newest.label("so_far")).where(*_HAS_LOG, Job.finished_at >= after).subquery()
    count, taken = db.session.execute(
        select(func.count(), func.coalesce(func.sum(kept.c.log_bytes), 0)).where(
            kept.c.so_far > limit, kept.c.log_bytes > 0
        )
    ).one()
    return count, int(taken)


def remove_log(job_id: int, why: str, chunks: int) -> int:
    """Remove so many pieces of a finished job's log at most; how many. Fewer than asked for: its log is gone now.

    Call inside a transaction.
    """
    job = _letting_go(job_id)
    if job is None:
        return 0
    removed = 0
    for attempt_id in db.session.scalars(select(JobAttempt.id).where(JobAttempt.job_id == job_id)).all():
        removed += logs.remove(attempt_id, why, chunks - removed)
        if removed >= chunks:
            return removed
    job.log_gone, job.log_bytes = True, 0
    return removed


def remove(job_id: int) -> bool:
    """Remove a finished job with all that hangs on it; whether it was there. Call inside a transaction."""
    if _letting_go(job_id) is None:
        return False
    db.session.execute(delete(Job).where(Job.id == job_id))
    return True


def _letting_go(job_id: int) -> Job | None:
    job = db.session.get(Job, job_id, with_for_update=True, populate_existing=True)
    return job if job is not None and job.settled and job.state.final else None
