"""Turns the rows of the table of clusters into clusters: the one place that knows which kinds there are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from app.cluster.local import LocalCluster, LocalSettings, simulated_gpus
from app.cluster.protocol import Cluster
from app.clusters.models import ClusterKind, ClusterRow
from app.config import REPOSITORY, Config


def build(row: ClusterRow, config: Config, instance: str) -> Cluster:
    if row.kind is ClusterKind.LOCAL:
        return LocalCluster(local_settings(config), instance)
    raise NotImplementedError(f"clusters of kind {row.kind.value} are not built yet")


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
