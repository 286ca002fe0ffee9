"""The portal on a real Kubernetes, beside a bare client on the same API server in the same run."""

from __future__ import annotations

import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.rows import Row, milliseconds, quantile
from tests.bench.served import Client, Served
from tests.real.cluster import lifecycle, tenants
from tests.real.cluster.api import path
from tests.real.cluster.audit import Entry
from tests.real.cluster.cluster import Cluster
from tests.real.cluster.images import Images
from tests.real.cluster.place import Place

PORT = 7643  # the first of ten
TIMES = 20
PRESET = """
name: bench
image: {image}
command: echo hello
cpu: 10m
memory: 32Mi
shm: 8Mi
gpus: {{default: 0, max: 8}}
max_runtime: 1h
"""


def on_kubernetes() -> list[Row]:
    if why := lifecycle.hindrance():
        return [Row("on a real Kubernetes", f"left out: {why}")]
    with tempfile.TemporaryDirectory(prefix="st-bench-k8s-") as folder:
        place = Place.of(Path(folder) / "cluster", PORT)
        lifecycle.up(place, gpus=64, say=lambda _text: None)
        try:
            return _measured(Cluster(place.kubeconfig, Images(), place), Path(folder))
        finally:
            lifecycle.down(place)


def _measured(cluster: Cluster, folder: Path) -> list[Row]:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(tenants.create(cluster.api, "bench"))
    presets = folder / "presets.yaml"
    presets.write_text(PRESET.format(image=cluster.images.python))
    floor_pod, floor_running = _bare(cluster)
    with Served(folder / "portal", {"LOCAL_JOBS": "0"}) as portal:
        portal.command("orgs", "create", "bench")
        portal.command("users", "create", "me@example.org", "--org", "bench")
        portal.command("presets", "import", str(presets), "--org", "bench")
        portal.command(
            "clusters", "add", "real", "--kubeconfig", str(kubeconfig), "--namespace", "bench", "--gpus", "A=64"
        )
        api = portal.api("me@example.org")
        _wait(lambda: api.ask("GET", "/api/clusters").json()["clusters"][-1]["gpus"], 60)
        rows = _launches(cluster, api, floor_pod, floor_running)
        rows += _fifty(cluster, portal, api)
        rows += _viewers(cluster, portal, api)
    return rows


def _bare(cluster: Cluster) -> tuple[list[float], list[float]]:
    """Seconds from a Job's creation to its pod, and to the pod running, by a client that does nothing else."""
    to_pod, to_running = [], []
    for number in range(TIMES):
        name = f"bare-{number}"
        mark = cluster.audit_mark()
        cluster.api.post(path("job", namespace="bench"), _job(name, cluster.images.python))
        created = time.time()

        def pod(name: str = name) -> Any:
            found = cluster.api.get(f"{path('pod', namespace='bench')}?labelSelector=job-name={name}")["items"]
            return found[0] if found and found[0].get("status", {}).get("phase") in ("Running", "Succeeded") else None

        _wait(pod, 60)
        to_running.append(time.time() - created)
        to_pod.append(_at(_pod_made(cluster, mark, name)) - created)
    return to_pod, to_running


