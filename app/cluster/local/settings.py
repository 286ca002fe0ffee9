"""What this cluster has to be told. `app.config` reads it from the environment; nothing here does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalSettings:
    root: Path  # one folder per attempt in here
    workdir: Path  # where commands start
    slots: int  # how many jobs without a GPU run at once
    gpus: tuple[str, ...] | None  # types of simulated GPUs; None: the real ones
    log_limit: int  # bytes of output kept per rank
    disk_floor: int  # bytes that must be free for a job to start
    examples: Path
    python_bin: Path  # put first on a job's PATH: its `python` is the portal's
    volumes: Mapping[str, Path] = field(default_factory=dict)
    grace: float = 30.0  # seconds between TERM and KILL

    def __post_init__(self) -> None:
        """Supervisors and jobs do not start where the portal did: a relative path would lead them elsewhere."""
        for name in ("root", "workdir", "examples", "python_bin"):
            object.__setattr__(self, name, getattr(self, name).absolute())
        object.__setattr__(self, "volumes", {claim: folder.absolute() for claim, folder in self.volumes.items()})
