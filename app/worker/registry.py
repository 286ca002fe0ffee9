"""Turns the rows of the table of clusters into clusters: the one place that knows which kinds there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cluster.local import LocalCluster, LocalSettings, simulated_gpus
from app.cluster.protocol import Cluster
from app.clusters.models import ClusterKind, ClusterRow
from app.clusters.settings import gpu_totals, kubernetes_settings
from app.config import REPOSITORY, Config
from app.installation import service as installation

if TYPE_CHECKING:
    from app.cluster.kubernetes.kubeconfig import Credential
    from app.cluster.kubernetes.probe import Check


def build(row: ClusterRow, config: Config, instance: str) -> Cluster:
    """The cluster of a row. Raises NotReady where its credential cannot be opened, Unusable for a bad one."""
    if row.kind is ClusterKind.LOCAL:
        return LocalCluster(local_settings(config), instance)
    # imported here: a worker without such a cluster does not pay for Kubernetes' client
    from app.cluster.kubernetes.cluster import KubernetesCluster

    return KubernetesCluster(
        _credential(stored_credential(row)), kubernetes_settings(row.settings), instance, gpu_totals(row.settings)
    )


def credential(kubeconfig: str | None) -> str | None:
    """What is to be sealed of a kubeconfig; None for the cluster that the portal runs in. Raises Unusable."""
    from app.cluster.kubernetes.kubeconfig import in_cluster, parse

    if kubeconfig is None:
        in_cluster()
        return None
    return parse(kubeconfig).to_json()


def stored_credential(row: ClusterRow) -> str | None:
    """Raises NotReady where the key that it was sealed for is missing."""
    return installation.unseal(row.credential).decode() if row.credential is not None else None


def checks(settings: Mapping[str, Any], stored: str | None) -> Iterator[Check]:
    """Try a Kubernetes cluster with these settings and this credential."""
    from app.cluster.kubernetes.client import Client
    from app.cluster.kubernetes.probe import probe

    client = Client(_credential(stored))
    try:
        yield from probe(client, kubernetes_settings(settings))
    finally:
        client.close()


def _credential(stored: str | None) -> Credential:
    from app.cluster.kubernetes.kubeconfig import from_json, in_cluster

    return from_json(stored) if stored is not None else in_cluster()


def local_settings(config: Config) -> LocalSettings:
    return LocalSettings(
        root=(config.data_dir / "local").absolute(),
        workdir=config.local_start,
        slots=config.local_slots or os.cpu_count() or 1,
        gpus=simulated_gpus(config.local_gpus) if config.local_gpus else None,
        log_limit=config.log_limit,
        disk_floor=config.local_disk_floor,
        volumes=_volumes(config.local_volumes),
        grace=config.local_grace,
        examples=REPOSITORY / "examples",
        python_bin=Path(sys.executable).parent,
    )


def _volumes(text: str) -> dict[str, Path]:
    """`datasets=/srv/data,ckpt=/srv/ckpt`"""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {claim.strip(): Path(folder.strip()).expanduser() for claim, _, folder in pairs}
