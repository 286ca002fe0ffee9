"""What a rank finds in its environment.

For every rank: PYTHONUNBUFFERED, SIMPLETRAIN_JOB, SIMPLETRAIN_ATTEMPT, SIMPLETRAIN_EXAMPLES, SIMPLETRAIN_VOLUME_<CLAIM>
(on this machine a volume is a folder; nothing is mounted at its path, and read-only is not enforced), NODES and NNODES,
NODE_RANK, GPUS (per node), MASTER_ADDR, MASTER_PORT, CUDA_VISIBLE_DEVICES (empty without GPUs). RANK and WORLD_SIZE
count one process per node, for scripts that are not started through torchrun; torchrun sets its own.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

from app.cluster.local.gpus import Gpu
from app.cluster.local.settings import LocalSettings
from app.cluster.protocol import Attempt

# Of the worker's own environment a job sees these, and nothing else: the rest holds keys and addresses of the portal.
INHERITED = ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SHELL")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MARKER = "SIMPLETRAIN_ATTEMPT_ID"


def rank_environments(
    attempt: Attempt, settings: LocalSettings, gpus: tuple[Gpu, ...], inherited: Mapping[str, str], marker: str
) -> list[dict[str, str]]:
    """One for each rank. The job's own variables win over all but the marker."""
    spec = attempt.spec
    common = {
        **_allowed(inherited, settings),
        "PYTHONUNBUFFERED": "1",
        "SIMPLETRAIN_JOB": attempt.job_name,
        "SIMPLETRAIN_ATTEMPT": str(attempt.key.number),
        "SIMPLETRAIN_EXAMPLES": str(settings.examples),
        **{_volume_variable(volume.claim): str(settings.volumes[volume.claim]) for volume in spec.volumes},
        "NODES": str(spec.nodes),
        "NNODES": str(spec.nodes),
        "WORLD_SIZE": str(spec.nodes),
        "GPUS": str(spec.gpus),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return [
        {
            **common,
            "NODE_RANK": str(rank),
            "RANK": str(rank),
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.id for gpu in gpus[rank * spec.gpus : (rank + 1) * spec.gpus]),
            **spec.env,
            MARKER: marker,
        }
        for rank in range(spec.nodes)
    ]


def marker_of(instance: str, folder: Path) -> str:
    """By this the processes of an attempt are known when its supervisor is gone, so a job cannot choose it.

    It holds the place of the folder: a portal on a copy of the data must not take the original's processes for its own.
    """
    return f"{instance}:{folder.absolute()}"


def _allowed(inherited: Mapping[str, str], settings: LocalSettings) -> dict[str, str]:
    kept = {name: value for name, value in inherited.items() if name in INHERITED or name.startswith("LC_")}
    return {**kept, "PATH": f"{settings.python_bin}:{inherited.get('PATH') or DEFAULT_PATH}"}


def _volume_variable(claim: str) -> str:
    return "SIMPLETRAIN_VOLUME_" + re.sub(r"[^A-Z0-9]", "_", claim.upper())


def _free_port() -> int:
    """Free now; nothing keeps another program from taking it before rank 0 does, only chance makes that rare."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
