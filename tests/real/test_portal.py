"""The whole portal with a real Kubernetes: asked by its API, while its processes and the cluster's are ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.clusters import service as clusters
from app.clusters.models import ClusterRow
from app.database import db, now
from tests.crash.portals import wait_for
from tests.real.cluster.cluster import Cluster, Namespace
from tests.real.portals import LINES, Real, once, portal_for_many, states

CONTENT = """
import random
chance = random.Random(11)
head = b'\\x1b[1;31mred\\x1b[0m\\n' + b''.join(b'\\r%3d%%' % n for n in range(101))
head += b'\\nnot UTF-8: \\xff\\xfe\\xc3(\\xe2\\x82\\n'
body = b''.join(chance.randbytes(chance.choice([0, 1, 80, 9000, 40000])) + b'\\n' for _ in range(700))[:5_000_000]
# containerd drops a carriage return before an end of line: nobody can read it
content = head + body.replace(b'\\r\\n', b'\\n').replace(b'\\r\\n', b'\\n') + b'\\nno newline at the end'
"""
PRINT_IT = """
import os, sys, time
while not os.path.exists('/tmp/go'): time.sleep(0.1)
sys.stdout.buffer.write(content)
"""
MEET = """
import os, socket, time
rank, port = os.environ['NODE_RANK'], int(os.environ['MASTER_PORT'])
print('rank', rank, 'of', os.environ['NNODES'], 'with', os.environ['GPUS'], 'GPUs')
if rank == '0':
    with socket.create_server(('', port)) as server:
        peer, _ = server.accept()
        with peer:
            print('got', peer.recv(100).decode())
            peer.sendall(b'welcome')
else:
    while True:
        try:
            peer = socket.create_connection((os.environ['MASTER_ADDR'], port), 5)
            break
        except OSError:
            time.sleep(0.1)
    with peer:
        peer.sendall(b'hello from rank 1')
        print('got', peer.recv(100).decode())
"""
WAIT = "trap 'echo stopped; exit 143' TERM; echo ready; while true; do sleep 0.1; done"


DATABASE = "postgresql"  # as in production


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    real_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Real]:
    """A portal that the tests of this module share: each has jobs with names of its own, and leaves none."""
    folder = tmp_path_factory.mktemp("real")
    with portal_for_many(request, real_cluster, "portal", folder, DATABASE) as portal:
        yield portal


@pytest.fixture
def namespace(cluster: Cluster, served: Real) -> Namespace:
    """The shared portal's, so that the report of a failure shows it."""
    return served.namespace


@pytest.fixture
def portal(namespace: Namespace, served: Real) -> Iterator[Real]:
    """The shared portal, which serves: registered by the operator's command while it ran."""
    if served.main is None:
        served.serve()
        done = served.command(*served.registration)
        assert done.returncode == 0, done.stdout + done.stderr
        assert namespace.kubeconfig not in done.stdout
    yield served
    served.tidy()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_job_runs_and_its_log_is_what_the_pod_printed_byte_for_byte(portal: Real) -> None:
    space: dict[str, bytes] = {}
    exec(CONTENT, space)
    portal.launch("exact", ["python3", "-c", CONTENT + PRINT_IT])
    job = portal.until("exact", "running")
    assert (job["reason"]["code"], job["cluster"], job["exit_code"]) == ("running", "real", None)
    portal.open_gate("exact")
    job = portal.until("exact", "succeeded")
    assert (job["exit_code"], job["reason"]["code"]) == (0, "succeeded")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert states(job) == ["queued", "starting", "running", "succeeded"]
    log, gap = portal.log("exact")
    assert len(log) == len(space["content"]) > 4_000_000
    assert log == space["content"]
    assert gap == ""
    portal.until_clean("exact")
    assert portal.log("exact") == (log, ""), "it outlives the pod"


def test_exit_codes_are_those_of_the_program(portal: Real) -> None:
    wanted = {"exit-3": ("exit 3", 3), "exit-127": ("no-such-command", 127), "exit-255": ("exit 255", 255)}
    for name, (command, _) in wanted.items():
        portal.launch(name, f"printf broken; {command}")
    for name, (_, code) in wanted.items():
        job = portal.until(name, "failed")
        assert (job["exit_code"], job["reason"]["code"]) == (code, "exit_code")
        assert f"exit code {code}" in job["reason"]["text"]
        assert b"broken" in portal.log(name)[0]
    portal.until_clean(*wanted)


def test_a_job_is_stopped_at_its_time_limit_and_what_it_said_is_kept(portal: Real) -> None:
    portal.launch("limited", WAIT, max_runtime="4s")
    job = portal.until("limited", "failed")
    assert (job["reason"]["code"], job["reason"]["text"]) == ("time_limit", "Stopped at its time limit of 4 s.")
    assert moment(job["finished_at"]) - moment(job["started_at"]) >= timedelta(seconds=4)
    log, gap = portal.log("limited")
    assert log == b"ready\nstopped\n" or (gap and b"ready\nstopped\n".startswith(log))
    portal.until_clean("limited")


