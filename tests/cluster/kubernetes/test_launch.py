"""An attempt is made once, whatever answer comes or gets lost."""

from __future__ import annotations

import json
import time

import pytest

from app.cluster.kubernetes.launch import PLACEHOLDER
from app.cluster.kubernetes.names import object_name
from app.cluster.protocol import Attempt, ClusterError, Code, Launched, Phase, Refused, Wait
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.fake import FakeKubernetes
from tests.cluster.kubernetes.site import Site, until

QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5'  # noqa: E501
WEBHOOK = 'admission webhook "image-policy.example" denied the request: image is not signed'


def launch_again(site: Site, attempt: Attempt) -> Launched | Wait | Refused:
    with pytest.raises(ClusterError):
        site.cluster.launch(attempt)
    answer = until(lambda: _try(site, attempt), "launching never succeeds")
    assert answer is not None
    return answer


def _try(site: Site, attempt: Attempt) -> Launched | Wait | Refused | None:
    try:
        return site.cluster.launch(attempt)
    except ClusterError:
        return None


def test_makes_one_job(site: Site) -> None:
    attempt = site.attempt()
    answer = site.cluster.launch(attempt)
    job = site.job(attempt)
    assert job is not None
    assert answer == Launched(job["metadata"]["uid"])
    assert site.fake.count("create") == 1


def test_makes_the_service_first_and_ties_it_to_the_job(site: Site) -> None:
    attempt = site.launched(nodes=2)
    assert [request.kind for request in site.fake.asked("create")] == ["services", "jobs"]
    service, job = site.fake.get("services", object_name(attempt)), site.job(attempt)
    assert service is not None
    assert job is not None
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]


def test_a_repeated_launch_changes_nothing(site: Site) -> None:
    attempt = site.launched(nodes=2)
    before = site.fake.objects.copy()
    assert isinstance(site.cluster.launch(attempt), Launched)
    assert site.fake.objects == before


@pytest.mark.parametrize("kind", ["services", "jobs"])
@pytest.mark.parametrize(
    "fault",
    [faults.lost_reply, faults.cut, faults.status(500), faults.status(503), faults.status(504, "Timeout")],
)
def test_an_answer_that_gets_lost_makes_no_second_one(site: Site, fault: faults.Fault, kind: str) -> None:
    site.fake.script("create", kind, fault)
    attempt = site.attempt(nodes=2)
    assert isinstance(launch_again(site, attempt), Launched)
    assert len(site.fake.all("jobs")) == len(site.fake.all("services")) == 1


def test_goes_on_where_another_worker_was_killed(site: Site) -> None:
    site.fake.script("patch", "services", faults.cut)
    attempt = site.attempt(nodes=2)
    with pytest.raises(ClusterError):
        site.cluster.launch(attempt)
    other = site.new_cluster()
    assert isinstance(other.launch(attempt), Launched)
    service = site.fake.get("services", object_name(attempt))
    assert service is not None
    assert service["metadata"]["ownerReferences"]
    other.close()


def test_a_busy_cluster_is_not_asked_before_the_time_it_names(site: Site) -> None:
    site.fake.script("create", "jobs", faults.status(429, "TooManyRequests", "slow down", Retry_After="1"))
    attempt, other = site.attempt(), site.attempt()
    began = time.monotonic()
    with pytest.raises(ClusterError) as raised:
        site.cluster.launch(attempt)
    assert raised.value.retry_after == 1
    with pytest.raises(ClusterError):
        site.cluster.launch(other)  # not even asked
    assert site.fake.count("create") == 1
    until(lambda: _try(site, other))
    # a watch that hears from the cluster may end the pause earlier
    assert time.monotonic() - began < 3


def test_a_name_that_somebody_else_has_is_left_alone(site: Site) -> None:
    attempt = site.attempt()
    site.fake.put("jobs", {"metadata": {"name": object_name(attempt), "labels": {"whose": "theirs"}}, "spec": {}})
    answer = site.cluster.launch(attempt)
    assert isinstance(answer, Refused)
    assert "taken on the cluster" in answer.reason.text
    assert "whose=theirs" in answer.reason.raw
    site.cluster.stop(attempt.key)
    site.cluster.remove(attempt.key)
    assert site.job(attempt) is not None


