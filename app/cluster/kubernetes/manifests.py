"""From an attempt to the objects that run it, as plain dictionaries. Sends nothing, asks nobody: pages show them too.

An attempt is one Indexed Job, also on one node, so that rank 0 always exists; on several nodes a headless Service gives
the ranks names for their rendezvous. In a rank's environment: what app.cluster.local.environment lists, less what is
of that machine only; RANK and WORLD_SIZE count one process per node, for scripts not started through torchrun.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from app.cluster.kubernetes.names import CONTAINER, INDEX, attempt_labels, labels, object_name
from app.cluster.protocol import Attempt, JobSpec, Volume

Manifest = dict[str, Any]

JOB_NAME = "simpletrain.io/job-name"  # annotations
GPU_TYPES = "simpletrain.io/gpu-types"
SPEC_HASH = "simpletrain.io/spec-hash"

PRODUCT_LABEL = "nvidia.com/gpu.product"  # NVIDIA's feature discovery puts it on nodes
DEFAULT_GPU = "nvidia.com/gpu"
MASTER_PORT = 29500
WEEK = 604800  # seconds
DAY = 86400
LONGEST = 2**31 - 1  # seconds that a pod may be given


class Impossible(Exception):
    """This attempt cannot be said to this cluster. The message is a sentence for the user."""


@dataclass(frozen=True, slots=True)
class GpuType:
    resource: str = DEFAULT_GPU
    node_labels: Mapping[str, str] = field(default_factory=dict)  # a node with this type has them; empty: any node

    @staticmethod
    def of_product(product: str, resource: str = DEFAULT_GPU) -> GpuType:
        return GpuType(resource, {PRODUCT_LABEL: product})


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """What the operator says about a cluster, as far as it shapes the objects."""

    namespace: str
    gpu_types: Mapping[str, GpuType] = field(default_factory=dict)
    queue: str = ""  # a Kueue LocalQueue of the namespace; empty: none
    priority_class: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    run_as_user: int = 1000  # never 0
    run_as_group: int = 1000
    fs_group: int | None = 1000  # group that volumes are given to; None: left as they are
    tolerated_taints: tuple[str, ...] = (DEFAULT_GPU,)  # for jobs with GPUs
    shm: str = ""  # size of /dev/shm where a job names none; empty: as much as the job's memory
    grace: int = 60  # seconds between TERM and KILL
    # The worker ends a job at its max_runtime, counted from when all ranks run. The deadline in the pod is for when no
    # worker is there to do it. It counts from the pod's arrival on its node, so from before its image is there and
    # before the other ranks run; a healthy job must never meet it.
    deadline_margin: int = DAY


def manifests(attempt: Attempt, settings: KubernetesSettings) -> list[Manifest]:
    """Everything the attempt needs, in the order to create it: names exist before the pods that ask for them."""
    found = [service_manifest(attempt, settings)] if attempt.spec.nodes > 1 else []
    return _hashed([*found, job_manifest(attempt, settings)])


def service_manifest(attempt: Attempt, settings: KubernetesSettings) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(attempt, settings),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # ranks look for each other before they are ready
            "selector": attempt_labels(attempt.instance, attempt.key),
            "ports": [{"name": "rendezvous", "port": MASTER_PORT, "protocol": "TCP"}],
        },
    }


def job_manifest(attempt: Attempt, settings: KubernetesSettings) -> Manifest:
    """The Job, without the hash that `manifests` adds. Raises Impossible.

    It never tries again: a lone new pod cannot join a gang that is running. A pod that the cluster takes away
    (DisruptionTarget) fails the Job under the policy rather than by the count of failures: the Job's condition then
    names the pod and the cause, which outlives the pod. The Job says FailureTarget first, and Failed when every pod
    has ended.
    """
    metadata = _metadata(attempt, settings)
    if settings.queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = settings.queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": attempt.spec.nodes,
            "parallelism": attempt.spec.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",  # the only one allowed beside podFailurePolicy
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "ttlSecondsAfterFinished": WEEK,  # the portal removes it once its log is kept; this is for when it cannot
            "template": {
                "metadata": {"labels": labels(attempt), "annotations": _annotations(attempt)},
                "spec": _pod(attempt, settings),
            },
        },
    }


def as_yaml(objects: Sequence[Manifest]) -> str:
    """What `kubectl apply -f` takes. Every string reads back as that string, also by readers of other YAML versions."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ANY_WIDTH)


