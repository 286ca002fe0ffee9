"""The cluster as a test has it: ask it, change it, break it, look into its audit log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.cluster import audit, lifecycle, processes, tenants
from tests.real.cluster.api import Api, Thing, path
from tests.real.cluster.build import binaries
from tests.real.cluster.errors import ClusterError, Refused
from tests.real.cluster.images import Images
from tests.real.cluster.place import Place
from tests.real.cluster.wait import eventually


@dataclass(frozen=True)
class Cluster:
    """Ours, or (without a place) somebody's whose node and API server we leave alone."""

    kubeconfig: Path  # the administrator's
    images: Images
    place: Place | None = None
    api: Api = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "api", Api(_self_contained(self.kubeconfig)))

    # --- ask and change -----------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, given: str | None = None, kubeconfig: Path | None = None) -> str:
        """What kubectl prints, as the administrator unless told otherwise; Refused with its complaint."""
        return _kubectl(kubeconfig or self.kubeconfig, *arguments, given=given)

    def apply(self, objects: str | Thing | list[Thing], namespace: str = "default") -> None:
        """Create or change objects, given as YAML or as dictionaries."""
        if not isinstance(objects, str):
            items = objects if isinstance(objects, list) else [objects]
            objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.kubectl("apply", "--namespace", namespace, "--filename", "-", given=objects)

    @property
    def gpus(self) -> int:
        """How many GPUs pods can have, all nodes together."""
        nodes = self.api.get(path("node"))["items"]
        return sum(int(each["status"]["allocatable"].get(lifecycle.GPU, "0")) for each in nodes)

    # --- only with a node of our own ----------------------------------------------------------------------------

    def set_gpus(self, count: int) -> None:
        lifecycle.set_gpus(self._ours(), count)

    def stop_api_server(self, *, politely: bool = True) -> None:
        """End it; impolitely, connections break in the middle of a word. (Watches would delay a polite end by 60 s.)"""
        processes.stop(self._ours(), "apiserver", grace=3 if politely else 0)

    def start_api_server(self) -> None:
        lifecycle.start_api_server(self._ours())

    def restart_api_server(self, *, politely: bool = True) -> None:
        self.stop_api_server(politely=politely)
        self.start_api_server()

    def freeze_api_server(self) -> None:
        """It takes connections and says nothing, like a server behind a network that swallows packets."""
        processes.freeze(self._ours(), "apiserver")

    def thaw_api_server(self) -> None:
        processes.thaw(self._ours(), "apiserver")

    def stop_kubelet(self) -> None:
        """Containers go on running; nobody reports them. After 20 s the node counts as silent."""
        processes.stop(self._ours(), "kubelet")

    def start_kubelet(self) -> None:
        lifecycle.start_kubelet(self._ours())

    def stop_controllers(self) -> None:
        """From now on nobody makes pods for a Job."""
        processes.stop(self._ours(), "controllers")

    def heal(self) -> None:
        """Start what a test stopped and return when everything answers."""
        place = self._ours()
        self.thaw_api_server()
        lifecycle.bring_up(place)

    def audit_mark(self) -> int:
        """Now, for `audit`."""
        return self._ours().audit_log.stat().st_size

    def audit(self, since: int = 0, *, namespace: str | None = None, user: str | None = None) -> list[audit.Entry]:
        """The requests since a mark, each once."""
        return audit.read(self._ours().audit_log, since, namespace, user)

    def _ours(self) -> Place:
        if self.place is None:
            raise ClusterError("This cluster is somebody's: mark the test with owns_node.")
        return self.place


@dataclass(frozen=True)
class Namespace:
    """A namespace for one test, and the portal's way into it."""

    cluster: Cluster
    name: str
    kubeconfig: str  # the text, for a ServiceAccount with the rights of k8s/rbac and no others
    kubeconfig_file: Path

    @property
    def images(self) -> Images:
        return self.cluster.images

    @property
    def user(self) -> str:
        """The ServiceAccount's name in the audit log."""
        return tenants.user(self.name)

    def let_read_nodes(self) -> None:
        """Give the ServiceAccount the optional right to count GPUs."""
        tenants.let_read_nodes(self.cluster.api, self.name)

    def apply(self, objects: str | Thing | list[Thing]) -> None:
        """As the administrator."""
        self.cluster.apply(objects, self.name)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """As the administrator, in this namespace."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given)

    def as_portal(self, *arguments: str, given: str | None = None) -> str:
        """kubectl with the ServiceAccount's rights."""
        return self.cluster.kubectl(*arguments, given=given, kubeconfig=self.kubeconfig_file)

    def get(self, kind: str, name: str) -> Thing:
        """get("job", "digits"), as the administrator sees it."""
        return self.cluster.api.get(path(kind, name, namespace=self.name))

    def pods(self, selector: str = "") -> list[Thing]:
        items: list[Thing] = self.cluster.api.get(f"{path('pod', namespace=self.name)}?labelSelector={selector}")[
            "items"
        ]
        return items

    def wait(self, kind: str, name: str, until: Callable[[Thing], Any], seconds: float = 60) -> Thing:
        """Read an object until a question about it is answered with yes, and return it."""

        def asked() -> Thing | None:
            thing = self.get(kind, name)
            return thing if until(thing) else None

        found = eventually(f"{kind} {name} is as wanted", asked, seconds)
        assert found is not None
        return found

    def logs(self, pod: str) -> str:
        return self.cluster.api.text(path("pod", f"{pod}/log", namespace=self.name))

    def describe(self) -> str:
        """What a person would look at first when a test failed."""
        parts = [("get", "jobs,pods,services", "--output", "wide"), ("get", "events", "--sort-by", ".lastTimestamp")]
        return f"namespace {self.name}\n" + "\n".join(self.kubectl(*part) for part in parts)


def _kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    program = binaries() / "kubectl"
    command = [str(program) if program.exists() else shutil.which("kubectl") or "kubectl", *arguments]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": f"{kubeconfig}.cache"}
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return done.stdout


def _self_contained(kubeconfig: Path) -> str:
    """The current context alone, certificates in it, as JSON."""
    return _kubectl(kubeconfig, "config", "view", "--raw", "--flatten", "--minify", "--output", "json")
