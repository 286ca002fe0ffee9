"""A cluster that was killed leaves nothing behind once its slot is used or ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cluster import processes
from tests.real.cluster.api import path
from tests.real.cluster.cluster import Cluster
from tests.real.cluster.place import Place
from tests.real.cluster.remains import control_groups
from tests.real.cluster.wait import eventually
from tests.real.slots import Slot
from tests.real.test_harness import phase, pod, pod_spec

pytestmark = pytest.mark.owns_node


@pytest.fixture
def slot(cluster: Cluster) -> Iterator[Slot]:
    """A second cluster beside the one of this run, which rests meanwhile."""
    slot = Slot.free()
    yield slot
    slot.end()


def test_nothing_is_left_of_a_killed_cluster(slot: Slot) -> None:
    other, place = slot.start(), slot.place
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 4321; done"]
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    other.apply(pod("stubborn", pod_spec(other.images.busybox, stubborn, volumes=volumes)))
    where = path("pod", "stubborn", namespace="default")
    eventually("the pod runs", lambda: phase("Running")(other.api.get(where)))
    containers = [each.name for each in place.containerd_state.glob("io.containerd.runtime.v2.task/k8s.io/*")]

    processes.kill([pid for name in processes.recorded(place) if (pid := processes.pid(place, name))])
    left = remains(place, containers)
    assert all(left.values()), f"containers should outlive whoever started them: {left}"

    slot.end()
    left = remains(place, containers)
    assert not any(left.values()), left
    assert [each.name for each in place.folder.iterdir()] == ["log"]


def remains(place: Place, containers: list[str]) -> dict[str, list[str]]:
    """What this machine still has of a cluster."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    commands = [_command(each) for each in Path("/proc").glob("[0-9]*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "processes": [each for each in commands if f"{place.folder}/" in each or "sleep 4321" in each],
        "mounts": [each for each in mounts if f" {place.folder}/" in each],
        "interfaces": [each for each in links if place.bridge in each],
        "control groups": [str(each) for name in containers for each in control_groups(name)],
    }


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # it ended while we looked
