"""What goes wrong with one job, or with the worker itself, is nobody else's matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError

from app.cluster.protocol import ClusterError, Outcome
from app.clusters import service as clusters
from app.database import db, transaction
from app.worker.turn import Replaced, Turn
from tests.worker.stub import Worker, ended, running


@pytest.mark.parametrize("problem", [ClusterError("No answer."), RuntimeError("a bug")])
def test_a_failed_launch_changes_nothing_and_is_tried_again_ever_more_rarely(
    worker: Worker, problem: Exception
) -> None:
    job = worker.portal.launch("one")
    worker.cluster.problems["launch", job.uid] = problem
    pauses = []
    for tries in range(1, 10):
        assert worker.look()
        worker.look()
        assert worker.cluster.asked("launch", job) == tries, "it rests before it is tried again"
        (pause,) = worker.pauses()
        pauses.append(round(pause))
        worker.rest(pause + 1)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1, 60)
    assert worker.portal.job("one").state == "queued"
    worker.cluster.problems.clear()
    worker.look()
    assert worker.portal.job("one").state == "starting"
    assert worker.pauses() == []


def test_a_cluster_that_says_when_to_come_back_is_left_alone_until_then(worker: Worker) -> None:
    job = worker.portal.launch("one")
    worker.cluster.problems["launch", job.uid] = ClusterError("Too many requests.", retry_after=17)
    worker.look()
    (pause,) = worker.pauses()
    assert 15 < pause <= 17


@pytest.mark.parametrize("problem", [ClusterError("No answer."), RuntimeError("a bug")])
def test_a_cluster_that_does_not_answer_changes_no_state(worker: Worker, problem: Exception) -> None:
    runs, starts = worker.run("runs"), worker.launch("starts")
    worker.cluster.show(runs, problem)
    worker.cluster.show(starts, problem)
    before = [worker.portal.job(name).version for name in ("runs", "starts")]
    for _ in range(5):
        worker.look()
        worker.rest(60)
    assert [worker.portal.job(name).version for name in ("runs", "starts")] == before
    assert [worker.portal.job(name).state for name in ("runs", "starts")] == ["running", "starting"]
    worker.cluster.show(runs, ended(Outcome.SUCCEEDED, 0))
    worker.cluster.show(starts, running())
    worker.rest(60)
    worker.look()
    assert [worker.portal.job(name).state for name in ("runs", "starts")] == ["succeeded", "running"]


@pytest.mark.parametrize("method", ["launch", "observe", "stop", "remove"])
def test_an_exception_in_one_job_delays_no_other(worker: Worker, method: str) -> None:
    bad = worker.portal.launch("bad")
    for name in ("good", "later"):
        worker.portal.launch(name)
    if method == "launch":
        worker.cluster.problems[method, bad.uid] = ZeroDivisionError("a bug")
    worker.look()
    if method == "remove":
        worker.cluster.print(bad, b"", end=True)
        worker.cluster.show(bad, ended(Outcome.LOST))
        worker.look()
        worker.collect()
    if method == "stop":
        worker.stop("bad")
    worker.cluster.problems[method, bad.uid] = ZeroDivisionError("a bug")
    worker.cluster.show(worker.portal.job("good"), running())
    worker.cluster.show(worker.portal.job("later"), ended(Outcome.SUCCEEDED, 0))
    worker.look()
    assert worker.cluster.asked(method, bad)
    assert worker.portal.job("good").state == "running"
    assert worker.portal.job("later").state == "succeeded"


def test_a_look_that_fails_as_a_whole_ends_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.portal.launch("one")

    def fail() -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(worker.loop, "_pass", fail)
    assert worker.look()
    monkeypatch.undo()
    worker.look()
    assert worker.portal.job("one").state == "starting"


def test_a_wish_that_comes_between_the_look_and_its_record_is_not_lost(worker: Worker) -> None:
    job = worker.run("one")
    observe = worker.cluster.observe

    def stop_meanwhile(key: object) -> object:
        worker.cluster.observe = observe  # type: ignore[method-assign]  # only this once
        worker.stop("one")
        return observe(key)  # type: ignore[arg-type]  # handed through

    worker.cluster.observe = stop_meanwhile  # type: ignore[assignment, method-assign]  # a hook between two steps
    worker.look()
    assert worker.portal.job("one").state == "stopping"
    worker.look()
    assert worker.cluster.asked("stop", job) == 1


def test_a_worker_that_was_replaced_writes_nothing_any_more(worker: Worker, restarted: Callable[..., Worker]) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"output", end=True)
    fresh = restarted(worker.cluster)
    assert fresh.turn.epoch == worker.turn.epoch + 1
    before = worker.portal.job("one")
    worker.cluster.show(job, ended(Outcome.FAILED, 1))
    with pytest.raises(Replaced):
        worker.look()
    with pytest.raises(Replaced):
        worker.collect()
    worker.portal.launch("two")
    with worker.portal.app.app_context(), pytest.raises(Replaced):
        worker.turn.alive()
    assert worker.portal.job("one").version == before.version
    assert worker.portal.job("one").state == "running"
    assert worker.stream(job) is None
    assert worker.portal.job("two").attempt == 0
    fresh.look()
    fresh.collect()
    assert worker.portal.job("one").state == "failed"
    assert fresh.log(job) == b"output"


def test_a_replaced_worker_does_not_start_a_job(worker: Worker, restarted: Callable[..., Worker]) -> None:
    job = worker.portal.launch("one")
    restarted(worker.cluster)
    with pytest.raises(Replaced):
        worker.look()
    assert worker.cluster.asked("launch", job) == 0


def test_a_turn_that_was_taken_over_in_the_middle_undoes_the_whole_transaction(worker: Worker) -> None:
    worker.portal.launch("one")
    with worker.portal.app.app_context():
        Turn()
        with pytest.raises(Replaced), worker.turn.transaction():
            raise AssertionError("nobody gets here")
        with transaction():
            pass  # the failed one left no lock behind


def test_each_turn_has_a_number_of_its_own(portal_turns: Callable[[], int]) -> None:
    numbers = [portal_turns() for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


@pytest.fixture
def portal_turns(worker: Worker) -> Callable[[], int]:
    def take() -> int:
        with worker.portal.app.app_context():
            return Turn().epoch

    return take


def test_what_a_cluster_has_is_recorded_when_it_changes(worker: Worker) -> None:
    worker.look()

    def slots() -> int | None:
        seen = clusters.capacity(db.session.query(clusters.ClusterRow).one())
        return seen.cpu_slots_free if seen is not None else None

    assert worker.portal.read(slots) == 2
    worker.cluster.capacity_now = clusters.Capacity(cpu_slots=2, cpu_slots_free=1)
    worker.look()
    assert worker.portal.read(slots) == 1