def literal(text: str) -> str:
    """`text` such that Kubernetes, which expands $(NAME) in commands, arguments and variables, makes `text` of it.

    Its rule: `$$` is one `$`; `$(NAME)` is replaced; any other `$` stands for itself. Older kubelets take what follows
    a `$` for one byte, and break a letter that is not ASCII. So a `$` is doubled before `$`, `(` and those.
    """
    return re.sub(r"\$(?=[$(]|[^\x00-\x7f])", "$$", text)


def _metadata(attempt: Attempt, settings: KubernetesSettings) -> Manifest:
    return {
        "name": object_name(attempt),
        "namespace": settings.namespace,
        "labels": labels(attempt),
        "annotations": _annotations(attempt),
    }


def _annotations(attempt: Attempt) -> dict[str, str]:
    types = {GPU_TYPES: ",".join(attempt.spec.gpu_types)} if attempt.spec.gpus and attempt.spec.gpu_types else {}
    return {JOB_NAME: attempt.job_name, **types}


def _hashed(objects: list[Manifest]) -> list[Manifest]:
    """Put the same hash on each: whoever finds an object sees whether it is of the set that would be made now."""
    canonical = json.dumps(objects, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    for each in objects:
        each["metadata"]["annotations"][SPEC_HASH] = digest
    return objects


def _pod(attempt: Attempt, settings: KubernetesSettings) -> Manifest:
    spec = attempt.spec
    resource, affinity = _gpus(spec, settings)
    pod: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace,
        "activeDeadlineSeconds": min(spec.max_runtime + settings.deadline_margin, LONGEST),
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": _pod_security(settings),
        "containers": [_container(attempt, settings, resource)],
        "volumes": _volumes(spec, settings),
    }
    if spec.nodes > 1:
        pod["subdomain"] = object_name(attempt)
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if spec.gpus and settings.tolerated_taints:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in settings.tolerated_taints]
    if affinity:
        pod["affinity"] = affinity
    return pod


