"""Where one cluster lives: its folder, its ports, its addresses. Two clusters share none of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.real.cluster.build import cache
from tests.real.cluster.errors import ClusterError

NODE = "localhost"  # a name that resolves everywhere: the API server reaches the kubelet by host name
LONGEST_SOCKET = 107  # bytes that the kernel takes for the path of a socket
DEFAULT_PORT = 6443


@dataclass(frozen=True)
class Place:
    """A folder and the first of ten ports; the rest follows from them."""

    folder: Path
    port: int

    @classmethod
    def of(cls, folder: Path | None = None, port: int | None = None) -> Place:
        """The place that a folder recorded when its cluster started, or a new one there."""
        folder = (folder or cache() / "clusters/play").absolute()
        record = folder / "port"
        if port is None:
            port = int(record.read_text()) if record.exists() else DEFAULT_PORT
        place = cls(folder, port)
        if len(str(place.containerd_socket)) > LONGEST_SOCKET - len(".ttrpc"):
            raise ClusterError(f"The path of {folder} is too long for a socket in it.")
        return place

    def record(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "port").write_text(str(self.port))

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def etcd(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def etcd_peers(self) -> str:
        return f"http://127.0.0.1:{self.port + 2}"

    @property
    def controllers_port(self) -> int:
        return self.port + 3

    @property
    def scheduler_port(self) -> int:
        return self.port + 4

    @property
    def kubelet_port(self) -> int:
        return self.port + 5

    @property
    def kubelet_health_port(self) -> int:
        return self.port + 6

    @property
    def dns_health_port(self) -> int:
        return self.port + 7

    @property
    def network(self) -> int:
        """The third byte of the cluster's addresses."""
        return self.port // 10 % 256

    @property
    def bridge(self) -> str:
        return f"simpletr{self.port}"  # an interface's name has at most 15 characters

    @property
    def pod_subnet(self) -> str:
        return f"10.244.{self.network}.0/24"

    @property
    def dns_address(self) -> str:
        return f"10.96.{self.network}.10"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def audit_log(self) -> Path:
        return self.log / "audit.log"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def containerd_state(self) -> Path:
        return self.folder / "containerd-state"
