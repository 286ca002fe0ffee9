"""etcd, API server, controllers and scheduler of one cluster."""

from __future__ import annotations

from tests.real.cluster import audit, processes
from tests.real.cluster.build import binaries
from tests.real.cluster.place import Place


def start_etcd(place: Place) -> None:
    processes.start(
        place,
        "etcd",
        "etcd",
        f"--data-dir={place.folder}/etcd",
        "--unsafe-no-fsync",  # the state is thrown away with the cluster
        f"--listen-client-urls={place.etcd}",
        f"--advertise-client-urls={place.etcd}",
        f"--listen-peer-urls={place.etcd_peers}",
        f"--initial-advertise-peer-urls={place.etcd_peers}",
        f"--initial-cluster=default={place.etcd_peers}",
    )


def start_api_server(place: Place) -> None:
    """Admission is the default: Pod Security, quotas, limits, service accounts."""
    policy = place.folder / "audit.yaml"
    policy.write_text(audit.POLICY)
    processes.start(
        place,
        "apiserver",
        binaries() / "kube-apiserver",
        f"--etcd-servers={place.etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={place.port}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={place.pki}/apiserver.crt",
        f"--tls-private-key-file={place.pki}/apiserver.key",
        f"--client-ca-file={place.pki}/ca.crt",
        "--authorization-mode=Node,RBAC",
        f"--service-account-key-file={place.pki}/tokens.pub",
        f"--service-account-signing-key-file={place.pki}/tokens.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={place.pki}/kubelet-client.crt",
        f"--kubelet-client-key={place.pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={place.pki}/ca.crt",
        "--kubelet-preferred-address-types=Hostname",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={place.audit_log}",
        "--audit-log-maxsize=100000",  # MB: a mark is a place in this one file, so it must not rotate
    )


def start_controllers(place: Place) -> None:
    processes.start(
        place,
        "controllers",
        binaries() / "kube-controller-manager",
        f"--kubeconfig={place.folder}/controllers.kubeconfig",
        "--leader-elect=false",
        f"--service-account-private-key-file={place.pki}/tokens.key",
        f"--root-ca-file={place.pki}/ca.crt",
        "--use-service-account-credentials",
        "--bind-address=127.0.0.1",
        f"--secure-port={place.controllers_port}",
        f"--cluster-signing-cert-file={place.pki}/ca.crt",
        f"--cluster-signing-key-file={place.pki}/ca.key",
        "--kube-api-qps=200",  # many namespaces come and go
        "--kube-api-burst=400",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",  # a silent node is noticed sooner than the usual 50 s
    )


def start_scheduler(place: Place) -> None:
    processes.start(
        place,
        "scheduler",
        binaries() / "kube-scheduler",
        f"--kubeconfig={place.folder}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={place.scheduler_port}",
    )
