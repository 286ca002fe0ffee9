"""What is asked for beside the watches: why something does not get on, and how many GPUs there are."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.cluster.kubernetes.manifests import GpuType
from app.cluster.kubernetes.watch import Pace
from app.cluster.protocol import Code, GpuPool, Phase
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.fake import FakeKubernetes, Object, now
from tests.cluster.kubernetes.site import FAST, Site, until

QUOTA = "Error creating: pods is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"  # noqa: E501


def event(about: Object, reason: str, message: str, name: str = "e1") -> Object:
    return {
        "metadata": {"name": name},
        "involvedObject": {"uid": about["metadata"]["uid"], "kind": about["kind"]},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "firstTimestamp": now(),
        "lastTimestamp": now(),
    }


def test_one_that_does_not_get_on_is_asked_about(site: Site) -> None:
    attempt = site.launched()
    job = site.job(attempt)
    assert job is not None
    site.fake.put("events", event(job, "FailedCreate", QUOTA))
    until(lambda: (seen := site.observe(attempt)) is not None and seen.reason.code is Code.QUOTA)
    seen = site.observe(attempt)
    assert seen is not None
    assert "8 of 8" in seen.reason.text
    # it is kept, though the cluster forgets it
    site.fake.take_away("events", "e1")
    time.sleep(0.5)
    again = site.observe(attempt)
    assert again is not None
    assert again.reason.code is Code.QUOTA


def test_one_that_gets_on_is_not_asked_about(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    before = site.fake.count("list", "events")
    for _ in range(20):
        site.observe(attempt)
        time.sleep(0.02)
    assert site.fake.count("list", "events") - before <= 4
    site.finish(attempt, pod)


def test_asked_about_at_most_each_ten_seconds(fake: FakeKubernetes, make_site: Callable[[Pace], Site]) -> None:
    site = make_site(Pace(apart=0.05, silence=5))
    attempts = [site.launched() for _ in range(5)]
    end = time.monotonic() + 3  # 60 s of its time
    while time.monotonic() < end:
        for attempt in attempts:
            site.observe(attempt)
        time.sleep(0.02)
    asked = [request.query["fieldSelector"] for request in fake.asked("list", "events")]
    assert len(set(asked)) == 5
    assert all(asked.count(each) <= 6 for each in asked)


def test_what_the_cluster_can_say_about_an_end_is_asked_for_before_it_is_final(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    found = site.fake.get("pods", pod)
    assert found is not None
    site.fake.put("events", event(found, "NodeNotReady", "Node is not ready"))
    site.end_pod(pod, 1)
    site.end_job(attempt, "Failed", "BackoffLimitExceeded")
    seen = site.until_phase(attempt, Phase.ENDED)
    assert seen is not None
    assert any("stopped answering" in note.text for note in seen.notes)


def test_events_that_may_not_be_read_are_done_without(site: Site) -> None:
    site.fake.script("list", "events", faults.status(403, "Forbidden", "no"), times=1000)
    attempt = site.launched()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert site.phase(attempt) is Phase.STARTING
        time.sleep(0.02)
    assert site.fake.count("list", "events") <= 2
    assert site.cluster.health().error == ""


def node(name: str, gpus: int, product: str = "", ready: str = "True", closed: bool = False) -> Object:
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product} if product else {}},
        "spec": {"unschedulable": closed},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "8"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def test_gpus_are_counted_by_type_and_what_ours_hold_is_not_free(fake: FakeKubernetes) -> None:
    for each in (
        node("node-1", 8, "H100"),
        node("n2", 4, "H100"),
        node("n3", 8, "A100"),
        node("n4", 8, "A100", ready="Unknown"),
        node("n5", 8, "A100", closed=True),
        node("n6", 0),
    ):
        fake.put("nodes", each)
    site = Site(fake, FAST, gpu_types={"H100": GpuType.of_product("H100"), "A100": GpuType.of_product("A100")})
    attempt = site.launched(gpus=3, gpu_types=("H100",))
    site.running_pod(attempt)
    until(lambda: any(pool.used for pool in site.cluster.capacity().gpus))
    capacity = site.cluster.capacity()
    assert capacity.gpus == (GpuPool("A100", 8, 0, 8, 8), GpuPool("H100", 12, 3, 9, 5))
    assert (capacity.nodes, capacity.sees_all_pods, capacity.cpu_slots) == (4, False, None)
    site.close()


def test_types_that_nobody_named_are_found_on_the_nodes(site: Site) -> None:
    site.fake.put("nodes", node("n1", 2, "L40S"))
    site.fake.put("nodes", node("n2", 3))
    site.cluster._nodes_due = 0
    site.cluster._chore.set()
    until(lambda: len(site.cluster.capacity().gpus) == 2)
    assert [(pool.type, pool.total) for pool in site.cluster.capacity().gpus] == [("GPU", 3), ("L40S", 2)]


def test_where_nodes_may_not_be_seen_the_operators_numbers_hold(fake: FakeKubernetes) -> None:
    fake.script("list", "nodes", faults.status(403, "Forbidden", "no"), times=1000)
    site = Site(fake, FAST, gpu_types={"H100": GpuType.of_product("H100")})
    site.cluster._totals = {"H100": 16}
    attempt = site.launched(gpus=4, gpu_types=("H100",))
    site.running_pod(attempt)
    until(lambda: any(pool.used for pool in site.cluster.capacity().gpus))
    assert site.cluster.capacity().gpus == (GpuPool("H100", 16, 4, 12, 12),)
    assert site.cluster.capacity().nodes is None
    time.sleep(0.5)
    assert fake.count("list", "nodes") == 1
    assert site.cluster.health().error == ""
    site.close()


def test_a_pod_that_ended_holds_nothing(site: Site) -> None:
    site.fake.put("nodes", node("node-1", 8))
    attempt = site.launched(gpus=4)
    pod = site.running_pod(attempt)
    until(lambda: any(pool.used == 4 for pool in site.cluster.capacity().gpus))
    site.finish(attempt, pod)
    until(lambda: not any(pool.used for pool in site.cluster.capacity().gpus))
