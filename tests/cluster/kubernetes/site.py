"""A KubernetesCluster in front of the fake, in a hurry, and what a test does to the objects behind it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from app.cluster.kubernetes.cluster import KubernetesCluster
from app.cluster.kubernetes.kubeconfig import Credential
from app.cluster.kubernetes.manifests import KubernetesSettings
from app.cluster.kubernetes.names import INDEX, object_name
from app.cluster.kubernetes.watch import Pace
from app.cluster.protocol import Attempt, AttemptKey, ClusterError, JobSpec, Launched, LogSource, Observation, Phase
from tests.cluster.kubernetes.fake import NAMESPACE, FakeKubernetes, Object, conditions, now

INSTANCE = "4b6c1b7e-0000-4000-8000-000000000001"
FAST = Pace(apart=0.02, relist=30.0, silence=5.0)
PATIENCE = 10.0


T = TypeVar("T")


def until(ask: Callable[[], T], what: str = "it never came true", seconds: float = PATIENCE) -> T:
    end = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return found


class Site:
    def __init__(self, fake: FakeKubernetes, pace: Pace = FAST, start: bool = True, **settings: Any) -> None:
        self.fake = fake
        self.rings = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.cluster = self.new_cluster(pace, **settings)
        if start:
            self.cluster.start(self.ring)

    def new_cluster(self, pace: Pace = FAST, log_slots: int = 64, **settings: Any) -> KubernetesCluster:
        credential = Credential(self.fake.url, token="good", namespace=NAMESPACE)
        return KubernetesCluster(
            credential, KubernetesSettings(namespace=NAMESPACE, **settings), INSTANCE, pace=pace, log_slots=log_slots
        )

    def ring(self) -> None:
        with self._lock:
            self.rings += 1

    def close(self) -> None:
        self.cluster.close()

    def wait_for_a_look(self) -> None:
        def looked() -> bool:
            try:
                self.cluster.observe(AttemptKey("aaaaaaaa", 1))
            except ClusterError:
                return False
            return True

        until(looked, "the cluster is never listed")

    # attempts

    def attempt(self, nodes: int = 1, gpus: int = 0, **more: Any) -> Attempt:
        uid = f"job{next(self._numbers):05d}"
        spec = JobSpec(image="busybox", command="true", gpus=gpus, nodes=nodes, max_runtime=60, **more)
        return Attempt(AttemptKey(uid, 1), "digits", INSTANCE, "1", "2", spec)

    def launched(self, **more: Any) -> Attempt:
        attempt = self.attempt(**more)
        assert isinstance(self.cluster.launch(attempt), Launched)
        return attempt

    def job(self, attempt: Attempt) -> Object | None:
        return self.fake.get("jobs", object_name(attempt))

    def observe(self, attempt: Attempt) -> Observation | None:
        return self.cluster.observe(attempt.key)

    def phase(self, attempt: Attempt) -> Phase | None:
        seen = self.observe(attempt)
        return seen.phase if seen is not None else None

    def until_phase(self, attempt: Attempt, phase: Phase | None) -> Observation | None:
        until(lambda: self.phase(attempt) is phase, f"never {phase}, but {self.observe(attempt)}")
        return self.observe(attempt)

    # what the controllers and the kubelet would do

    def pod(self, attempt: Attempt, rank: int = 0, state: Object | None = None, phase: str = "Pending") -> str:
        job = self.job(attempt)
        assert job is not None
        name = f"{job['metadata']['name']}-{rank}-x{next(self._numbers)}"
        template = job["spec"]["template"]
        self.fake.put(
            "pods",
            {
                "metadata": {
                    "name": name,
                    "labels": {**template["metadata"]["labels"], INDEX: str(rank)},
                    "annotations": template["metadata"]["annotations"],
                    "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
                },
                "spec": {**template["spec"], "nodeName": "node-1"},
                "status": {"phase": phase, "containerStatuses": [{"name": "main", "state": state or {"waiting": {}}}]},
            },
        )
        return name

    def running_pod(self, attempt: Attempt, rank: int = 0) -> str:
        return self.pod(attempt, rank, {"running": {"startedAt": now()}}, "Running")

    def end_pod(self, name: str, code: int = 0) -> None:
        ended = {
            "exitCode": code,
            "startedAt": now(),
            "finishedAt": now(),
            "reason": "Completed" if not code else "Error",
        }

        def end(pod: Object) -> None:
            pod["status"] = {
                "phase": "Failed" if code else "Succeeded",
                "containerStatuses": [{"name": "main", "state": {"terminated": ended}}],
            }

        self.fake.change("pods", name, end)
        self.fake.log(name).end()

    def end_job(self, attempt: Attempt, kind: str = "Complete", reason: str = "", message: str = "") -> None:
        def end(job: Object) -> None:
            conditions(job, kind, reason, message)
            job["status"]["succeeded" if kind == "Complete" else "failed"] = 1

        self.fake.change("jobs", object_name(attempt), end)

    def finish(self, attempt: Attempt, name: str) -> None:
        self.end_pod(name)
        self.end_job(attempt)

    def pods_go(self, attempt: Attempt) -> None:
        """The garbage collector and the kubelet are done: the pods have gone, and the Job that waited for it."""
        for pod in self.fake.all("pods"):
            if pod["metadata"]["labels"]["simpletrain.io/job"] == attempt.key.job:
                self.fake.take_away("pods", pod["metadata"]["name"])
        job = self.job(attempt)
        if job is not None and job["metadata"].get("deletionTimestamp"):
            self.fake.take_away("jobs", job["metadata"]["name"])

    # logs

    def read_all(self, source: LogSource, seconds: float = PATIENCE, limit: int = 1 << 20) -> Printed:
        """Until it is complete."""
        printed = Printed()
        end = time.monotonic() + seconds
        while not printed.complete:
            assert time.monotonic() < end, f"never complete: {printed}"
            if not printed.take(source, limit):
                time.sleep(0.005)
        return printed


class Printed:
    def __init__(self) -> None:
        self.data = b""
        self.cursor = ""
        self.gaps: list[tuple[int, str]] = []  # before which byte, and why
        self.complete = False

    def take(self, source: LogSource, limit: int = 1 << 20) -> bool:
        piece = source.read(limit)
        if piece is None:
            return False
        assert len(piece.data) <= limit
        if piece.skipped is None:
            self.gaps.append((len(self.data), piece.skipped_why))
        self.data += piece.data
        self.cursor = piece.cursor
        self.complete = piece.complete
        return True

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes, ends {self.data[-60:]!r}, gaps {self.gaps}"
