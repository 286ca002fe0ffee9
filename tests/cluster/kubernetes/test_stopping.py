"""A stop is never lost, touches nothing of others, and is asked for once."""

from __future__ import annotations

import time

import pytest

from app.cluster.kubernetes.names import object_name
from app.cluster.protocol import AttemptKey, ClusterError, Code, Outcome, Phase, Refused
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.site import Site, until


def test_deletes_exactly_the_job_that_was_seen_and_waits_for_its_pods(site: Site) -> None:
    attempt = site.launched()
    site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    job = site.job(attempt)
    assert job is not None
    site.cluster.stop(attempt.key)
    (request,) = site.fake.asked("delete")
    assert request.body is not None
    assert request.body["propagationPolicy"] == "Foreground"
    assert request.body["preconditions"] == {"uid": job["metadata"]["uid"]}
    until(lambda: (seen := site.observe(attempt)) is not None and seen.reason.code is Code.STOPPING)
    site.pods_go(attempt)
    until(lambda: (seen := site.observe(attempt)) is None or seen.outcome is Outcome.STOPPED)


def test_repeating_it_asks_for_nothing_more(site: Site) -> None:
    attempt = site.launched()
    site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    for _ in range(20):
        site.cluster.stop(attempt.key)
        site.observe(attempt)
        time.sleep(0.01)
    assert site.fake.count("delete") == 1
    assert site.fake.count("list", "jobs") == 1


def test_a_job_that_ended_first_keeps_its_end(site: Site) -> None:
    attempt = site.launched()
    site.finish(attempt, site.running_pod(attempt))
    site.until_phase(attempt, Phase.ENDED)
    site.cluster.stop(attempt.key)
    assert site.fake.count("delete") == 0
    seen = site.observe(attempt)
    assert seen is not None
    assert seen.outcome is Outcome.SUCCEEDED


