"""Job specs as JSON and back. The dataclass is the border's; this is how a row keeps it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.cluster.protocol import JobSpec, Volume


def to_json(spec: JobSpec) -> dict[str, Any]:
    stored = asdict(spec)
    stored["command"] = spec.command if isinstance(spec.command, str) else list(spec.command)
    stored["env"] = dict(spec.env)
    return stored


def from_json(stored: dict[str, Any]) -> JobSpec:
    command = stored["command"]
    return JobSpec(
        **{
            **stored,
            "command": command if isinstance(command, str) else tuple(command),
            "gpu_types": tuple(stored["gpu_types"]),
            "volumes": tuple(Volume(**volume) for volume in stored["volumes"]),
        }
    )
