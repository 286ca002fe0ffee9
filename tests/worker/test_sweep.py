"""What no unsettled job knows is removed, and nothing else."""

from __future__ import annotations

from datetime import timedelta

from app.cluster.protocol import AttemptKey, ClusterError, Outcome
from app.database import db, now
from app.jobs.models import Job
from app.worker.sweep import sweep
from tests.worker.stub import Worker, ended, running


def swept(worker: Worker) -> set[str]:
    def run() -> set[str]:
        sweep(worker.cluster, db.session.query(Job.cluster_id).limit(1).scalar() or 1)
        return {call[1] for call in worker.cluster.calls if call[0] == "remove"}

    return set(worker.portal.read(run))


def left_behind(worker: Worker, uid: str, number: int = 1) -> AttemptKey:
    key = AttemptKey(uid, number)
    worker.cluster.objects.add(key)
    return key


def test_objects_of_a_job_that_is_not_settled_stay(worker: Worker) -> None:
    job = worker.run("one")
    done = worker.run("two")
    worker.cluster.show(done, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    assert swept(worker) == set()
    assert worker.cluster.asked("stop") == 0
    assert {key.job for key in worker.cluster.objects} == {job.uid, done.uid}


def test_what_no_job_knows_is_stopped_and_removed_once_it_has_ended(worker: Worker) -> None:
    kept = worker.run("one")
    key = left_behind(worker, "stranger")
    worker.cluster.seen["stranger"] = running()
    assert swept(worker) == set(), "it still runs"
    assert ("stop", "stranger") in worker.cluster.calls
    worker.cluster.seen["stranger"] = ended(Outcome.STOPPED)
    assert swept(worker) == {"stranger"}
    assert key not in worker.cluster.objects
    assert worker.cluster.asked("stop", kept) == 0


def test_what_ended_a_moment_ago_is_kept_for_a_while(worker: Worker) -> None:
    left_behind(worker, "stranger")
    worker.cluster.seen["stranger"] = ended(Outcome.SUCCEEDED, 0, now() - timedelta(minutes=1))
    assert swept(worker) == set()


def test_leftovers_of_a_settled_job_are_removed(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0, now()))
    worker.look()
    worker.settle(job)
    assert worker.portal.job("one").settled
    left_behind(worker, job.uid)
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0, now()))
    worker.cluster.calls.clear()
    assert swept(worker) == {job.uid}


def test_an_earlier_attempt_of_a_job_that_goes_on_is_a_leftover(worker: Worker) -> None:
    job = worker.run("one")
    old = left_behind(worker, job.uid, 7)
    worker.cluster.show(job, None)  # this stub shows the same for every attempt of a job
    swept(worker)
    assert old not in worker.cluster.objects
    assert AttemptKey(job.uid, 1) in worker.cluster.objects


def test_without_a_complete_listing_nothing_is_removed(worker: Worker) -> None:
    left_behind(worker, "stranger")
    worker.cluster.listing_problem = ClusterError("No answer.")
    assert swept(worker) == set()
    assert worker.cluster.calls == []


def test_a_leftover_that_resists_holds_neither_others_nor_jobs_up(worker: Worker) -> None:
    for uid in ("aresists", "bgoes"):
        left_behind(worker, uid)
        worker.cluster.seen[uid] = ended(Outcome.LOST)
    worker.cluster.problems["remove", "aresists"] = ClusterError("It still runs.")
    worker.portal.launch("one")
    worker.look()
    assert {key.job for key in worker.cluster.objects} == {"aresists", worker.portal.job("one").uid}
    assert worker.portal.job("one").state == "starting"


def test_a_leftover_that_needs_time_to_end_is_come_back_to_soon(worker: Worker) -> None:
    left_behind(worker, "stranger")
    worker.cluster.seen["stranger"] = running()
    worker.look()
    worker.cluster.seen["stranger"] = ended(Outcome.STOPPED)
    worker.loop._sweep_at -= 60
    worker.look()
    assert worker.cluster.objects == set()