def test_the_same_attempt_of_another_installation_is_left_alone(site: Site) -> None:
    attempt = site.attempt()
    other = site.launched()
    labels = {**site.job(other)["metadata"]["labels"], "simpletrain.io/instance": "other"}  # type: ignore[index]
    labels["simpletrain.io/job"] = attempt.key.job
    site.fake.put("jobs", {"metadata": {"name": object_name(attempt), "labels": labels}, "spec": {}})
    assert isinstance(site.cluster.launch(attempt), Refused)
    site.cluster.remove(attempt.key)
    assert site.job(attempt) is not None


def test_waits_for_one_of_its_name_that_is_being_removed(site: Site) -> None:
    attempt = site.launched()
    site.fake.change("jobs", object_name(attempt), lambda job: job["metadata"].update(deletionTimestamp=faults.now()))
    answer = site.cluster.launch(attempt)
    assert isinstance(answer, Wait)
    assert "still being removed" in answer.reason.text
    assert answer.resource not in ("", "gpu", "slot", "disk")  # holds nobody else back


def test_a_job_made_with_other_settings_is_the_same_attempt(site: Site) -> None:
    attempt = site.launched()
    other = site.new_cluster(priority_class="high")
    assert isinstance(other.launch(attempt), Launched)
    assert len(site.fake.all("jobs")) == 1
    other.close()


def test_a_full_quota_lets_it_wait_without_asking_again_and_again(site: Site) -> None:
    site.fake.script("create", "jobs", faults.status(403, "Forbidden", QUOTA), times=100)
    attempt = site.attempt(gpus=1)
    for _ in range(5):
        answer = site.cluster.launch(attempt)
    assert isinstance(answer, Wait)
    assert (answer.reason.code, answer.resource, answer.retry_after) == (Code.QUOTA, "gpu", 30.0)
    assert "5 of 5 in use" in answer.reason.text
    assert "exceeded quota" in answer.reason.raw
    assert site.fake.count("create") == 1
    assert isinstance(site.cluster.launch(site.attempt()), Wait)  # one without GPUs is tried
    assert site.fake.count("create") == 2


def test_a_full_quota_is_tried_again_when_something_was_removed(site: Site) -> None:
    done = site.launched()
    site.fake.script("create", "jobs", faults.status(403, "Forbidden", QUOTA))
    attempt = site.attempt()
    assert isinstance(site.cluster.launch(attempt), Wait)
    site.cluster.remove(done.key)
    assert isinstance(site.cluster.launch(attempt), Launched)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.status(422, "Invalid", 'Job.batch "x" is invalid: spec.x: Required value'), "spec.x: Required value"),
        (faults.status(400, "BadRequest", 'strict decoding error: unknown field "spec.y"'), 'unknown field "spec.y"'),
        (faults.status(403, "Forbidden", WEBHOOK), "image is not signed"),
        (faults.status(400, "BadRequest", WEBHOOK), "image is not signed"),
        (
            faults.status(422, "Invalid", "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no queue"),
            "no queue",
        ),
    ],
)
def test_what_the_cluster_will_never_take_is_refused_with_its_sentence(
    site: Site, fault: faults.Fault, says: str
) -> None:
    site.fake.script("create", "jobs", fault)
    answer = site.cluster.launch(site.attempt())
    assert isinstance(answer, Refused)
    assert says in answer.reason.text
    assert says in answer.reason.raw


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.status(403, "Forbidden", 'User "p" cannot create resource "jobs"'), "lacks a right"),
        (faults.status(404, "NotFound", "not found", {"kind": "namespaces"}), "namespace does not exist"),
        (faults.status(403, "Forbidden", "cannot: because it is being terminated"), "namespace is being deleted"),
        (faults.status(401, "Unauthorized", "Unauthorized"), "does not accept the portal's credential"),
    ],
)  # fmt: skip
def test_what_the_operator_has_to_mend_keeps_the_job_queued(site: Site, fault: faults.Fault, says: str) -> None:
    site.fake.script("create", "jobs", fault)
    with pytest.raises(ClusterError) as raised:
        site.cluster.launch(site.attempt())
    assert says in raised.value.text
    assert (raised.value.retry_after or 0) >= 29
    assert says in site.cluster.health().error


