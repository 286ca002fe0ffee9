"""A stop is never lost, wherever it finds the job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from app.cluster.protocol import ClusterError, Code, Launched, Outcome
from app.database import now
from tests.worker.stub import NO_SLOT, Worker, ended, held, running


def test_a_job_that_the_worker_has_not_seen_is_cancelled_at_once_and_never_launched(worker: Worker) -> None:
    job = worker.portal.launch("one")
    worker.stop("one")
    assert worker.portal.job("one").state == "cancelled"
    worker.look(2)
    assert worker.cluster.calls == []
    assert worker.portal.job("one").settled
    assert worker.attempts(job) == []


def test_a_job_that_waits_is_cancelled_and_kept_from_starting_later(worker: Worker) -> None:
    job = worker.portal.launch("one")
    worker.cluster.answers[job.uid] = [NO_SLOT]
    worker.look()
    worker.stop("one")
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.reason_text) == ("cancelled", "Stopped by bob.")
    assert worker.cluster.asked("stop", job) == 1, "the cluster must know, for a launch that is still on its way"
    worker.look(2)
    assert worker.cluster.asked("launch", job) == 1
    assert worker.portal.job("one").settled


def test_a_stop_during_the_launch_stops_what_was_launched(worker: Worker) -> None:
    job = worker.portal.launch("one")

    def stopped_meanwhile() -> Launched:
        worker.stop("one")
        return Launched("made")

    worker.cluster.answers[job.uid] = [stopped_meanwhile]
    worker.look()
    worker.look()
    assert worker.cluster.asked("stop", job) == 1
    assert worker.portal.job("one").state == "stopping"
    worker.cluster.show(job, ended(Outcome.STOPPED))
    worker.look()
    assert worker.portal.job("one").state == "cancelled"


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_job_on_the_cluster_is_stopping_until_it_has_ended(worker: Worker, state: str) -> None:
    job = worker.launch("one") if state == "starting" else worker.run("one")
    worker.stop("one")
    assert worker.portal.job("one").state == "stopping"
    assert worker.look(), "it comes back soon"
    assert worker.cluster.asked("stop", job) == 1
    assert worker.portal.job("one").state == "stopping"
    worker.cluster.show(job, ended(Outcome.STOPPED, 143))
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.reason_text, job.exit_code) == ("cancelled", "Stopped by bob.", 143)


def test_a_held_job_is_stopped(worker: Worker) -> None:
    job = worker.launch("one")
    worker.cluster.show(job, held())
    worker.look()
    worker.stop("one")
    worker.look()
    assert worker.cluster.asked("stop", job) == 1
    worker.cluster.show(job, None)
    worker.look()
    assert worker.portal.job("one").state == "cancelled"


def test_a_job_that_ended_by_itself_before_the_stop_arrived_keeps_its_own_end(worker: Worker) -> None:
    job = worker.run("one")
    worker.stop("one")
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.exit_code) == ("succeeded", 0)


def test_a_stop_that_the_cluster_does_not_take_is_tried_again(worker: Worker) -> None:
    job = worker.run("one")
    worker.stop("one")
    worker.cluster.problems["stop", job.uid] = ClusterError("No answer.")
    worker.look()
    assert worker.portal.job("one").state == "stopping"
    worker.cluster.problems.clear()
    worker.cluster.show(job, ended(Outcome.STOPPED))
    worker.rest(60)
    worker.look()
    assert worker.portal.job("one").state == "cancelled"


def test_a_stop_does_not_wait_until_a_failed_launch_is_tried_again(worker: Worker) -> None:
    job = worker.portal.launch("one")
    worker.cluster.problems["launch", job.uid] = ClusterError("No answer.", retry_after=3600)
    worker.look()
    worker.stop("one")
    worker.look()
    assert worker.cluster.asked("stop", job) == 1
    assert worker.portal.job("one").state == "cancelled"


def test_a_stop_is_delivered_by_the_next_worker_with_the_whole_log(
    worker: Worker, restarted: Callable[..., Worker]
) -> None:
    """The first one died between the start and its record, so no row says that anything was launched."""
    job = worker.portal.launch("one")

    def die() -> Launched:
        worker.cluster.objects.add(worker.cluster.attempts[-1].key)
        worker.cluster.show(job, running())
        raise KeyboardInterrupt

    worker.cluster.answers[job.uid] = [die]
    with pytest.raises(KeyboardInterrupt):
        worker.look()
    worker.cluster.print(job, b"printed before anybody looked\n")
    worker.stop("one")
    fresh = restarted(worker.cluster)
    fresh.look()
    assert worker.portal.job("one").state == "stopping"
    worker.cluster.show(job, ended(Outcome.STOPPED))
    fresh.look(2)
    assert worker.portal.job("one").state == "cancelled"
    assert fresh.cluster.asked("remove", job) == 0, "its log is not in the archive yet"
    worker.cluster.print(job, b"and its last words", end=True)
    fresh.collect()
    fresh.look()
    assert fresh.log(job) == b"printed before anybody looked\nand its last words"
    assert worker.portal.job("one").settled


def test_the_worker_keeps_the_time_limit_where_the_cluster_does_not(worker: Worker) -> None:
    worker.cluster.enforces_max_runtime = False
    job = worker.launch("one", max_runtime="1h")
    worker.cluster.show(job, running(now() - timedelta(minutes=59)))
    worker.look(2)
    assert worker.portal.job("one").state == "running"
    other = worker.launch("two", max_runtime="1h")
    worker.cluster.show(other, running(now() - timedelta(minutes=61)))
    worker.look(2)
    assert worker.cluster.asked("stop", job) == 0
    assert worker.cluster.asked("stop", other) == 1
    worker.cluster.show(other, ended(Outcome.STOPPED, 143, now()))
    worker.look()
    late = worker.portal.job("two")
    assert (late.state, late.reason_code) == ("failed", Code.TIME_LIMIT)
    assert late.reason_text == "Stopped at its time limit of 1 h."


def test_the_worker_leaves_the_time_limit_to_a_cluster_that_keeps_it(worker: Worker) -> None:
    job = worker.launch("one", max_runtime="1h")
    worker.cluster.show(job, running(now() - timedelta(hours=2)))
    worker.look(3)
    assert worker.cluster.asked("stop", job) == 0
    assert worker.portal.job("one").state == "running"
