"""Every option renders objects that a real API server takes: strictly validated, admitted at the restricted level."""

from __future__ import annotations

import pytest

from app.cluster.kubernetes.manifests import GpuType, KubernetesSettings, as_yaml, manifests
from app.cluster.protocol import Attempt, AttemptKey, JobSpec, Volume
from tests.real.cluster.cluster import Namespace

PLAIN = JobSpec(image="simpletrain.test/busybox:1", command="echo hello", gpus=0, nodes=1, max_runtime=600)

OPTIONS: dict[str, tuple[JobSpec, dict[str, object]]] = {
    "a plain job": (PLAIN, {}),
    "an exact argv with every character": (
        JobSpec("i:1", ("sh", "-c", "echo $(A) $$ \\ \" ' é \t\n*"), 0, 1, 600),
        {},
    ),
    "GPUs": (JobSpec("i:1", "true", 8, 1, 600), {}),
    "GPUs of a type": (
        JobSpec("i:1", "true", 4, 1, 600, gpu_types=("H100",)),
        {"gpu_types": {"H100": GpuType.of_product("NVIDIA-H100-80GB-HBM3")}},
    ),
    "several nodes": (JobSpec("i:1", "true", 4, 4, 600), {}),
    "shared memory, CPU and memory": (JobSpec("i:1", "true", 0, 1, 600, cpu="500m", memory="16Gi", shm="2Gi"), {}),
    "variables": (JobSpec("i:1", "true", 0, 1, 600, env={"A": "$(B) $$", "LONG": "x" * 10_000, "_": "line\nline"}), {}),
    "volumes": (
        JobSpec("i:1", "true", 0, 1, 600, volumes=(Volume("data", "/data", True), Volume("ckpt", "/ckpt"))),
        {},
    ),
    "a volume in the place of /tmp": (JobSpec("i:1", "true", 0, 1, 600, volumes=(Volume("data", "/tmp"),)), {}),
    "a queue": (PLAIN, {"queue": "team-a"}),
    "image pull secrets": (PLAIN, {"image_pull_secrets": ("registry",)}),
    "a user of the operator's": (PLAIN, {"run_as_user": 4321, "run_as_group": 4321, "fs_group": None}),
    "the longest run time": (JobSpec("i:1", "true", 0, 1, 2**31 - 1), {}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_admitted_at_the_restricted_level(namespace: Namespace, option: str) -> None:
    spec, settings = OPTIONS[option]
    attempt = Attempt(AttemptKey("abcdefgh", 1), "my-job", "8d9f1c2e-0000-4000-8000-000000000000", "1", "2", spec)
    objects = manifests(attempt, KubernetesSettings(namespace=namespace.name, **settings))  # type: ignore[arg-type]
    # by kubectl, because what the page shows must be what kubectl takes
    said = namespace.as_portal(
        "create", "--dry-run=server", "--validate=strict", "--filename", "-", given=as_yaml(objects)
    )
    assert said.count("created (server dry run)") == len(objects)
    assert "violate" not in said