def test_a_stop_removes_every_object(portal: Real) -> None:
    portal.launch("stopped", WAIT, nodes=2)
    portal.until("stopped", "running")
    portal.until_archived("stopped", b"ready\n", rank=1)
    kinds = sorted(name.split("/")[0] for name in portal.objects("stopped"))
    assert kinds == ["job.batch", "pod", "pod", "service"]
    portal.stop("stopped")
    job = portal.until("stopped", "cancelled")
    assert (job["reason"]["code"], job["reason"]["text"]) == ("stopped", "Stopped by bob.")
    portal.until_clean("stopped")
    for rank in (0, 1):
        log, gap = portal.log("stopped", rank)
        assert log == b"ready\nstopped\n" or (gap and b"ready\nstopped\n".startswith(log))


def test_a_job_that_uses_too_much_memory_is_told_so(portal: Real) -> None:
    portal.launch("greedy", ["python3", "-c", "print('more'); kept = b'x' * (300 << 20)"])
    job = portal.until("greedy", "failed")
    assert (job["reason"]["code"], job["exit_code"]) == ("out_of_memory", 137)
    assert job["reason"]["text"] == "It used more than its 64 MiB of memory and was killed."
    assert portal.log("greedy") == (b"more\n", "")
    portal.until_clean("greedy")


def test_more_gpus_than_a_node_has_free_are_waited_for_with_a_sentence(portal: Real) -> None:
    portal.launch("many", "true", gpus=900)
    job = portal.until_because("many", "no_free_gpu")
    assert job["state"] == "starting"
    assert job["reason"]["text"].startswith("No node has 900 free GPUs (")
    assert "Insufficient nvidia.com/gpu" in job["reason"]["raw"]
    portal.stop("many")
    assert portal.until("many", "cancelled")["started_at"] is None
    portal.until_clean("many")
    assert portal.log("many") == (b"", "")


def test_an_image_that_is_nowhere_is_told_with_what_the_node_says(portal: Real) -> None:
    image = portal.namespace.images.missing
    answer = portal.request("POST", "/api/jobs", {"preset": "missing", "name": "imageless"})
    assert answer.status == 201, answer.body
    job = portal.until_because("imageless", "image")
    assert job["state"] == "starting"
    assert job["reason"]["text"].startswith((f"Image {image} ", f"The registry of image {image} "))
    assert job["reason"]["raw"]
    portal.stop("imageless")
    portal.until("imageless", "cancelled")
    portal.until_clean("imageless")


