"""From the wish to the objects on the cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.cluster.protocol import Code, Launched
from tests.worker.stub import NO_GPU, NO_SLOT, TOO_BIG, Worker, held, running, starting


def test_a_launch_is_recorded_with_the_clusters_own_id(worker: Worker) -> None:
    job = worker.portal.launch("one", command="echo hello", env={"A": "b"})
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.reason_code, job.attempt) == ("starting", Code.STARTING, 1)
    (attempt,) = worker.attempts(job)
    assert attempt.handle == f"handle of {job.uid}-a1"
    assert attempt.launched_at is not None
    (asked,) = worker.cluster.attempts
    assert (asked.key.job, asked.key.number, asked.job_name) == (job.uid, 1, "one")
    assert (asked.instance, asked.org, asked.user) == ("test-instance", str(job.org_id), str(job.user_id))
    assert (asked.spec.command, asked.spec.env["A"]) == ("echo hello", "b")
    assert worker.timeline(job) == ["Launched", "Sent to this-machine"]


def test_a_launched_job_is_not_launched_again(worker: Worker) -> None:
    job = worker.launch("one")
    worker.look(3)
    assert worker.cluster.asked("launch", job) == 1


def test_a_job_moves_on_with_what_the_cluster_shows(worker: Worker) -> None:
    job = worker.launch("one")
    worker.cluster.show(job, running())
    worker.look()
    job = worker.portal.job("one")
    assert (job.state, job.reason_text) == ("running", "It runs.")
    assert job.started_at == running().started_at
    assert worker.timeline(job) == ["Launched", "Sent to this-machine", "Running"]


def test_a_look_that_shows_nothing_new_changes_no_row(worker: Worker) -> None:
    worker.run("one")
    before = worker.portal.job("one").version
    worker.look(3)
    assert worker.portal.job("one").version == before


def test_a_running_job_never_goes_back_to_starting(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.show(job, starting())
    worker.look()
    assert worker.portal.job("one").state == "running"


def test_a_job_that_waits_says_why_and_is_asked_again(worker: Worker) -> None:
    job = worker.portal.launch("one")
    worker.cluster.answers[job.uid] = [NO_SLOT, NO_SLOT]
    assert worker.look(), "it waits, so there is something to come back for"
    job = worker.portal.job("one")
    assert (job.state, job.reason_code, job.reason_text) == ("queued", Code.NO_FREE_SLOT, "All places are taken.")
    version = job.version
    worker.look()
    assert worker.portal.job("one").version == version, "the same reason again is nothing new"
    worker.look()
    assert worker.portal.job("one").state == "starting"


def test_first_come_first_served_for_the_same_resource(worker: Worker) -> None:
    first, second, third = (worker.portal.launch(name, gpus=1) for name in ("first", "second", "third"))
    worker.cluster.answers[first.uid] = [NO_GPU]
    worker.look()
    assert worker.cluster.asked("launch", second) == worker.cluster.asked("launch", third) == 0
    for name in ("second", "third"):
        job = worker.portal.job(name)
        assert (job.state, job.reason_code) == ("queued", Code.BEHIND)
        assert job.reason_text == "It waits behind first, which came first and needs the same."
    worker.look()
    assert {worker.portal.job(name).state for name in ("first", "second", "third")} == {"starting"}


def test_a_job_that_waits_for_a_gpu_holds_no_job_without_one_back(worker: Worker) -> None:
    with_gpu, without = worker.portal.launch("gpu", gpus=1), worker.portal.launch("cpu")
    worker.cluster.answers[with_gpu.uid] = [NO_GPU]
    worker.look()
    assert worker.portal.job("gpu").state == "queued"
    assert worker.portal.job("cpu").state == "starting"
    assert without.uid in {attempt.key.job for attempt in worker.cluster.attempts}


def test_a_job_without_a_gpu_that_waits_for_a_place_holds_no_gpu_job_back(worker: Worker) -> None:
    cpu = worker.portal.launch("cpu")
    worker.portal.launch("gpu", gpus=1)
    worker.cluster.answers[cpu.uid] = [NO_SLOT]
    worker.look()
    assert (worker.portal.job("cpu").state, worker.portal.job("gpu").state) == ("queued", "starting")


def test_a_refused_job_fails_with_the_clusters_reason_and_holds_nobody_back(worker: Worker) -> None:
    refused = worker.portal.launch("refused", gpus=1)
    worker.portal.launch("next", gpus=1)
    worker.cluster.answers[refused.uid] = [TOO_BIG]
    worker.look()
    job = worker.portal.job("refused")
    assert (job.state, job.reason_code) == ("failed", Code.REFUSED)
    assert (job.reason_text, job.reason_raw) == ("It asks for more than there is.", "raw refusal")
    assert job.finished_at is not None
    assert worker.portal.job("next").state == "starting"
    worker.look()
    assert worker.portal.job("refused").settled
    assert worker.cluster.asked("launch", refused) == 1


def test_a_crash_after_the_start_and_before_its_record_makes_no_second_one(
    worker: Worker, restarted: Callable[..., Worker]
) -> None:
    job = worker.portal.launch("one")

    def die() -> Launched:
        worker.cluster.objects.add(worker.cluster.attempts[-1].key)
        worker.cluster.show(job, running())
        raise KeyboardInterrupt

    worker.cluster.answers[job.uid] = [die]
    with pytest.raises(KeyboardInterrupt):
        worker.look()
    assert worker.portal.job("one").state == "queued"
    fresh = restarted(worker.cluster)
    fresh.look(2)
    job = worker.portal.job("one")
    assert (job.state, job.attempt) == ("running", 1)
    assert len(worker.attempts(job)) == 1
    assert {attempt.key.number for attempt in worker.cluster.attempts} == {1}


def test_a_job_that_was_started_without_a_record_is_not_shown_as_waiting_behind_another(
    worker: Worker, restarted: Callable[..., Worker]
) -> None:
    first, second = worker.portal.launch("first", gpus=2), worker.portal.launch("second", gpus=1)

    def die() -> Launched:
        worker.cluster.objects.add(worker.cluster.attempts[-1].key)
        worker.cluster.show(second, running())
        raise KeyboardInterrupt

    worker.cluster.problems["launch", first.uid] = RuntimeError("rests, so that the second is asked")
    worker.cluster.answers[second.uid] = [die]
    with pytest.raises(KeyboardInterrupt):
        worker.look()
    worker.cluster.problems.clear()
    worker.cluster.answers[first.uid] = [NO_GPU] * 5
    restarted(worker.cluster).look(2)
    assert worker.portal.job("first").state == "queued"
    assert worker.portal.job("second").state == "running"


def test_a_job_that_the_clusters_queue_holds_is_queued_and_launched_once(worker: Worker) -> None:
    job = worker.launch("one")
    worker.cluster.show(job, held())
    worker.look()
    held_job = worker.portal.job("one")
    assert (held_job.state, held_job.reason_text) == ("queued", "The queue holds it.")
    worker.look(4)
    assert worker.portal.job("one").version == held_job.version, "nothing moves while it is held"
    assert worker.cluster.asked("launch", job) == 1
    worker.cluster.show(job, running())
    worker.look()
    assert worker.portal.job("one").state == "running"


def test_a_cluster_that_was_switched_off_starts_nothing_and_says_so(
    worker: Worker, restarted: Callable[..., Worker]
) -> None:
    job = worker.portal.launch("one")
    runs = worker.run("two")
    off = restarted(worker.cluster, refused="LOCAL_JOBS=0 switches this machine off as a cluster.")
    waiting = worker.portal.launch("three")
    before = len(worker.cluster.attempts)
    off.look(2)
    assert len(worker.cluster.attempts) == before
    seen = worker.portal.job("three")
    assert (seen.state, seen.reason_code) == ("queued", Code.CLUSTER_OFF)
    assert seen.reason_text == "LOCAL_JOBS=0 switches this machine off as a cluster."
    assert worker.portal.job("two").state == "running", "what runs goes on and is watched"
    assert {job.uid, runs.uid} == {attempt.key.job for attempt in worker.cluster.attempts}
    restarted(worker.cluster).look()
    assert worker.portal.job("three").state == "starting"
    assert waiting.uid in {attempt.key.job for attempt in worker.cluster.attempts}
