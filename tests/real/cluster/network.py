"""Addresses and names of pods: a bridge on this machine, and CoreDNS on an address of the loopback interface.

Pods reach each other, this machine and nothing else. Network policies are not enforced, and the cluster IP of a
Service answers nobody: there is no kube-proxy.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.real.cluster import processes
from tests.real.cluster.build import binaries
from tests.real.cluster.place import Place

PLUGINS = Path("/usr/lib/cni")  # Debian's containernetworking-plugins


def configure(place: Place) -> None:
    """Tell containerd how to connect a pod."""
    addresses = {
        "type": "host-local",
        "dataDir": f"{place.folder}/cni-addresses",
        "ranges": [[{"subnet": place.pod_subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": place.bridge, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    folder = place.folder / "cni"
    folder.mkdir(exist_ok=True)
    config = {"cniVersion": "1.0.0", "name": place.bridge, "plugins": [bridge]}
    (folder / "10-bridge.conflist").write_text(json.dumps(config))


def start_dns(place: Place) -> None:
    _ip("address", "add", f"{place.dns_address}/32", "dev", "lo")
    (place.folder / "Corefile").write_text(
        f""".:53 {{
    bind {place.dns_address}
    errors
    ready 127.0.0.1:{place.dns_health_port}
    kubernetes cluster.local {{
        kubeconfig {place.folder}/dns.kubeconfig
        ttl 1
    }}
}}
"""
    )
    processes.start(place, "coredns", binaries() / "coredns", "-conf", place.folder / "Corefile")


def remove(place: Place) -> None:
    """Take down the bridge, the address, and what the plugins noted about this network."""
    _ip("link", "delete", place.bridge)
    _ip("address", "delete", f"{place.dns_address}/32", "dev", "lo")
    for note in Path("/var/lib/cni/results").glob(f"{place.bridge}-*"):
        note.unlink(missing_ok=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=False)  # it is there already, or gone already