def test_health_is_well_again_when_it_works_again(site: Site) -> None:
    site.fake.script("create", "jobs", faults.status(403, "Forbidden", "no"))
    with pytest.raises(ClusterError):
        site.cluster.launch(site.attempt())
    assert site.cluster.health().error
    site.launched()
    assert site.cluster.health().error == ""


def test_a_job_that_cannot_be_said_to_this_cluster_is_refused_without_asking_it(site: Site) -> None:
    answer = site.cluster.launch(site.attempt(gpus=1, gpu_types=("H100",)))
    assert isinstance(answer, Refused)
    assert "H100" in answer.reason.text
    assert site.fake.count("create") == 0


def test_just_made_is_starting_though_the_copy_does_not_show_it(site: Site, fake: FakeKubernetes) -> None:
    fake.script("create", "jobs", _unseen, times=1)
    attempt = site.launched()
    for _ in range(20):
        assert site.phase(attempt) is Phase.STARTING
        time.sleep(0.01)


def _unseen(handler: faults.Handler, request: faults.Request) -> bool:
    """Made, and no watch tells of it for now."""
    assert request.body is not None
    made = handler.server.fake.put(request.kind, request.body, quiet=True)
    handler.reply(201, json.dumps(made).encode())
    return True


def test_a_late_request_cannot_start_what_was_stopped(site: Site) -> None:
    site.fake.script("create", "jobs", faults.late(0.5))
    attempt = site.attempt()
    with pytest.raises(ClusterError):
        site.cluster.launch(attempt)
    until(lambda: _stop(site, attempt))
    placeholder = site.job(attempt)
    assert placeholder is not None
    assert PLACEHOLDER in placeholder["metadata"]["labels"]
    assert (placeholder["spec"]["completions"], placeholder["spec"]["parallelism"]) == (0, 0)
    assert placeholder["spec"]["ttlSecondsAfterFinished"] == 300
    assert site.observe(attempt) is None
    time.sleep(0.8)
    assert site.job(attempt) == placeholder
    assert site.observe(attempt) is None
    assert site.cluster.owned() == frozenset()
    site.cluster.remove(attempt.key)
    assert site.job(attempt) == placeholder  # the cluster removes it, when no request can be under way any more


def test_where_no_placeholder_is_allowed_a_stop_is_not_called_done(site: Site) -> None:
    site.fake.script("create", "jobs", faults.late(0.4))
    attempt = site.attempt()
    with pytest.raises(ClusterError):
        site.cluster.launch(attempt)
    site.fake.script("create", "jobs", faults.status(403, "Forbidden", WEBHOOK), times=100)
    until(lambda: "not known yet" in _complaint(site, attempt))
    until(lambda: site.fake.asked("delete", "jobs"), "the late one is not deleted")
    until(lambda: site.observe(attempt) is None)


def _complaint(site: Site, attempt: Attempt) -> str:
    try:
        site.cluster.stop(attempt.key)
    except ClusterError as error:
        return error.text
    return ""


def _stop(site: Site, attempt: Attempt) -> bool:
    try:
        site.cluster.stop(attempt.key)
    except ClusterError:
        return False
    return True


def test_one_that_comes_after_its_stop_in_another_worker_is_ended_at_once(site: Site) -> None:
    attempt = site.attempt()
    site.cluster.stop(attempt.key)
    other = site.new_cluster()
    other.launch(attempt)  # as a request of a killed worker would come
    until(lambda: site.job(attempt) is None, "it is not ended")
    assert isinstance(site.cluster.launch(attempt), Refused)
    other.close()