def test_one_that_ended_while_the_stop_was_on_its_way_keeps_its_end(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    site.end_pod(pod)
    site.fake.script("delete", "jobs", _ends_first(site, attempt))
    site.cluster.stop(attempt.key)
    site.pods_go(attempt)
    seen = site.until_phase(attempt, Phase.ENDED)
    assert seen is not None
    assert seen.outcome is Outcome.SUCCEEDED


def _ends_first(site: Site, attempt: object) -> faults.Fault:
    def fault(handler: faults.Handler, request: faults.Request) -> bool:
        site.end_job(attempt)  # type: ignore[arg-type]
        return False

    return fault


def test_one_that_is_gone_is_stopped(site: Site) -> None:
    attempt = site.launched()
    site.until_phase(attempt, Phase.STARTING)
    site.fake.take_away("jobs", object_name(attempt))
    site.cluster.stop(attempt.key)
    until(lambda: site.observe(attempt) is None)


def test_one_that_never_was_is_stopped_and_never_starts(site: Site) -> None:
    attempt = site.attempt()
    site.cluster.stop(attempt.key)
    assert isinstance(site.cluster.launch(attempt), Refused)
    assert site.fake.all("jobs") == []
    assert site.observe(attempt) is None


def test_one_that_was_never_tried_at_all_is_stopped(site: Site) -> None:
    site.cluster.stop(AttemptKey("neverwas", 0))
    assert site.fake.count("create") == 0


def test_just_made_and_not_yet_seen_it_is_found(site: Site) -> None:
    attempt = site.launched()
    site.cluster.stop(attempt.key)
    assert site.job(attempt) is None or site.fake.count("delete") == 1
    until(lambda: site.job(attempt) is None)


def test_before_the_first_look_it_works_too(site: Site) -> None:
    attempt = site.launched()
    other = site.new_cluster()  # never started: it has no copy
    other.stop(attempt.key)
    assert site.job(attempt) is None
    other.close()


def test_in_an_outage_it_is_not_called_done(site: Site) -> None:
    attempt = site.launched()
    site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    with site.fake.away(), pytest.raises(ClusterError):
        site.cluster.stop(attempt.key)
    until(lambda: _stop(site, attempt.key))
    until(lambda: site.fake.asked("delete", "jobs"))


def _stop(site: Site, key: AttemptKey) -> bool:
    try:
        site.cluster.stop(key)
    except ClusterError:
        return False
    return True


def test_a_missing_right_is_told(site: Site) -> None:
    attempt = site.launched()
    site.until_phase(attempt, Phase.STARTING)
    site.fake.script("delete", "jobs", faults.status(403, "Forbidden", "no"), times=1000)
    with pytest.raises(ClusterError, match="lacks a right"):
        site.cluster.stop(attempt.key)
    assert "needed to stop" in site.cluster.health().error


def test_the_name_that_another_job_has_by_now_is_left_alone(site: Site) -> None:
    attempt = site.launched()
    site.until_phase(attempt, Phase.STARTING)

    def replaced(handler: faults.Handler, request: faults.Request) -> bool:
        job = site.job(attempt)
        assert job is not None
        del job["metadata"]["uid"]
        site.fake.take_away("jobs", request.name)
        job["metadata"]["labels"] = {"whose": "theirs"}
        site.fake.put("jobs", job)
        return False

    site.fake.script("delete", "jobs", replaced)
    site.cluster.stop(attempt.key)
    assert site.job(attempt) is not None


def test_remove_takes_everything_of_the_attempt_and_nothing_else(site: Site) -> None:
    attempt, other = site.launched(nodes=2), site.launched(nodes=2)
    site.finish(attempt, site.running_pod(attempt))
    orphan = site.running_pod(attempt, 1)
    site.fake.change("pods", orphan, lambda pod: pod["metadata"].pop("ownerReferences"))
    until(lambda: len(site.cluster._pods.of(attempt.key)) == 2)
    until(lambda: any("ownerReferences" not in pod["metadata"] for pod in site.cluster._pods.of(attempt.key)))
    site.cluster.remove(attempt.key)
    assert site.job(attempt) is None
    assert site.fake.get("pods", orphan) is None
    assert [service["metadata"]["name"] for service in site.fake.all("services")] == [object_name(other)]
    assert site.job(other) is not None
    site.cluster.remove(attempt.key)  # again


def test_owned_is_everything_that_is_ours_from_a_complete_list(site: Site) -> None:
    site.fake.page = 2
    attempts = [site.launched(nodes=2) for _ in range(5)]
    site.fake.take_away("jobs", object_name(attempts[0]))  # its service stays behind
    site.fake.put("jobs", {"metadata": {"name": "theirs", "labels": {"simpletrain.io/instance": "other"}}})
    assert site.cluster.owned() == {attempt.key for attempt in attempts}
    site.fake.script("list", "services", faults.status(500), when=lambda request: "continue" in request.query)
    with pytest.raises(ClusterError):
        site.cluster.owned()


def test_a_finished_job_that_the_cluster_removed_by_itself_has_ended(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.finish(attempt, pod)
    site.until_phase(attempt, Phase.ENDED)
    site.fake.take_away("pods", pod)
    site.fake.take_away("jobs", object_name(attempt))
    until(lambda: site.cluster._jobs.of(attempt.key) == [])
    seen = site.observe(attempt)
    assert seen is not None
    assert seen.outcome is Outcome.SUCCEEDED


def test_removed_by_another_hand_it_is_gone(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    site.fake.take_away("jobs", object_name(attempt))
    site.fake.take_away("pods", pod)
    site.until_phase(attempt, None)
    time.sleep(0.1)
    asked = site.fake.count("get", "jobs")
    site.observe(attempt)
    site.observe(attempt)
    assert site.fake.count("get", "jobs") == asked  # known now


def test_while_that_cannot_be_asked_nothing_is_claimed(site: Site) -> None:
    attempt = site.launched()
    until(lambda: site.cluster._jobs.of(attempt.key))
    site.fake.script("get", "jobs", faults.status(500), times=1)
    site.fake.take_away("jobs", object_name(attempt))
    until(lambda: site.cluster._jobs.of(attempt.key) == [])
    with pytest.raises(ClusterError):
        site.observe(attempt)
    site.until_phase(attempt, None)


def test_what_is_told_of_a_removed_job_later_brings_it_back_to_nobody(site: Site) -> None:
    attempt = site.launched()
    site.finish(attempt, site.running_pod(attempt))
    site.until_phase(attempt, Phase.ENDED)
    site.fake.script("delete", "jobs", faults.raw(200, b'{"kind": "Status", "status": "Success"}'))
    site.cluster.remove(attempt.key)
    site.fake.take_away("jobs", object_name(attempt))  # the server is slow, and its event comes after that
    site.pods_go(attempt)
    until(lambda: site.observe(attempt) is None)
