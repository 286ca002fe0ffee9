"""The harness itself: what the other tests of this folder take for granted, and what a page of docs says is real."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.real.cluster.api import Thing
from tests.real.cluster.cluster import Cluster, Namespace
from tests.real.cluster.errors import Refused
from tests.real.cluster.wait import eventually

SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RANK = """
import os, socket, time
first = os.environ["FIRST"]
if os.environ["JOB_COMPLETION_INDEX"] == "0":
    with socket.create_server(("", 2222)) as server:
        server.accept()[0].sendall(b"hello from the first")
else:
    while True:
        try:
            print(socket.create_connection((first, 2222), 5).recv(100).decode())
            break
        except OSError:
            time.sleep(0.1)
"""


def pod_spec(image: str, command: list[str], resources: dict[str, str] | None = None, **more: Any) -> Thing:
    """A pod that the restricted level lets through."""
    container = {
        "name": "main",
        "image": image,
        "command": command,
        "securityContext": SAFE,
        "resources": {"limits": resources or {}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        **more,
    }


def pod(name: str, spec: Thing) -> Thing:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def job(name: str, spec: Thing, ranks: int = 1) -> Thing:
    template = {"metadata": {"labels": {"job": name}}, "spec": spec}
    wanted = {"completions": ranks, "parallelism": ranks, "completionMode": "Indexed", "backoffLimit": 0}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": wanted | {"template": template},
    }


def headless(name: str) -> Thing:
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job": name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def phase(wanted: str) -> Any:
    return lambda pod: pod["status"]["phase"] == wanted


def completed(job: Thing) -> bool:
    return any(each["type"] == "Complete" and each["status"] == "True" for each in job["status"].get("conditions", []))


def test_has_a_node_that_is_ready(cluster: Cluster) -> None:
    nodes = cluster.api.get("/api/v1/nodes")["items"]
    assert nodes
    for node in nodes:
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"


def test_a_pod_prints_and_its_log_can_be_read_with_the_rights_of_the_portal(namespace: Namespace) -> None:
    namespace.apply(pod("speaks", pod_spec(namespace.images.python, ["python3", "-c", "print('Grüße', 6 * 7)"])))
    namespace.wait("pod", "speaks", phase("Succeeded"))
    assert namespace.as_portal("get", "--raw", f"/api/v1/namespaces/{namespace.name}/pods/speaks/log") == "Grüße 42\n"


def test_python_has_what_jobs_use(namespace: Namespace) -> None:
    imports = "import bz2, ctypes, decimal, json, lzma, multiprocessing, socket, sqlite3, ssl, threading, zlib"
    script = f"id -u && python3 -c '{imports}; print(ssl.OPENSSL_VERSION)' && touch file && ls"
    namespace.apply(pod("tools", pod_spec(namespace.images.python, ["sh", "-c", script])))
    namespace.wait("pod", "tools", phase("Succeeded"))
    assert re.fullmatch(r"1000\nOpenSSL .*\nfile\n", namespace.logs("tools"))


@pytest.mark.gpus(8)
def test_two_ranks_with_four_gpus_each_find_each_other_by_name(namespace: Namespace) -> None:
    first = {"name": "FIRST", "value": "gang-0.gang"}
    spec = pod_spec(namespace.images.python, ["python3", "-c", RANK], {"nvidia.com/gpu": "4"}, subdomain="gang")
    spec["containers"][0]["env"] = [first]
    namespace.apply([headless("gang"), job("gang", spec, ranks=2)])
    namespace.wait("job", "gang", completed)
    second = next(
        each["metadata"]["name"] for each in namespace.pods("job=gang") if "gang-1-" in each["metadata"]["name"]
    )
    assert namespace.logs(second) == "hello from the first\n"


@pytest.mark.owns_node
def test_gpus_are_counted(cluster: Cluster, namespace: Namespace) -> None:
    cluster.set_gpus(8)
    spec = pod_spec(namespace.images.busybox, ["sleep", "600"], {"nvidia.com/gpu": "4"})
    namespace.apply([pod(name, spec) for name in ("one", "two")])
    for name in ("one", "two"):
        namespace.wait("pod", name, phase("Running"))
    namespace.apply(pod("three", spec))

    def refused(pod: Thing) -> bool:
        return any(
            "Insufficient nvidia.com/gpu" in each.get("message", "") for each in pod["status"].get("conditions", [])
        )

    namespace.wait("pod", "three", refused)
    namespace.kubectl("delete", "pod", "one", "--wait=false")
    namespace.wait("pod", "three", phase("Running"))


def test_the_restricted_level_refuses_a_privileged_pod(namespace: Namespace) -> None:
    spec = pod_spec(namespace.images.busybox, ["true"])
    spec["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(Refused, match='violates PodSecurity "restricted:latest": privileged'):
        namespace.apply(pod("privileged", spec))


def test_a_container_as_root_does_not_start(namespace: Namespace) -> None:
    spec = pod_spec(namespace.images.root, ["true"])
    del spec["securityContext"]["runAsUser"]
    namespace.apply(pod("root", spec))

    def waits(pod: Thing) -> bool:
        states = [each["state"].get("waiting", {}) for each in pod["status"].get("containerStatuses", [])]
        return any(state.get("reason") == "CreateContainerConfigError" for state in states)

    namespace.wait("pod", "root", waits)


def test_an_image_that_does_not_exist_is_told(namespace: Namespace) -> None:
    namespace.apply(pod("missing", pod_spec(namespace.images.missing, ["true"])))

    def waits(pod: Thing) -> bool:
        states = [each["state"].get("waiting", {}) for each in pod["status"].get("containerStatuses", [])]
        return any(state.get("reason") in ("ErrImagePull", "ImagePullBackOff") for state in states)

    namespace.wait("pod", "missing", waits)


def test_a_quota_refuses_what_exceeds_it(namespace: Namespace) -> None:
    hard = {"requests.nvidia.com/gpu": "4"}
    namespace.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}})
    namespace.wait("resourcequota", "few", lambda quota: "used" in quota.get("status", {}))
    spec = pod_spec(namespace.images.busybox, ["true"], {"nvidia.com/gpu": "5"})
    with pytest.raises(Refused, match=r"exceeded quota: few.*limited: requests.nvidia.com/gpu=4"):
        namespace.apply(pod("many", spec))


def test_a_container_that_exceeds_its_memory_is_killed(namespace: Namespace) -> None:
    hungry = "import time\nhoard = []\nwhile True: hoard.append(bytearray(b'x') * 2**20)"
    namespace.apply(pod("hungry", pod_spec(namespace.images.python, ["python3", "-c", hungry], {"memory": "64Mi"})))
    ended = namespace.wait("pod", "hungry", phase("Failed"))["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_shared_memory_has_the_size_that_was_asked_for(namespace: Namespace) -> None:
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}}]
    command = ["sh", "-c", "df -m /dev/shm | tail -1"]
    spec = pod_spec(namespace.images.busybox, command, {"memory": "64Mi"}, volumes=volumes)
    spec["containers"][0]["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    namespace.apply(pod("shm", spec))
    namespace.wait("pod", "shm", phase("Succeeded"))
    assert namespace.logs("shm").split()[1] == "32"


def test_the_portal_may_do_what_its_role_says_and_no_more(namespace: Namespace) -> None:
    may = json.loads(namespace.as_portal("get", "pods", "--output", "json"))
    assert may["items"] == []
    for forbidden in (("get", "secrets"), ("get", "nodes"), ("get", "pods", "--namespace", "default")):
        with pytest.raises(Refused, match="forbidden"):
            namespace.as_portal(*forbidden)
    namespace.let_read_nodes()
    assert eventually("nodes may be read", lambda: namespace.as_portal("get", "nodes", "--output", "name"))


@pytest.mark.owns_node
def test_the_audit_log_tells_who_asked_for_what(cluster: Cluster, namespace: Namespace) -> None:
    mark = cluster.audit_mark()
    namespace.as_portal("get", "pods")
    with pytest.raises(Refused):
        namespace.as_portal("get", "secrets")
    seen = [
        (each.verb, each.resource, each.code) for each in cluster.audit(mark, user=namespace.user) if each.namespace
    ]
    assert seen == [("list", "pods", 200), ("list", "secrets", 403)]
    assert cluster.audit(cluster.audit_mark(), user=namespace.user) == []


@pytest.mark.owns_node
@pytest.mark.parametrize("politely", [True, False])
def test_pods_run_on_while_the_api_server_restarts(cluster: Cluster, namespace: Namespace, politely: bool) -> None:
    namespace.apply(pod("runs", pod_spec(namespace.images.busybox, ["sh", "-c", "while sleep 0.1; do echo .; done"])))
    namespace.wait("pod", "runs", phase("Running"))
    cluster.stop_api_server(politely=politely)
    with pytest.raises(OSError):
        cluster.api.get("/version")
    cluster.start_api_server()
    before = namespace.logs("runs")
    eventually("the pod prints on", lambda: len(namespace.logs("runs")) > len(before))
    assert namespace.get("pod", "runs")["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.owns_node
def test_a_frozen_api_server_answers_nobody_and_then_everybody(cluster: Cluster) -> None:
    cluster.freeze_api_server()
    began = time.monotonic()
    with pytest.raises(Refused):
        cluster.kubectl("get", "nodes", "--request-timeout=1s")
    assert time.monotonic() - began > 0.9
    cluster.thaw_api_server()
    eventually("it answers", lambda: cluster.api.get("/version"))


@pytest.mark.owns_node
def test_a_pod_outlives_the_kubelet(cluster: Cluster, namespace: Namespace) -> None:
    namespace.apply(pod("ends", pod_spec(namespace.images.busybox, ["sh", "-c", "sleep 2; echo done; exit 3"])))
    namespace.wait("pod", "ends", phase("Running"))
    cluster.stop_kubelet()
    time.sleep(2)
    assert namespace.get("pod", "ends")["status"]["phase"] == "Running"  # nobody reports its end
    cluster.start_kubelet()
    ended = namespace.wait("pod", "ends", phase("Failed"))
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert namespace.logs("ends") == "done\n"
