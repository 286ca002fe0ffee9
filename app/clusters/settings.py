"""What the operator said about a Kubernetes cluster, as the row keeps it and as the manifests need it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.cluster.kubernetes.manifests import DEFAULT_GPU, GpuType, KubernetesSettings

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,61}", re.ASCII)


class SettingsError(Exception):
    """What the operator gave cannot be used. The message is a sentence."""


def from_options(namespace: str, gpus: Sequence[str], labels: Sequence[str], queue: str) -> dict[str, Any]:
    """The settings of a row from `--gpus TYPE=COUNT` and `--gpu-label TYPE:NAME=VALUE`. Raises SettingsError."""
    types: dict[str, dict[str, Any]] = {}
    for text in gpus:
        name, _, count = text.rpartition("=")
        if not _TYPE.fullmatch(name) or not count.isdigit() or not 0 < int(count) < 1_000_000:
            raise SettingsError(f"--gpus {text}: write a type and how many there are in all, such as H100=16.")
        types[name] = {"count": int(count), "resource": DEFAULT_GPU, "labels": {}}
    for text in labels:
        name, _, label = text.partition(":")
        key, _, value = label.partition("=")
        if name not in types or not key or not value:
            raise SettingsError(f"--gpu-label {text}: write TYPE:LABEL=VALUE, with a type that --gpus names.")
        types[name]["labels"][key] = value
    return {"namespace": namespace, "gpus": types, "queue": queue}


def kubernetes_settings(stored: Mapping[str, Any]) -> KubernetesSettings:
    return KubernetesSettings(
        namespace=stored["namespace"],
        gpu_types={name: GpuType(kind["resource"], kind["labels"]) for name, kind in stored.get("gpus", {}).items()},
        queue=stored.get("queue", ""),
    )


def gpu_totals(stored: Mapping[str, Any]) -> dict[str, int]:
    """How many GPUs of each type the operator said there are."""
    return {name: kind["count"] for name, kind in stored.get("gpus", {}).items()}
