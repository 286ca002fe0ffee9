"""Start and end a whole cluster, and put right what a test stopped."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.cluster import certificates, control_plane, images, lock, network, node, processes, remains
from tests.real.cluster.api import Api, path
from tests.real.cluster.build import binaries
from tests.real.cluster.errors import ClusterError
from tests.real.cluster.place import NODE, Place
from tests.real.cluster.wait import eventually

GPU = "nvidia.com/gpu"
NEEDED = {  # program: Debian package
    "busybox": "busybox-static",
    "etcd": "etcd-server",
    "openssl": "openssl",
}
NEEDED_BY_NODE = {
    "containerd": "containerd",
    "ip": "iproute2",
    "runc": "runc",
    "umount": "mount",
}


def hindrance() -> str:
    """Why no cluster can start here, as one sentence; empty when one can."""
    if not sys.platform.startswith("linux"):
        return "a cluster needs Linux"
    missing = [package for program, package in (NEEDED | NEEDED_BY_NODE).items() if shutil.which(program) is None]
    if not network.PLUGINS.is_dir():
        missing.append("containernetworking-plugins")
    if missing:
        return f"these Debian packages are missing: {' '.join(sorted(missing))}"
    if os.geteuid() != 0:
        return "starting a cluster needs root"
    return ""


def up(place: Place, *, with_node: bool = True, gpus: int = 0, say: Callable[[str], None] = print) -> None:
    """Start a fresh cluster, after removing whatever an earlier one left in the folder."""
    if reason := hindrance():
        raise ClusterError(f"No cluster can start here: {reason}.")
    if not binaries().exists():
        raise ClusterError("The cluster's commands are not built yet: `make cluster` does that, once.")
    with _guarded(place):
        remains.remove(place, keep_logs=False)
        place.record()
        certificates.make(place)
        control_plane.start_etcd(place)
        control_plane.start_api_server(place)
        if with_node:
            archive = images.archive(say)
            node.start_containerd(place)
            node.import_images(place, archive)
        bring_up(place, with_node=with_node)
        set_gpus(place, gpus)


def bring_up(place: Place, *, with_node: bool = True) -> None:
    """Start what does not run, and wait until everything answers."""
    control_plane.start_etcd(place)
    start_api_server(place)
    control_plane.start_controllers(place)
    control_plane.start_scheduler(place)
    if with_node:
        node.start_containerd(place)
        network.start_dns(place)
        start_kubelet(place)
        eventually("names are served", lambda: _answers(place.dns_health_port, "/ready"))
    eventually("controllers work", lambda: admin(place).get(path("serviceaccount", "default", namespace="default")))


def down(place: Place) -> None:
    """End everything of the cluster; its logs stay."""
    with _guarded(place):
        remains.remove(place)


def start_api_server(place: Place) -> None:
    control_plane.start_api_server(place)
    _wait(place, "apiserver", "the API server is ready", lambda: admin(place).text("/readyz") == "ok")


def start_kubelet(place: Place) -> None:
    """Return when the node is ready for pods, with the GPUs that it had."""
    node.start_kubelet(place)
    _wait(place, "kubelet", "the node is ready", lambda: _ready(place))
    set_gpus(place, gpus(place))


def has_node(place: Place) -> bool:
    return (place.folder / "containerd.toml").exists()


def admin(place: Place) -> Api:
    return Api(place.kubeconfig.read_text())


def gpus(place: Place) -> int:
    """How many the node was given."""
    record = place.folder / "gpus"
    return int(record.read_text()) if record.exists() else 0


def set_gpus(place: Place, count: int) -> None:
    """An extended resource lives in the node's status; kubelet and scheduler count it as if it were real."""
    (place.folder / "gpus").write_text(str(count))
    if not has_node(place):
        return
    where = path("node", NODE)

    def given() -> bool:
        status = admin(place).get(where)["status"]
        if status["capacity"].get(GPU) != str(count):  # a kubelet that just started may have taken it back
            admin(place).patch(f"{where}/status", {"status": {"capacity": {GPU: str(count)}}})
        return bool(status["allocatable"].get(GPU) == str(count))

    if count or GPU in admin(place).get(where)["status"]["capacity"]:
        eventually(f"the node has {count} GPUs", given)


def status(place: Place) -> list[str]:
    """What runs and what does not, a line each; empty when there is no cluster."""
    names = processes.recorded(place)
    if not names:
        return []
    lines = [f"{name:<12} {f'process {pid}' if (pid := processes.pid(place, name)) else 'stopped'}" for name in names]
    lines.reverse()
    try:
        nodes = admin(place).get(path("node"))["items"]
        ready = has_node(place) and _ready(place)
    except (OSError, ClusterError) as error:
        return [*lines, f"{'API server':<12} does not answer: {error}"]
    for each in nodes:
        lines.append(f"{'node':<12} {'' if ready else 'not '}ready, GPUs: {each['status']['allocatable'].get(GPU, 0)}")
    return [*lines, f"{'kubeconfig':<12} {place.kubeconfig}"]


def _ready(place: Place) -> bool:
    conditions = admin(place).get(path("node", NODE))["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _answers(port: int, path: str) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return bool(answer.status == http.client.OK)


def _wait(place: Place, name: str, what: str, question: Callable[[], bool]) -> None:
    """Wait for a process to be ready; say it at once when the process ends instead."""

    def ready_or_ended() -> bool:
        return question() if processes.alive(place, name) else _ended(place, name)

    eventually(what, ready_or_ended, 90)


def _ended(place: Place, name: str) -> bool:
    log = place.log / f"{name}.log"
    raise ClusterError(f"{name} ended. The end of {log}:\n" + "\n".join(log.read_text().splitlines()[-5:]))


@contextmanager
def _guarded(place: Place) -> Iterator[None]:
    """One start or end of a cluster at a time; the lock lies beside the folder, which comes and goes."""
    folder: Path = place.folder
    with lock.held(folder.parent / f".{folder.name}.lock"):
        yield
