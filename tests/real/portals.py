"""A whole portal, of real processes, whose jobs run on the real cluster."""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config import Config
from app.database import db
from app.jobs.models import Job
from tests.conftest import KEY, FurnishIn, Portal, furnishing
from tests.crash.portals import Answer, Served, wait_for
from tests.real import plugin
from tests.real.cluster import audit, tenants
from tests.real.cluster.api import Thing, path
from tests.real.cluster.cluster import Cluster, Namespace
from tests.real.cluster.errors import Refused
from tests.real.cluster.wait import eventually

LINES = "i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo line $i; sleep 0.1; done"  # until the gate opens
PRESETS = """
name: plain
image: {python}
cpu: 10m
memory: 64Mi
gpus: {{default: 0, max: 1000}}
nodes: {{default: 1, max: 4}}
max_runtime: 10m
clusters: [real]
---
name: missing
image: {missing}
command: "true"
cpu: 10m
memory: 64Mi
max_runtime: 10m
clusters: [real]
"""


class Real(Served):
    """A portal in a folder of its own, with one cluster: `real`. Bob is the caller."""

    def __init__(self, folder: Path, furnish_in: FurnishIn, namespace: Namespace, **settings: str) -> None:
        super().__init__(folder, **{"SECRET_KEY": KEY, "LOCAL_JOBS": "0", **settings})
        self.namespace = namespace
        if database_url := furnish_in(self.data):
            self.settings["DATABASE_URL"] = database_url
        app = create_app(Config.from_env(self.environment))
        self.portal = Portal(app, app.config["PORTAL"])
        self.token = self.portal.token("bob")
        self.registration = ["clusters", "add", "real", "--kubeconfig", str(namespace.kubeconfig_file)]
        self.registration += [
            "--namespace",
            namespace.name,
            "--gpus",
            "H100=5000",
        ]  # more than there are: the cluster says so, not the form
        presets = folder / "presets.yaml"
        presets.write_text(PRESETS.format(python=namespace.images.python, missing=namespace.images.missing))
        done = self.portal.command("presets", "import", str(presets), "--org", "lab")
        assert done.exit_code == 0, done.output

    def register(self) -> None:
        done = self.portal.command(*self.registration)
        assert done.exit_code == 0, done.output

    def without_web(self) -> None:
        """Requests are answered in this process."""
        self.inside = self.portal.app.test_client()

    def clean_up(self) -> None:
        super().clean_up()
        with self.portal.app.app_context():
            db.engine.dispose()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """While the web starts again, that is waited for."""

        def ask() -> Answer | None:
            with contextlib.suppress(ConnectionRefusedError):
                return super(Real, self).request(method, path, body, headers, timeout)
            return None

        return wait_for(ask, lambda: f"an answer of the web\n{self.said()}")

    # jobs

    def pods_of(self, name: str) -> list[Thing]:
        found = self.namespace.pods(f"simpletrain.io/job={self.portal.job(name).uid}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def open_gate(self, name: str) -> None:
        """The file for which a command waits, in every pod of the job."""
        for pod in self.pods_of(name):
            # a kubelet that has just started does not know its pods at once
            eventually(f"the gate of {name} opens", lambda pod=pod["metadata"]["name"]: self._opened(name, pod))  # type: ignore[misc]  # bound

    def _opened(self, name: str, pod: str) -> bool:
        try:
            return "open" in self.namespace.kubectl("exec", pod, "--", "sh", "-c", "touch /tmp/go; echo open")
        except Refused:
            # the answer may be lost when the command behind the gate ends at once: then the pod has gone on
            waits = {"Pending", "Running"}
            if any(each["metadata"]["name"] == pod and each["status"]["phase"] in waits for each in self.pods_of(name)):
                raise
            return True

    def archived(self, name: str, rank: int = 0) -> bytes:
        """The first MiB of what the portal has of a log so far."""
        return self.request("GET", f"/api/jobs/{name}/logs?rank={rank}").body

    def until_archived(self, name: str, wanted: bytes, rank: int = 0) -> None:
        wait_for(lambda: wanted in self.archived(name, rank), lambda: f"{wanted!r} in {self.archived(name, rank)!r}")

    def until_because(self, name: str, code: str) -> Any:
        def look() -> Any:
            job = self.job(name)
            return job if job["reason"]["code"] == code else None

        return wait_for(look, lambda: f"{name} {code}: {self.job(name)}\n{self.said()}")

    def objects(self, *names: str) -> list[str]:
        """What these jobs have on the cluster."""
        label = f"simpletrain.io/job in ({','.join(self.portal.job(name).uid for name in names)})"
        return self.namespace.kubectl("get", "jobs.batch,pods,services", "-l", label, "-o", "name").split()

    def until_clean(self, *names: str) -> None:
        """Nothing of these jobs is left on the cluster, and the portal knows it."""

        def clean() -> bool:
            return all(self.portal.job(name).settled for name in names) and not self.objects(*names)

        wait_for(clean, lambda: f"still there: {self.objects(*names)}\n{self.said()}", every=0.2)

    def tidy(self) -> None:
        """After a test that failed, so that the next one does not meet its jobs."""
        with self.portal.app.app_context():
            left = [job.name for job in db.session.query(Job).filter_by(settled=False)]
        for name in left:
            self.stop(name)
        if left:
            self.namespace.kubectl("delete", "resourcequota", "--all")
            self.namespace.cluster.api.delete(path("pod", namespace=self.namespace.name), gracePeriodSeconds=0)

    def printed_lines(self, name: str, rank: int = 0) -> int:
        """How many lines a job of LINES printed; its log has each of them once, in order."""
        log, gap = self.log(name, rank)
        assert not gap
        lines = log.splitlines(keepends=True)
        expected = [b"line %d\n" % (number + 1) for number in range(len(lines))]
        different = next((pair for pair in zip(lines, expected, strict=True) if pair[0] != pair[1]), None)
        assert different is None, different
        return len(lines)


def states(job: Any) -> list[str]:
    """Those that it went through, as its timeline tells."""
    told = [event for event in job["timeline"] if (event["state"], event["text"]) != ("queued", "Asked to stop")]
    return [event["state"] for event in told if event["state"]]


def once(job: Any) -> None:
    assert job["attempt"] == 1
    assert len(states(job)) == len(set(states(job))), f"a state was entered twice: {states(job)}"


class Audit:
    """What the API server has seen in the namespace from now on."""

    def __init__(self, namespace: Namespace) -> None:
        if namespace.cluster.place is None:
            pytest.skip("reads the audit log, and TEST_KUBECONFIG is somebody's")
        self.namespace = namespace
        self.since = namespace.cluster.audit_mark()

    def entries(self) -> list[audit.Entry]:
        return self.namespace.cluster.audit(self.since, namespace=self.namespace.name)

    def of_portal(self) -> list[audit.Entry]:
        return self.namespace.cluster.audit(self.since, user=self.namespace.user)

    def created(self, resource: str) -> int:
        """How many objects were made, by whomever; dry runs make none."""
        made = [e for e in self.entries() if (e.verb, e.resource, e.code) == ("create", resource, 201)]
        return sum("dryRun" not in entry.raw["requestURI"] for entry in made)


def kinds(entries: list[audit.Entry]) -> Counter[tuple[str, str]]:
    """How often each kind of request was made."""
    return Counter((entry.verb, entry.resource) for entry in entries)


@contextmanager
def namespace_for_many(
    request: pytest.FixtureRequest, cluster: Cluster, name: str, folder: Path
) -> Iterator[Namespace]:
    """A namespace for the tests of a module. Set up and taken down beside the tests that break the cluster."""

    def shared() -> Any:
        return request.config.stash[plugin.SLOT].use(alone=False) if cluster.place else nullcontext()

    file = folder / "portal.kubeconfig"
    file.touch(mode=0o600)
    with shared():
        file.write_text(tenants.create(cluster.api, name))
    yield Namespace(cluster, name, file.read_text(), file)
    with shared():
        tenants.delete(cluster.api, name)


@contextmanager
def portal_for_many(
    request: pytest.FixtureRequest, cluster: Cluster, name: str, folder: Path, database: str, **settings: str
) -> Iterator[Real]:
    """A portal with a namespace of its own, for the tests of a module. Nothing of it is started yet."""
    with (
        furnishing(request, database) as furnish,
        namespace_for_many(request, cluster, f"{name}-{secrets.token_hex(4)}", folder) as namespace,
    ):
        portal = Real(folder / "portal", furnish, namespace, **settings)
        try:
            yield portal
        finally:
            portal.clean_up()