def _pod_security(settings: KubernetesSettings) -> Manifest:
    context: Manifest = {
        "runAsNonRoot": True,
        "runAsUser": settings.run_as_user,
        "runAsGroup": settings.run_as_group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if settings.fs_group is not None:
        context["fsGroup"] = settings.fs_group
        context["fsGroupChangePolicy"] = "OnRootMismatch"  # else each start walks through the whole volume
    return context


def _container(attempt: Attempt, settings: KubernetesSettings, resource: str) -> Manifest:
    spec = attempt.spec
    gpus = {resource: str(spec.gpus)} if spec.gpus else {}
    argv = ["/bin/sh", "-c", spec.command] if isinstance(spec.command, str) else list(spec.command)
    return {
        "name": CONTAINER,
        "image": spec.image,
        "command": [literal(argument) for argument in argv],
        "env": _environment(attempt),
        "resources": {
            "requests": {"cpu": spec.cpu, "memory": spec.memory, **gpus},
            # no limit of the CPU: it would only slow a job on an idle node
            "limits": {"memory": spec.memory, **gpus},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(spec),
    }


def _environment(attempt: Attempt) -> list[Manifest]:
    """The job's own variables win over all."""
    spec, name = attempt.spec, object_name(attempt)
    rank = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    ours: dict[str, str | Manifest] = {
        # The user has a number and no line in the image's passwd: without these `~` is `/`, and Python's getpass,
        # which PyTorch's compiler asks, fails.
        "HOME": "/tmp",  # noqa: S108 - a volume of the pod's own
        "USER": "user",
        "PYTHONUNBUFFERED": "1",
        "SIMPLETRAIN_JOB": attempt.job_name,
        "SIMPLETRAIN_ATTEMPT": str(attempt.key.number),
        "NODES": str(spec.nodes),
        "NNODES": str(spec.nodes),
        "NODE_RANK": rank,
        "WORLD_SIZE": str(spec.nodes),
        "RANK": rank,
        "GPUS": str(spec.gpus),
        "MASTER_ADDR": f"{name}-0.{name}" if spec.nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(MASTER_PORT),
        **{_volume_variable(volume.claim): volume.path for volume in reversed(spec.volumes)},
    }
    if not spec.gpus:
        ours["NVIDIA_VISIBLE_DEVICES"] = "void"  # images say `all`, and then a node shows GPUs that are not the job's
    return [
        {"name": variable, "value": literal(value)}
        if isinstance(value, str)
        else {"name": variable, "valueFrom": value}
        for variable, value in {**ours, **spec.env}.items()
    ]


def _volume_variable(claim: str) -> str:
    """Tells a script where a volume is, as on `this-machine`, where nothing can be mounted at its path."""
    return "SIMPLETRAIN_VOLUME_" + re.sub(r"[^A-Z0-9]", "_", claim.upper())


# volumes: /dev/shm for data loaders, /tmp that any user can write to, and the job's own over both


def _volumes(spec: JobSpec, settings: KubernetesSettings) -> list[Manifest]:
    taken = _paths(spec)
    volumes: list[Manifest] = []
    if "/dev/shm" not in taken:  # noqa: S108
        size = spec.shm or settings.shm or spec.memory
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    if "/tmp" not in taken:  # noqa: S108
        volumes.append({"name": "tmp", "emptyDir": {}})
    for name, mounts in _claims(spec).items():
        claim: Manifest = {"claimName": mounts[0].claim}
        if all(mount.read_only for mount in mounts):
            claim["readOnly"] = True
        volumes.append({"name": name, "persistentVolumeClaim": claim})
    return volumes


def _mounts(spec: JobSpec) -> list[Manifest]:
    taken = _paths(spec)
    own = (("shm", "/dev/shm"), ("tmp", "/tmp"))  # noqa: S108
    mounts: list[Manifest] = [{"name": name, "mountPath": path} for name, path in own if path not in taken]
    names = {volume.claim: name for name, volumes in _claims(spec).items() for volume in volumes}
    for volume in spec.volumes:
        mount: Manifest = {"name": names[volume.claim], "mountPath": volume.path}
        if volume.read_only:
            mount["readOnly"] = True
        mounts.append(mount)
    return mounts


def _claims(spec: JobSpec) -> dict[str, list[Volume]]:
    """Volume name → its mounts. One volume a claim: a pod with the same claim in two volumes never starts."""
    by_claim: dict[str, list[Volume]] = {}
    for volume in spec.volumes:
        by_claim.setdefault(volume.claim, []).append(volume)
    return {f"claim-{number}": mounts for number, mounts in enumerate(by_claim.values())}


def _paths(spec: JobSpec) -> set[str]:
    return {volume.path.rstrip("/") for volume in spec.volumes}


# GPUs


def _gpus(spec: JobSpec, settings: KubernetesSettings) -> tuple[str, Manifest]:
    """The resource to ask for, and the affinity to nodes that have one of the wanted types."""
    if not spec.gpus:
        return "", {}
    unknown = [name for name in spec.gpu_types if name not in settings.gpu_types]
    if unknown:
        raise Impossible(f"This cluster has no GPUs of type {' or '.join(unknown)}.")
    if not spec.gpu_types:
        resources = {kind.resource for kind in settings.gpu_types.values()} or {DEFAULT_GPU}
        return (DEFAULT_GPU if DEFAULT_GPU in resources else min(resources)), {}
    wanted = [settings.gpu_types[name] for name in spec.gpu_types]
    if len({kind.resource for kind in wanted}) > 1:
        # one pod asks for one resource; which of several to take would have to be chosen before
        raise Impossible(f"On this cluster a job cannot ask for {' or '.join(spec.gpu_types)}; choose one of them.")
    return wanted[0].resource, _affinity([kind.node_labels for kind in wanted])


def _affinity(choices: list[Mapping[str, str]]) -> Manifest:
    """Any of these sets of labels."""
    if not all(choices):
        return {}
    keys = {tuple(choice) for choice in choices}
    if len(keys) == 1 and len(choices[0]) == 1:
        (key,) = choices[0]
        terms = [_term({key: list(dict.fromkeys(choice[key] for choice in choices))})]
    else:
        terms = [_term({key: [value] for key, value in choice.items()}) for choice in choices]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"nodeAffinity": required}


def _term(wanted: Mapping[str, list[str]]) -> Manifest:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": values} for key, values in wanted.items()]}


# YAML

# What PyYAML writes without quotes another reader may take for a number (1e3, 0o17), a truth value (y, on) or a date.
_PLAIN = re.compile(r"[A-Za-z/][-A-Za-z0-9_./]*", re.ASCII)
_ANY_WIDTH = 2**31
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return None
    return "|" if _is_block(text) else '"'


def _is_block(text: str) -> bool:
    """Whether a block shows it, such as a script, as it was written, and nothing in it is lost or read otherwise."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and lines[0][:1].strip() != ""
        and not text.endswith("\n\n")
        and all(line.isprintable() and line == line.rstrip() for line in lines)
    )


_Dumper.add_representer(str, _write_text)
