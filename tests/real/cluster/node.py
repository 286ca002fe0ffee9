"""The one node: containerd and the kubelet, for cgroup v1 and v2, beside whatever else this machine runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.real.cluster import network, processes
from tests.real.cluster.build import binaries
from tests.real.cluster.images import PAUSE
from tests.real.cluster.place import NODE, Place
from tests.real.cluster.wait import eventually

# Everything that containerd would keep outside the cluster's folder is moved into it.
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{state}"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{folder}/runc"
"""


def start_containerd(place: Place) -> None:
    network.configure(place)
    settings = {
        "folder": place.folder,
        "state": place.containerd_state,
        "socket": place.containerd_socket,
        "pause": PAUSE,
        "plugins": network.PLUGINS,
    }
    (place.folder / "containerd.toml").write_text(CONTAINERD.format(**settings))
    processes.start(place, "containerd", "containerd", "-c", place.folder / "containerd.toml")


def import_images(place: Place, archive: Path) -> None:
    ctr = ["ctr", "-a", str(place.containerd_socket), "-n", "k8s.io"]

    def answers() -> bool:
        return subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0

    eventually("containerd answers", answers)
    subprocess.run([*ctr, "images", "import", archive], check=True, capture_output=True)


def start_kubelet(place: Place) -> None:
    (place.folder / "resolv.conf").write_text("")  # pods know the cluster's names and no others
    config = place.folder / "kubelet.json"
    config.write_text(json.dumps(_settings(place), indent=1))
    processes.start(
        place,
        "kubelet",
        binaries() / "kubelet",
        f"--config={config}",
        f"--kubeconfig={place.folder}/node.kubeconfig",
        f"--hostname-override={NODE}",
        f"--root-dir={place.folder}/kubelet",
    )


def _settings(place: Place) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": place.kubelet_port,
        "healthzPort": place.kubelet_health_port,
        "containerRuntimeEndpoint": f"unix://{place.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{place.pki}/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": f"{place.pki}/node.crt",
        "tlsPrivateKeyFile": f"{place.pki}/node.key",
        "clusterDNS": [place.dns_address],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{place.folder}/resolv.conf",
        "podLogsDir": f"{place.folder}/pods",
        "makeIPTablesUtilChains": False,
        # a container's limits hold; pods have no cgroup of their own, so that any layout of cgroups will do
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        # nothing is evicted or collected because of what else happens on this machine
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 200,
        # sooner than usual: GPUs appear within a second, a silent node is noticed after 20 s
        "nodeStatusUpdateFrequency": "1s",
        "nodeLeaseDurationSeconds": 8,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,  # no limit
        "registryPullQPS": 0,
    }