def _job(name: str, image: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", "echo hello; sleep 1"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}


def _launches(cluster: Cluster, api: Client, floor_pod: list[float], floor_running: list[float]) -> list[Row]:
    objects, pods, running, first, lines = [], [], [], [], []
    command = "import time\nfor _ in range(6): print(time.time(), flush=True); time.sleep(0.4)"
    for number in range(TIMES):
        name = f"one-{number}"
        mark = cluster.audit_mark()
        asked = {"preset": "bench", "name": name, "command": ["python3", "-c", command]}
        assert api.ask("POST", "/api/jobs", asked).status == 201
        acknowledged = time.time()
        state = _wait(lambda name=name: _state(api, name, ("running", "succeeded")), 60)  # type: ignore[misc]
        assert state
        running.append(time.time() - acknowledged)
        _wait(lambda name=name: api.ask("GET", f"/api/jobs/{name}/logs").body, 60)  # type: ignore[misc]
        first.append(time.time() - acknowledged)
        lines += _latencies(api, name)
        objects.append(_at(_made(cluster, mark, "jobs", name)) - acknowledged)
        pods.append(_at(_pod_made(cluster, mark, name)) - acknowledged)
    pod, run = statistics.median(floor_pod), statistics.median(floor_running)
    p50, p95 = statistics.median(objects), quantile(objects, 0.95)
    seen = statistics.median(lines)
    ack = "launch acknowledged to"
    bare_pod, bare_run = f"bare client: {milliseconds(pod)}", f"bare client, running: {milliseconds(run)}"
    rows = [
        Row(f"{ack} its object in the API server, p50", milliseconds(p50), "", None, "≤ 0.3 s", p50 <= 0.3),
        Row("the same, p95", milliseconds(p95), "", None, "≤ 1 s", p95 <= 1),
    ]
    for what, found, floor, base in (
        ("its pod object", pods, bare_pod, pod),
        ("running in the API", running, bare_run, run),
        ("its first line in the API", first, bare_run, run),
    ):
        middle = statistics.median(found)
        rows.append(Row(f"{ack} {what}, p50", milliseconds(middle), floor, middle / base))
    what = "line printed to seen in the API, p50; a page adds half its poll, 0.5 s"
    rows.append(Row(what, milliseconds(seen), "", None, "≤ 1.5 s", seen + 0.5 <= 1.5))
    return rows


def _latencies(api: Client, name: str) -> list[float]:
    """Seconds from the moment that each line says it was printed to the moment when the API gave it."""
    cursor, found = "", []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = api.ask("GET", f"/api/jobs/{name}/logs" + (f"?since={cursor}" if cursor else ""))
        if cursor:  # what was there at the first look says nothing
            found += [time.time() - float(line) for line in answer.body.split() if re.fullmatch(rb"\d+\.\d+", line)]
        cursor = answer.headers["Log-Cursor"]
        if answer.headers.get("Log-Complete"):
            break
        time.sleep(0.02)
    return found


def _fifty(cluster: Cluster, portal: Served, api: Client) -> list[Row]:
    mark = cluster.audit_mark()
    began = time.time()

    def one(number: int) -> None:
        client = Client(portal.port, dict(api.headers))
        assert (
            client.ask("POST", "/api/jobs", {"preset": "bench", "name": f"fifty-{number}", "command": "true"}).status
            == 201
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    acknowledged = time.time() - began

    def made() -> list[Entry] | None:
        found = [
            e
            for e in cluster.audit(mark, namespace="bench")
            if e.verb == "create" and e.resource == "jobs" and e.code == 201
        ]
        return found if len(found) >= 50 else None

    last = max(_at(entry) for entry in _wait(made, 120)) - began
    _wait(lambda: not api.ask("GET", "/api/jobs?state=active").json()["jobs"], 300)
    return [
        Row("50 launches at once, all acknowledged", f"{acknowledged:.2f} s"),
        Row("50 launches at once, all objects in the API server", f"{last:.2f} s"),
        Row("50 launches at once, all ended", f"{time.time() - began:.1f} s"),
    ]


def _viewers(cluster: Cluster, portal: Served, api: Client) -> list[Row]:
    command = "while true; do echo line; sleep 1; done"
    assert api.ask("POST", "/api/jobs", {"preset": "bench", "name": "watched", "command": command}).status == 201
    _wait(lambda: _state(api, "watched", ("running",)), 60)
    counts = []
    for viewers in (0, 200):
        end = time.monotonic() + 20
        mark = cluster.audit_mark()

        def watch(until: float = end) -> None:
            client = Client(portal.port, dict(api.headers))
            while time.monotonic() < until:
                client.ask("GET", "/api/jobs/watched")
                client.ask("GET", "/api/jobs/watched/logs")
                time.sleep(1)

        threads = [threading.Thread(target=watch) for _ in range(viewers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(max(0.0, end - time.monotonic()))
        counts.append(len(cluster.audit(mark, user=tenants.user("bench"))))
    api.ask("DELETE", "/api/jobs/watched")
    return [
        Row(
            "requests that the API server saw in 20 s with 0 and with 200 people who watch",
            f"{counts[0]} and {counts[1]}",
            reach="equal",
            reached=counts[1] <= counts[0] + 2,  # watches end and begin again at times of their own
        )
    ]


def _state(api: Client, name: str, wanted: tuple[str, ...]) -> str | None:
    state: str = api.ask("GET", f"/api/jobs/{name}").json()["state"]
    return state if state in wanted else None


def _made(cluster: Cluster, mark: int, resource: str, slug: str) -> Entry:
    def asked() -> Entry | None:
        for entry in cluster.audit(mark, namespace="bench"):
            if entry.verb == "create" and entry.resource == resource and entry.code == 201 and slug in entry.name:
                return entry
        return None

    found: Entry = _wait(asked, 30)
    return found


def _pod_made(cluster: Cluster, mark: int, slug: str) -> Entry:
    """A pod's own name stands in the log when the scheduler binds it, which it does at once."""

    def asked() -> Entry | None:
        made = [e for e in cluster.audit(mark, namespace="bench") if e.verb == "create" and e.resource == "pods"]
        return made[0] if made else None

    found: Entry = _wait(asked, 30)
    return found


def _at(entry: Entry) -> float:
    """When the API server had carried out a request, in seconds of the clock that all here share."""
    return datetime.fromisoformat(entry.raw["stageTimestamp"]).timestamp()


def _wait(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError("what was waited for did not come")
