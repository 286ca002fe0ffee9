"""How jobs end, and that an end is for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from app.cluster.protocol import Code, Note, Outcome, RankStatus
from app.database import db, now
from app.jobs import service as jobs
from app.jobs.models import IllegalTransition
from app.jobs.states import FINAL, State
from app.worker import steps
from tests.worker.stub import T0, Worker, ended, running, starting


@pytest.mark.parametrize(
    ("outcome", "code", "state"),
    [
        (Outcome.SUCCEEDED, 0, "succeeded"),
        (Outcome.FAILED, 3, "failed"),
        (Outcome.STOPPED, 143, "cancelled"),
        (Outcome.LOST, None, "lost"),
    ],
)
def test_an_end_is_recorded_and_final(worker: Worker, outcome: Outcome, code: int | None, state: str) -> None:
    began = now()
    job = worker.run("one")
    worker.cluster.show(job, ended(outcome, code, began))
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.exit_code, job.finished_at) == (state, code, began + timedelta(seconds=5))
    version, events = job.version, worker.timeline(job)
    for late in (starting(), running(), ended(Outcome.SUCCEEDED, 0), ended(Outcome.FAILED, 9), None):
        worker.cluster.show(job, late)
        worker.look()
    worker.stop("one")
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.exit_code, job.finished_at) == (state, code, began + timedelta(seconds=5))
    assert (job.version, worker.timeline(job)) == (version, events)


def test_a_job_that_vanished_is_lost(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.show(job, None)
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.reason_code) == ("lost", Code.REMOVED)
    assert job.finished_at is not None and job.finished_at >= job.created_at


@pytest.mark.parametrize("final", sorted(FINAL))
@pytest.mark.parametrize("state", list(State))
def test_no_final_state_can_be_left(worker: Worker, final: State, state: State) -> None:
    worker.portal.launch("one")
    with worker.portal.app.app_context():
        job = db.session.query(jobs.Job).one()
        job.state = final
        if state is final:
            job.enter(state, T0)
        else:
            with pytest.raises(IllegalTransition):
                job.enter(state, T0)
        db.session.rollback()


def test_an_end_seen_without_a_beginning_skips_what_was_missed(worker: Worker) -> None:
    job = worker.launch("one")
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.started_at) == ("succeeded", T0)


def test_ranks_and_notes_are_kept_once(worker: Worker) -> None:
    job = worker.launch("one", nodes=2)
    ranks = tuple(RankStatus(number, f"node-{number}", T0) for number in range(2))
    note = Note(T0, "It holds 1 GPU.", "H100")
    worker.cluster.show(job, replace(running(), ranks=ranks, notes=(note,)))
    worker.look(2)
    done = tuple(replace(rank, node="", started_at=None, finished_at=T0, exit_code=0) for rank in ranks)
    worker.cluster.show(job, replace(ended(Outcome.SUCCEEDED, 0), ranks=done, notes=(note,)))
    worker.look(2)
    kept = worker.portal.read(
        lambda: [
            (rank.rank, rank.node, rank.started_at, rank.exit_code)
            for rank in jobs.ranks(jobs.attempt_of(db.session.merge(worker.portal.job("one"), load=False)))
        ]
    )
    assert kept == [(0, "node-0", T0, 0), (1, "node-1", T0, 0)], "what was once known is not forgotten"
    assert worker.timeline(job).count("It holds 1 GPU.") == 1


def test_objects_are_removed_only_when_the_whole_log_is_in_the_archive(worker: Worker) -> None:
    job = worker.run("one", nodes=2)
    worker.cluster.print(job, b"zero", 0, end=True)
    worker.cluster.print(job, b"one, ", 1)
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    worker.collect()
    for _ in range(3):
        assert worker.look(), "it waits for the log"
        worker.collect()
    assert worker.cluster.asked("remove", job) == 0
    assert not worker.portal.job("one").settled
    worker.cluster.print(job, b"and the rest", 1, end=True)
    worker.collect()
    worker.look()
    assert (worker.log(job, 0), worker.log(job, 1)) == (b"zero", b"one, and the rest")
    assert worker.cluster.asked("remove", job) == 1
    assert worker.portal.job("one").settled
    (attempt,) = worker.attempts(job)
    assert attempt.removed_at is not None
    assert not worker.look(), "nothing is left to do"
    assert worker.cluster.asked("remove", job) == 1


def test_a_removal_that_fails_is_tried_again(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    worker.cluster.problems["remove", job.uid] = RuntimeError("a bug")
    worker.settle(job)
    assert not worker.portal.job("one").settled
    worker.cluster.problems.clear()
    worker.rest(60)
    worker.look()
    assert worker.portal.job("one").settled


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.FAILED])
def test_a_job_whose_log_nobody_can_complete_is_settled_when_it_does_not_move_any_more(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"the beginning\n")
    worker.cluster.show(job, ended(outcome, 1))  # it ended long ago, by the cluster's own clock
    worker.look(2)
    assert not worker.portal.job("one").settled
    worker.collect()
    worker.look()
    monkeypatch.setattr(steps, "LOG_PATIENCE", -1.0)
    worker.look()
    assert worker.portal.job("one").settled
    assert worker.cluster.asked("remove", job) == 1
    assert worker.log(job) == b"the beginning\n"
    page = worker.portal.browser("bob")
    page.get("/orgs/lab/jobs/one")
    assert "The end of the log could not be read any more." in page.text()