def test_a_full_quota_is_told_and_waited_for_and_waiting_counts_against_no_time_limit(portal: Real) -> None:
    spec = {"hard": {"count/jobs.batch": "1", "requests.nvidia.com/gpu": "0"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none-left"}, "spec": spec}
    portal.namespace.apply([quota])
    portal.namespace.wait("resourcequota", "none-left", lambda each: "hard" in each.get("status", {}))
    portal.launch("podless", "echo at last", gpus=1, max_runtime="5s")
    first = portal.until_because("podless", "quota")
    assert first["state"] == "starting"
    portal.launch("jobless", "echo at last")
    second = portal.until_because("jobless", "quota")
    assert second["state"] == "queued"
    for job in (first, second):
        assert "quota" in job["reason"]["text"]
        assert "none-left" in job["reason"]["raw"]
    over = moment(portal.job("podless")["created_at"]) + timedelta(seconds=6)
    wait_for(lambda: now() > over, "the time limit, had it counted")
    assert portal.job("podless")["state"] == "starting"
    portal.namespace.kubectl("delete", "resourcequota", "none-left")
    for name in ("podless", "jobless"):
        assert portal.until(name, "succeeded")["started_at"]
        assert portal.log(name) == (b"at last\n", "")
    portal.until_clean("podless", "jobless")


@pytest.mark.gpus(8)
def test_two_nodes_with_four_gpus_each_meet_by_name(portal: Real) -> None:
    portal.launch("gang", ["python3", "-c", MEET], nodes=2, gpus=4)
    job = portal.until("gang", "succeeded")
    assert (job["nodes"], job["gpus"], job["exit_code"]) == (2, 4, 0)
    assert portal.log("gang", 0) == (b"rank 0 of 2 with 4 GPUs\ngot hello from rank 1\n", "")
    assert portal.log("gang", 1) == (b"rank 1 of 2 with 4 GPUs\ngot welcome\n", "")
    portal.until_clean("gang")


def test_a_job_that_another_hand_removed_is_lost_with_a_sentence(portal: Real) -> None:
    portal.launch("removed", WAIT)
    portal.until("removed", "running")
    portal.until_archived("removed", b"ready\n")
    uid = portal.portal.job("removed").uid
    portal.namespace.kubectl("delete", "jobs", "-l", f"simpletrain.io/job={uid}", "--wait=false")
    job = portal.until("removed", "lost")
    assert job["reason"]["code"] == "removed"
    assert job["reason"]["text"] == "It was removed on the cluster, outside the portal."
    portal.until_clean("removed")
    assert portal.log("removed")[0].startswith(b"ready\n")


def test_killed_web_and_worker_change_nothing_for_a_job(portal: Real) -> None:
    portal.launch("survivor", LINES)
    portal.until("survivor", "running")
    portal.until_archived("survivor", b"line 5\n")
    worker, web = portal.kill("worker"), portal.kill("web")
    wait_for(lambda: portal.child("worker") != worker and portal.child("web") != web, "others in their places")
    before = portal.job("survivor")
    assert before["state"] == "running"
    portal.until_archived("survivor", b"line 60\n")
    portal.open_gate("survivor")
    job = portal.until("survivor", "succeeded")
    once(job)
    assert portal.printed_lines("survivor") >= 60
    portal.until_clean("survivor")


def test_a_job_that_ended_while_nothing_of_the_portal_ran_keeps_its_own_end(portal: Real) -> None:
    portal.launch("alone", f"{LINES}; exit 7")
    portal.until("alone", "running")
    portal.until_archived("alone", b"line 3\n")
    portal.kill_all()
    portal.open_gate("alone")
    (pod,) = portal.pods_of("alone")
    portal.namespace.wait("pod", pod["metadata"]["name"], lambda each: each["status"]["phase"] == "Failed")
    portal.serve()
    job = portal.until("alone", "failed")
    once(job)
    assert (job["exit_code"], job["reason"]["code"]) == (7, "exit_code")
    assert portal.printed_lines("alone") >= 3
    portal.until_clean("alone")


@pytest.mark.owns_node
def test_an_api_server_that_is_away_fails_no_job_and_the_pages_say_since_when(
    portal: Real, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.launch("patient", LINES)
    portal.until("patient", "running")
    portal.until_archived("patient", b"line 3\n")
    cluster.stop_api_server(politely=False)
    stopped_at = now()
    wait_for(lambda: row(portal).error, "the worker's word that the cluster does not answer")
    answered_at = row(portal).answered_at
    assert answered_at is not None and answered_at <= stopped_at + timedelta(seconds=1)
    assert portal.job("patient")["state"] == "running"
    assert clusters_of(portal) == {"real": None}, "not yet worth telling"
    with monkeypatch.context() as later:  # a web whose clock is ahead, with what the worker wrote
        later.setattr(clusters, "now", lambda: now() + timedelta(seconds=100))
        browser = portal.portal.browser("bob")
        assert browser.get("/orgs/lab/jobs/patient").status_code == 200
        assert "real has not answered since" in browser.text()
        seen = portal.portal.api("bob").get("/api/clusters").get_json()["clusters"]
        (told,) = [each["silent_since"] for each in seen if each["name"] == "real"]
        assert abs(moment(told) - answered_at) < timedelta(milliseconds=1)
    cluster.start_api_server()
    portal.open_gate("patient")
    job = portal.until("patient", "succeeded")
    once(job)
    assert states(job) == ["queued", "starting", "running", "succeeded"]
    assert portal.printed_lines("patient") >= 3
    wait_for(lambda: not row(portal).error, "the worker's word that it answers again")
    portal.until_clean("patient")


@pytest.mark.owns_node
def test_a_node_that_is_silent_for_a_while_fails_no_job(portal: Real, cluster: Cluster) -> None:
    portal.launch("quiet", LINES)
    portal.until("quiet", "running")
    portal.until_archived("quiet", b"line 3\n")
    cluster.stop_kubelet()
    wait_for(lambda: "Unknown" in readiness(cluster), "the cluster's notice that the node is silent", every=0.5)
    assert portal.job("quiet")["state"] == "running"
    cluster.start_kubelet()
    wait_for(lambda: readiness(cluster) == ["True"], "the node's return", every=0.5)
    portal.open_gate("quiet")
    job = portal.until("quiet", "succeeded")
    once(job)
    assert portal.printed_lines("quiet") >= 100
    portal.until_clean("quiet")


def row(portal: Real) -> ClusterRow:
    with portal.portal.app.app_context():
        found = db.session.query(ClusterRow).filter_by(name="real").one()
        db.session.expunge(found)
        return found


def clusters_of(portal: Real) -> dict[str, Any]:
    found = portal.request("GET", "/api/clusters").json["clusters"]
    return {each["name"]: each["silent_since"] for each in found if each["kind"] == "kubernetes"}


def readiness(cluster: Cluster) -> list[str]:
    nodes = cluster.api.get("/api/v1/nodes")["items"]
    found = [condition for node in nodes for condition in node["status"]["conditions"]]
    return [condition["status"] for condition in found if condition["type"] == "Ready"]
