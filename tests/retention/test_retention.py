"""What is old goes, as the settings say; what is active stays, whatever they say; and what went is told."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts.models import SignInFailure, SignInLink, UserSession
from app.database import Base, db, now, transaction
from app.jobs.models import Job, JobAttempt, JobEvent, JobRank
from app.jobs.states import State
from app.logs import service as logs
from app.logs.models import LogChunk, LogGap, LogStream
from app.retention import service as retention
from tests.conftest import Portal, on_sqlite
from tests.retention.conftest import Make, history, noise

OF_A_JOB = (JobAttempt, JobRank, JobEvent, LogStream, LogChunk, LogGap)


def go_on(_seconds: float) -> bool:
    return False


def timed(held: list[float]) -> Callable[[float], bool]:
    """Goes on, and notes how long the transaction before the pause was, in seconds."""

    def pause(seconds: float) -> bool:
        held.append(seconds / retention.REST)
        return False

    return pause


def run(portal: Portal, pause: Callable[[float], bool] = go_on, **settings: Any) -> retention.Removed:
    """One run; what it says beforehand is what it does."""
    config = dataclasses.replace(portal.config, **settings)
    with portal.app.app_context():
        told = retention.would_remove(config)
        done = retention.run(config, pause)
        if pause is go_on:
            assert told == done
        return done


def names(portal: Portal) -> set[str]:
    return set(portal.read(lambda: db.session.scalars(select(Job.name)).all()))


def rows(portal: Portal, table: type[Base]) -> int:
    return int(portal.read(lambda: db.session.scalar(select(func.count()).select_from(table))))


def with_logs(portal: Portal) -> set[str]:
    query = select(Job.name).join(JobAttempt, JobAttempt.job_id == Job.id)
    return set(
        portal.read(lambda: db.session.scalars(query.join(LogChunk, LogChunk.attempt_id == JobAttempt.id)).all())
    )


def test_by_default_nothing_goes_but_what_signs_nobody_in(portal: Portal, past: Make) -> None:
    past("ancient", days=5000, printed=b"old\n")
    assert not run(portal)
    assert names(portal) == {"ancient"} == with_logs(portal)


def test_a_finished_job_that_is_too_old_goes_with_everything_of_it(portal: Portal, past: Make) -> None:
    past("old", days=31, printed=b"a\n" * 100_000, nodes=3)
    before = {table: rows(portal, table) for table in OF_A_JOB}
    past("young", days=29, printed=b"b\n")
    assert all(before.values()) or not before[LogGap]
    done = run(portal, retain_jobs_days=30)
    assert (done.jobs, done.logs) == (1, 0)
    assert names(portal) == {"young"} == with_logs(portal)
    assert rows(portal, JobAttempt) == rows(portal, JobRank) == rows(portal, LogStream) == rows(portal, LogChunk) == 1
    assert rows(portal, JobEvent) == 2
    assert rows(portal, LogGap) == 0
    assert portal.api("bob").get("/api/jobs/old").status_code == 404
    portal.launch("old")  # its name is free again


def test_a_log_that_is_too_old_goes_and_the_page_and_the_api_say_so(portal: Portal, past: Make) -> None:
    printed = b"".join(b"line %d\n" % number for number in range(50_000)) + b"an unfinished line"
    past("old", days=91, printed=printed)
    past("young", days=89, printed=b"still here\n")
    done = run(portal, retain_logs_days=90)
    assert (done.jobs, done.logs) == (0, 1) and done.log_bytes > 0
    assert names(portal) == {"old", "young"}
    assert with_logs(portal) == {"young"}
    why = f"The log was removed on {now():%Y-%m-%d} by the portal's retention of 90 days."
    browser = portal.browser("vera")
    assert browser.get("/orgs/lab/jobs/old").status_code == 200
    assert browser.text().count(why) == 1
    assert "an unfinished line" not in browser.text()
    assert "50,000 lines" in browser.text() or "50,001 lines" in browser.text()
    assert browser.get("/orgs/lab/jobs/old?find=line").status_code == 200
    assert browser.get("/orgs/lab/jobs/old?line=700").status_code == 200 and why in browser.text()
    answer = portal.api("vera").get("/api/jobs/old/logs")
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Log-Gap"].startswith(f"0+{len(printed)}")
    assert answer.headers["Log-Complete"] == "true"
    following = portal.api("vera").get(f"/api/jobs/old/logs?since={answer.headers['Log-Cursor']}")
    assert (following.data, following.headers["Log-Complete"]) == (b"", "true")
    download = portal.browser("vera").get("/orgs/lab/jobs/old/log").data
    assert b"bytes are missing here" in download and b"line 1\n" not in download
    assert not run(portal, retain_logs_days=90), "it goes once"


def test_the_oldest_logs_go_until_the_rest_fits(portal: Portal, past: Make) -> None:
    for number in range(6):
        past(f"job-{number}", days=20 - number, printed=noise(100_000, number))
    size = portal.job("job-0").log_bytes
    assert 90_000 < size < 120_000
    done = run(portal, retain_logs_bytes=3 * size + size // 2)
    assert done.logs == 3
    assert with_logs(portal) == {"job-3", "job-4", "job-5"}
    assert names(portal) == {f"job-{number}" for number in range(6)}
    browser = portal.browser("bob")
    browser.get("/orgs/lab/jobs/job-0")
    assert "because the portal keeps" in browser.text()
    assert not run(portal, retain_logs_bytes=3 * size + size // 2)


def test_a_long_log_goes_in_small_transactions_and_a_kill_between_them_hides_nothing(
    portal: Portal, past: Make
) -> None:
    printed = noise(40 << 20)
    past("long", days=100, printed=printed)
    pauses: list[float] = []

    def once(seconds: float) -> bool:
        pauses.append(seconds / retention.REST)
        return len(pauses) == 3  # as if the process had to end

    run(portal, once, retain_logs_days=90)
    answer = portal.api("bob").get("/api/jobs/long/logs")
    start, size = (int(part) for part in answer.headers["Log-Gap"].split(",")[0].split(";")[0].split("+"))
    assert start == 0 and 0 < size < len(printed)
    assert answer.data == printed[size : size + len(answer.data)] != b""
    done = run(portal, timed(pauses), retain_logs_days=90)
    assert done.logs == 1
    print(f"longest transaction {max(pauses) * 1000:.1f} ms of {len(pauses)}")
    assert len(pauses) > 5
    gaps = portal.read(lambda: [(gap.first_byte, gap.size) for gap in db.session.scalars(select(LogGap))])
    assert gaps == [(0, len(printed))]


def test_expired_sessions_links_and_failures_go(portal: Portal) -> None:
    portal.browser("bob")  # a live session, and a used link
    with portal.app.app_context(), transaction():
        db.session.query(SignInLink).update({"expires_at": now() - timedelta(hours=1)})
        user_id = db.session.query(UserSession.user_id).limit(1).scalar()
        for number in range(450):
            db.session.add(
                UserSession(secret_hash=b"%032d" % number, user_id=user_id, expires_at=now() - timedelta(seconds=1))
            )
        db.session.add(SignInFailure(email_hash=b"x" * 32, address="10.0.0.1", at=now() - timedelta(hours=1)))
        db.session.add(SignInFailure(email_hash=b"x" * 32, address="10.0.0.1"))
    links = rows(portal, SignInLink)
    assert run(portal).sign_ins == 451 + links
    assert (rows(portal, UserSession), rows(portal, SignInLink), rows(portal, SignInFailure)) == (1, 0, 1)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_mix_nothing_active_or_unsettled_is_ever_touched(portal: Portal, seed: int) -> None:
    """Random jobs of every state and age under random settings, with random ends of the run."""
    chance = random.Random(seed)
    made = 40
    for number in range(made):
        portal.launch(f"job-{number}")
    with portal.app.app_context(), transaction():
        for job in db.session.query(Job):
            state = chance.choice(list(State))
            settled = state.final and chance.random() < 0.7
            at = now() - timedelta(days=chance.choice([0, 1, 5, 20, 100, 1000]), seconds=chance.randrange(80_000))
            job.created_at = at - timedelta(days=1)
            history(job, at, state, settled, noise(chance.choice([0, 10, 5000, 300_000]), job.id), chance.randint(1, 3))
    everything = _everything(portal)
    settings: dict[str, Any] = {
        "retain_jobs_days": chance.choice([0, 3, 50]),
        "retain_logs_days": chance.choice([0, 1, 10]),
        "retain_logs_bytes": chance.choice([0, 1, 500_000]),
    }
    left = chance.randrange(1, 30)
    for _ in range(3):
        steps = iter(range(left))
        run(portal, lambda _seconds, steps=steps: next(steps, None) is None, **settings)  # type: ignore[misc]  # bound
        after = _everything(portal)
        for name, (touchable, of_it) in everything.items():
            if not touchable:
                assert after[name][1] == of_it, f"seed {seed}: {name} was touched"
    run(portal, **settings)
    after = _everything(portal)
    day = timedelta(days=1)
    for name, (touchable, of_it) in everything.items():
        if not touchable:
            assert after[name][1] == of_it
            continue
        age = now() - of_it["finished_at"]
        gone = bool(settings["retain_jobs_days"]) and age > settings["retain_jobs_days"] * day
        assert (name not in after) == gone, f"seed {seed}: {name}"
        if name in after and settings["retain_logs_days"] and age > settings["retain_logs_days"] * day:
            assert not after[name][1]["chunks"]
        if name in after:
            # every byte that was printed is there or in a marked gap
            kept = sum(size for *_, size in after[name][1]["chunks"])
            assert kept + sum(size for *_, size in after[name][1]["gaps"]) == of_it["printed"]
    if settings["retain_logs_bytes"]:
        kept_bytes = portal.read(lambda: db.session.query(func.sum(Job.log_bytes)).filter(Job.settled).scalar())
        assert (kept_bytes or 0) <= settings["retain_logs_bytes"]
    assert not run(portal, **settings)


def _everything(portal: Portal) -> dict[str, tuple[bool, Any]]:
    """Of each job: whether retention may touch it, and everything of it."""

    def read() -> dict[str, tuple[bool, Any]]:
        found: dict[str, tuple[bool, Any]] = {}
        for job in db.session.query(Job).order_by(Job.id):
            attempts = db.session.scalars(select(JobAttempt).where(JobAttempt.job_id == job.id)).all()
            of_it: dict[str, Any] = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
            of_it["events"] = db.session.query(JobEvent).filter_by(job_id=job.id).count()
            ids = [attempt.id for attempt in attempts]
            chunks = select(LogChunk.attempt_id, LogChunk.rank, LogChunk.first_byte, LogChunk.size)
            gaps = select(LogGap.attempt_id, LogGap.rank, LogGap.first_byte, LogGap.size)
            of_it["chunks"] = [tuple(r) for r in db.session.execute(chunks.where(LogChunk.attempt_id.in_(ids)))]
            of_it["gaps"] = [tuple(r) for r in db.session.execute(gaps.where(LogGap.attempt_id.in_(ids)))]
            of_it["printed"] = sum(s.size for i in ids for s in logs.streams(i))
            found[job.name] = (job.state.final and job.settled, of_it)
        return found

    found: dict[str, tuple[bool, Any]] = portal.read(read)
    return found


def test_the_operator_sees_what_would_go_before_it_goes(make: Callable[..., Portal], past: Make) -> None:
    past("old", days=31, printed=b"x\n")
    past("log", days=20, printed=b"x\n")
    portal = make(retain_jobs_days=30, retain_logs_days=10)
    said = portal.command("retention", "--dry-run")
    assert said.exit_code == 0, said.output
    assert "Finished jobs, with everything of them: kept for 30 days (RETAIN_JOBS_DAYS)." in said.output
    assert "Would go: 1 finished job, 1 log of other jobs (" in said.output
    assert names(portal) == {"old", "log"} == with_logs(portal)
    said = portal.command("retention")
    assert "Removed: 1 finished job, 1 log of other jobs (" in said.output
    assert names(portal) == {"log"} and with_logs(portal) == set()
    assert "0 finished jobs, 0 logs" in portal.command("retention", "--dry-run").output


@on_sqlite
def test_a_run_over_many_jobs_leaves_others_room_to_write(portal: Portal) -> None:
    """2,000 jobs with a log each: no transaction is long, and most of the time nobody is kept from writing."""
    portal.launch("like-this")
    with portal.app.app_context(), transaction():
        like = db.session.query(Job).one()
        fields = {c.name: getattr(like, c.name) for c in Job.__table__.columns if c.name not in ("id", "uid", "name")}
        printed = noise(2000)
        for number in range(2000):
            job = Job(**{**fields, "uid": f"u{number:07d}", "name": f"job-{number}"})
            db.session.add(job)
            db.session.flush()
            history(job, now() - timedelta(days=50), State.SUCCEEDED, True, printed)
    held: list[float] = []
    began = time.monotonic()
    done = run(portal, timed(held), retain_jobs_days=30)
    took = time.monotonic() - began
    assert done.jobs == 2000
    held.sort()
    print(f"{len(held)} transactions, median {held[len(held) // 2] * 1000:.1f} ms, longest {held[-1] * 1000:.1f} ms, "
          f"{took:.1f} s in all")  # fmt: skip
    assert held[len(held) // 2] < 0.2  # seconds; 0.02 on an idle machine
