"""From what a cluster shows to what people read: by table, as a real Kubernetes 1.37 once showed it, and by chance."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cluster.kubernetes.derive import observe
from app.cluster.protocol import Code, Observation, Outcome, Phase
from tests.cluster.kubernetes.objects import (
    IMAGE,
    Object,
    at,
    complete,
    condition,
    container,
    creating,
    dead,
    done,
    ended,
    event,
    failed,
    held_up,
    job,
    not_made,
    pod,
    running,
    taken,
    turned_away,
    unplaced,
    waiting,
    warning,
)

HELD, STARTING, RUNNING = Phase.HELD, Phase.STARTING, Phase.RUNNING
FAILED, SUCCEEDED, STOPPED, LOST = Outcome.FAILED, Outcome.SUCCEEDED, Outcome.STOPPED, Outcome.LOST


@dataclass(frozen=True)
class Case:
    """`shows` is the phase, or the outcome of an attempt that has ended."""

    name: str
    job: Object | None
    pods: list[Object]
    shows: Phase | Outcome
    code: Code
    text: str
    events: list[Object] = field(default_factory=list)
    nodes: int = 1
    asked: bool = False
    now: float = 200
    gone: list[Object] = field(default_factory=list)


def look(case: Case) -> Observation | None:
    return observe(case.job, case.pods, case.events, case.nodes, case.asked, at(case.now), case.gone)


NO_GPU = "4 Insufficient nvidia.com/gpu, 8 node(s) didn't match Pod's node affinity/selector."
PREEMPTION = " preemption: 0/12 nodes are available: 12 Preemption is not helpful for scheduling."
NOT_FOUND = f'rpc error: code = NotFound desc = failed to pull and unpack image "{IMAGE}": not found'
BACK_OFF = f'Back-off pulling image "{IMAGE}"'
QUOTA = (
    'pods "r-x-0-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=4, '
    "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
)
NOT_EXECUTABLE = 'exec: "./train": permission denied: unknown'
OCI = "failed to create containerd task: OCI runtime create failed: runc create failed: unable to start container: "
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was using 3Gi."


def short_of(what: str, nodes: int = 3) -> Object:
    return unplaced(
        f"0/{nodes} nodes are available: {nodes} {what}. preemption: 0/{nodes} nodes are available.", gpus=4
    )


BEGINNING = [
    Case("just made", job(), [], STARTING, Code.STARTING, "Its pods are being made."),
    Case("no scheduler has looked yet", job(), [pod(node="")], STARTING, Code.STARTING, "It waits for a node."),
    Case("bound", job(), [pod()], STARTING, Code.STARTING, "Its container is being made on node gpu-0."),
    Case("creating", job(), [creating()], STARTING, Code.STARTING, "Its container is being made on node gpu-0."),
    Case(
        "downloading the image",
        job(),
        [creating()],
        STARTING,
        Code.STARTING,
        "Its image is being downloaded on node gpu-0.",
        [event("pod-0", "Pulling", f'Pulling image "{IMAGE}"')],
    ),
    Case(
        "image is there",
        job(),
        [creating()],
        STARTING,
        Code.STARTING,
        "Its container is being made on node gpu-0.",
        [
            event("pod-0", "Pulling", f'Pulling image "{IMAGE}"', 20),
            event("pod-0", "Pulled", f'Successfully pulled image "{IMAGE}" in 9.1s (9.1s including waiting).', 29),
        ],
    ),
    Case(
        "an init container that the cluster added",
        job(),
        [
            pod(
                main=waiting("PodInitializing"),
                inits=[container("proxy", running={"startedAt": "2026-11-24T10:00:05Z"})],
            )
        ],
        STARTING,
        Code.STARTING,
        "Its init container proxy runs.",
    ),
    Case("suspended", job(suspend=True), [], HELD, Code.SUSPENDED, "The cluster's own queue holds it back."),
    Case(
        "gated",
        job(),
        [unplaced("Scheduling is blocked due to non-empty scheduling gates", reason="SchedulingGated")],
        HELD,
        Code.SUSPENDED,
        "The cluster's own queue holds it back.",
    ),
    Case(
        "others make room",
        job(),
        [unplaced("0/1 nodes are available: 1 Insufficient cpu.", nominatedNodeName="gpu-3")],
        STARTING,
        Code.STARTING,
        "Room is being made for it on node gpu-3.",
    ),
]

NO_POD = [
    (QUOTA, Code.QUOTA, "The namespace's quota of GPUs is full: 4 asked for, 8 of 8 in use."),
    (
        'pods "x" is forbidden: exceeded quota: all, requested: limits.memory=16Gi,pods=1, used: '
        "limits.memory=48Gi,pods=3, limited: limits.memory=50Gi,pods=9",
        Code.QUOTA,
        "The namespace's quota of memory is full: 16Gi asked for, 48Gi of 50Gi in use.",
    ),
    ('pods "x" is forbidden: exceeded quota: odd', Code.QUOTA, "The namespace's quota is full."),
    (
        'pods "x" is forbidden: failed quota: all: must specify limits.cpu for: main; requests.cpu for: main',
        Code.POLICY,
        "The namespace's quota wants every pod to specify limits.cpu, and this job's do not.",
    ),
    (
        'pods "x" is forbidden: violates PodSecurity "restricted:v1.31": allowPrivilegeEscalation != false (container '
        '"main" must set securityContext.allowPrivilegeEscalation=false), runAsUser=0 (pod must not set runAsUser=0)',
        Code.POLICY,
        "The namespace's security level, restricted, forbids its pods: allowPrivilegeEscalation != false, runAsUser=0.",
    ),
    (
        'admission webhook "validate.kyverno.svc" denied the request: images must come from registry.example',
        Code.POLICY,
        "A rule of the cluster (validate.kyverno.svc) forbids its pods: images must come from registry.example.",
    ),
    (
        "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'queue' with binding 'b' denied request: no queue label",
        Code.POLICY,
        "A rule of the cluster (queue) forbids its pods: no queue label.",
    ),
    (
        'Internal error occurred: failed calling webhook "check.example": Post "https://x": context deadline exceeded',
        Code.POLICY,
        "A check that the cluster makes before each pod does not answer (check.example).",
    ),
    (
        'pods "x-" is forbidden: no PriorityClass with name batch was found',
        Code.POLICY,
        "The cluster has no priority class batch.",
    ),
    (
        'pods "x" is forbidden: maximum memory usage per Container is 8Gi, but limit is 16Gi',
        Code.POLICY,
        "The namespace's limits forbid its pods: maximum memory usage per Container is 8Gi, but limit is 16Gi.",
    ),
    (
        'pods "x" is forbidden: error looking up service account team-a/default: serviceaccount "default" not found',
        Code.POLICY,
        "The namespace has no service account for its pods yet.",
    ),
    ("the moon is full.", Code.STARTING, "The cluster does not make its pods: the moon is full."),
]
BEGINNING += [
    Case(f"no pod: {text}", job(), [], STARTING, code, text, [not_made(said)]) for said, code, text in NO_POD
] + [
    Case(
        "a pod was made after all",
        job(),
        [],
        STARTING,
        Code.STARTING,
        "Its pods are being made.",
        [not_made(QUOTA, 20), event("job-uid", "SuccessfulCreate", "Created pod: r-x-0-abcde", 30)],
    ),
    Case(
        "no pod for some ranks",
        job(nodes=3),
        [running(0), running(1)],
        STARTING,
        Code.QUOTA,
        "2 of 3 ranks are running; the namespace's quota of GPUs is full: 4 asked for, 8 of 8 in use.",
        [not_made(QUOTA)],
        nodes=3,
    ),
    Case(
        "an event of another Job",
        job(),
        [],
        STARTING,
        Code.STARTING,
        "Its pods are being made.",
        [{**not_made(QUOTA), "involvedObject": {"kind": "Job", "uid": "another"}}],
    ),
]

NO_NODE = [
    (
        unplaced(f"0/12 nodes are available: {NO_GPU}{PREEMPTION}", gpus=4),
        Code.NO_FREE_GPU,
        "No node has 4 free GPUs (12 nodes checked).",
    ),
    (
        unplaced(
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1",
            gpus=1,
        ),
        Code.NO_FREE_GPU,
        "No node has 1 free GPU (1 node checked).",
    ),
    (short_of("Insufficient nvidia.com/mig-1g.10gb"), Code.NO_FREE_GPU, "No node has 4 free GPUs (3 nodes checked)."),
    (
        short_of("Insufficient cpu, 3 Insufficient memory"),
        Code.UNSCHEDULABLE,
        "No node has enough free CPU and memory (3 nodes checked).",
    ),
    (short_of("Too many pods"), Code.UNSCHEDULABLE, "Every node has as many pods as it may have (3 nodes checked)."),
    (
        short_of("node(s) had untolerated taint {dedicated: vision}"),
        Code.UNSCHEDULABLE,
        "The nodes that could take it are closed by a taint, dedicated (3 nodes checked).",
    ),
    (
        short_of("node(s) had untolerated taint(s)"),
        Code.UNSCHEDULABLE,
        "The nodes that could take it are closed by a taint (3 nodes checked).",
    ),
    (
        short_of("node(s) were unschedulable"),
        Code.UNSCHEDULABLE,
        "The nodes that could take it are closed for new pods, as before maintenance (3 nodes checked).",
    ),
    (
        short_of("node(s) didn't match Pod's node affinity/selector"),
        Code.UNSCHEDULABLE,
        "No node has the labels it asks for (3 nodes checked).",
    ),
    (
        short_of("node(s) had volume node affinity conflict"),
        Code.VOLUME,
        "A volume that it uses is out of reach of every node that could take it.",
    ),
    (
        unplaced('0/3 nodes are available: persistentvolumeclaim "datasets" not found. preemption: 0/3'),
        Code.VOLUME,
        "The volume datasets does not exist in the cluster's namespace.",
    ),
    (
        unplaced("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3"),
        Code.VOLUME,
        "A volume that it uses has no storage yet.",
    ),
    (unplaced("no nodes available to schedule pods"), Code.UNSCHEDULABLE, "The cluster has no node."),
    (
        short_of("node(s) didn't satisfy plugin(s) [Moon]"),
        Code.UNSCHEDULABLE,
        "No node takes it: node(s) didn't satisfy plugin(s) [Moon] (3 nodes checked).",
    ),
]
BEGINNING += [Case(f"no node: {text}", job(), [each], STARTING, code, text) for each, code, text in NO_NODE] + [
    Case(
        "no node has such a GPU free",
        job(gpu_types="A100,H100"),
        [unplaced(f"0/12 nodes are available: {NO_GPU}", gpus=4)],
        STARTING,
        Code.NO_FREE_GPU,
        "No node has 4 free GPUs of type A100 or H100 (12 nodes checked).",
    ),
    Case(
        "no node has such a GPU",
        job(gpu_types="B200"),
        [short_of("node(s) didn't match Pod's node affinity/selector")],
        STARTING,
        Code.UNSCHEDULABLE,
        "No node has GPUs of type B200 (3 nodes checked).",
    ),
    Case(
        "one rank of a gang finds no node",
        job(nodes=4),
        [running(0), running(1), unplaced(f"0/12 nodes are available: {NO_GPU}", rank=2, gpus=8), running(3)],
        STARTING,
        Code.NO_FREE_GPU,
        "3 of 4 ranks are running; rank 2: no node has 8 free GPUs (12 nodes checked).",
        nodes=4,
    ),
    Case(
        "no rank of a gang finds a node",
        job(nodes=2),
        [unplaced(f"0/12 nodes are available: {NO_GPU}", rank=rank, gpus=8) for rank in (0, 1)],
        STARTING,
        Code.NO_FREE_GPU,
        "No node has 8 free GPUs (12 nodes checked).",
        nodes=2,
    ),
    Case(
        "one rank is on its way, the other finds no node",
        job(nodes=2),
        [creating(0), unplaced(f"0/12 nodes are available: {NO_GPU}", rank=1, gpus=8)],
        STARTING,
        Code.NO_FREE_GPU,
        "No rank of 2 runs yet; rank 1: no node has 8 free GPUs (12 nodes checked).",
        nodes=2,
    ),
]

LOGIN = "rpc error: code = Unknown desc = unexpected status from HEAD request: 401 Unauthorized"
IMAGES = [
    (f"{BACK_OFF}: ErrImagePull: {NOT_FOUND}", f"Image {IMAGE} was not found.", True),
    (f"ErrImagePull: {LOGIN}", f"The registry refused the login for image {IMAGE}.", True),
    (
        "pull access denied, repository does not exist or may require authorization: server message: denied",
        f"Image {IMAGE} does not exist, or its registry wants a login.",
        True,
    ),
    (
        "tls: failed to verify certificate: x509: unknown",
        f"The node does not trust the registry of image {IMAGE}.",
        True,
    ),
    (
        "no match for platform in manifest: not found",
        f"Image {IMAGE} is not made for the node's kind of processor.",
        True,
    ),
    ("write /var: no space left on device", f"The node's disk has no room for image {IMAGE}.", True),
    ("rpc error: something new", f"Image {IMAGE} cannot be downloaded.", True),
    (
        "429 Too Many Requests: toomanyrequests: You have reached your pull rate limit",
        f"The registry of image {IMAGE} is busy or out of reach; the node tries again.",
        False,
    ),
    ("dial tcp: i/o timeout", f"The registry of image {IMAGE} is busy or out of reach; the node tries again.", False),
    ("502 Bad Gateway", f"The registry of image {IMAGE} is busy or out of reach; the node tries again.", False),
]
FIRST_TRY = [warning("pod-0", "Failed", f'Failed to pull image "{IMAGE}": x', 20, 300)]
BEGINNING += (
    [
        Case(f"image: {said}", job(), [held_up("ImagePullBackOff", said)], STARTING, Code.IMAGE, text, FIRST_TRY)
        for said, text, _ in IMAGES
    ]
    + [
        Case(
            f"image, five minutes later: {said}",
            job(),
            [held_up("ErrImagePull", said)],
            FAILED if hopeless else STARTING,
            Code.IMAGE,
            text,
            FIRST_TRY,
            now=321,
        )
        for said, text, hopeless in IMAGES
    ]
    + [
        Case(
            "the name of the image makes no sense",
            job(),
            [held_up("InvalidImageName", "couldn't parse image name")],
            FAILED,
            Code.IMAGE,
            f"The name {IMAGE} cannot be that of an image.",
        ),
        Case(
            "the image may not be downloaded",
            job(),
            [held_up("ErrImageNeverPull")],
            FAILED,
            Code.IMAGE,
            f"Image {IMAGE} is not on the node, and the cluster may not download it.",
        ),
        Case(
            "an older node keeps the cause in an event",
            job(),
            [held_up("ImagePullBackOff", BACK_OFF)],
            STARTING,
            Code.IMAGE,
            f"Image {IMAGE} was not found.",
            [
                warning("pod-0", "Failed", f'Failed to pull image "{IMAGE}": {NOT_FOUND}', 20),
                warning("pod-0", "Failed", "Error: ErrImagePull", 20),
                event("pod-0", "BackOff", BACK_OFF, 40),
            ],
        ),
        Case(
            "when it first failed nobody knows",
            job(),
            [held_up("ErrImagePull", NOT_FOUND)],
            STARTING,
            Code.IMAGE,
            f"Image {IMAGE} was not found.",
            now=1200,
        ),
        Case(
            "when it first failed nobody knows, and it is long ago",
            job(),
            [held_up("ErrImagePull", NOT_FOUND)],
            FAILED,
            Code.IMAGE,
            f"Image {IMAGE} was not found.",
            now=1802,
        ),
        Case(
            "a stop that was asked for is not overtaken by impatience",
            job(),
            [held_up("InvalidImageName")],
            STARTING,
            Code.IMAGE,
            f"The name {IMAGE} cannot be that of an image.",
            asked=True,
        ),
        Case(
            "one rank has no image",
            job(nodes=2),
            [running(0), held_up("ErrImagePull", NOT_FOUND, rank=1)],
            FAILED,
            Code.IMAGE,
            f"Rank 1: image {IMAGE} was not found.",
            [warning("pod-1", "Failed", "Failed to pull image", 20)],
            nodes=2,
            now=400,
        ),
    ]
)

UNMADE = [
    (
        "CreateContainerConfigError",
        'secret "wandb" not found',
        "The Secret wandb does not exist in the cluster's namespace.",
    ),
    (
        "CreateContainerConfigError",
        "couldn't find key token in Secret team-a/wandb",
        "The Secret wandb has no key token.",
    ),
    (
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root",
        "Its image runs as root, which the namespace forbids.",
    ),
    ("CreateContainerError", "no command specified", "It has no command, and neither has its image."),
    ("RunContainerError", "the moon is full", "Its container cannot be made: the moon is full."),
    ("SomethingNew", "", "Its container cannot be made: SomethingNew."),
]
CANNOT_MOUNT = 'MountVolume.SetUp failed for volume "claim-0" : mount failed: exit status 32'
BEGINNING += (
    [
        Case(f"{reason}: {said}", job(), [held_up(reason, said)], STARTING, Code.STARTING, text)
        for reason, said, text in UNMADE
    ]
    + [
        Case(
            f"ten minutes later, {reason}: {said}",
            job(),
            [held_up(reason, said)],
            FAILED,
            Code.COULD_NOT_START,
            text,
            now=601,
        )
        for reason, said, text in UNMADE
    ]
    + [
        Case(
            "it waits for a volume",
            job(),
            [creating(claims=("datasets",))],
            STARTING,
            Code.VOLUME,
            "It waits for the volume datasets.",
            [warning("pod-0", "FailedMount", CANNOT_MOUNT, 30, 190)],
        ),
        Case(
            "it waits for a volume in vain",
            job(),
            [creating(claims=("datasets",))],
            FAILED,
            Code.COULD_NOT_START,
            "It waits for the volume datasets.",
            [warning("pod-0", "FailedMount", CANNOT_MOUNT, 30, 620)],
            now=640,
        ),
        Case(
            "a trouble with a volume that has passed",
            job(),
            [creating(claims=("datasets",))],
            STARTING,
            Code.VOLUME,
            "It waits for the volume datasets.",
            [warning("pod-0", "FailedMount", CANNOT_MOUNT, 30, 100)],
            now=640,
        ),
        Case(
            "another node holds the volume",
            job(),
            [creating()],
            STARTING,
            Code.VOLUME,
            "A volume that it uses is still held by another node.",
            [warning("pod-0", "FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used')],
        ),
        Case(
            "the node cannot make a sandbox",
            job(),
            [creating()],
            STARTING,
            Code.STARTING,
            "Node gpu-0 cannot start its container; it tries again.",
            [warning("pod-0", "FailedCreatePodSandBox", "plugin type=bridge failed")],
        ),
        Case(
            "a warning from before it had its node",
            job(),
            [pod(0, condition("PodScheduled", 50), main=waiting("ContainerCreating"))],
            STARTING,
            Code.STARTING,
            "Its container is being made on node gpu-0.",
            [warning("pod-0", "FailedMount", CANNOT_MOUNT, 0, 0)],
        ),
        Case(
            "a container that ends again and again",
            job(),
            [pod(main=waiting("CrashLoopBackOff", "back-off", last=ended(1)["state"]["terminated"]))],
            STARTING,
            Code.STARTING,
            "It ends again and again; the last time with exit code 1.",
        ),
        Case(
            "an init container that ends again and again",
            job(),
            [
                pod(
                    main=waiting("PodInitializing"),
                    inits=[waiting("CrashLoopBackOff", "back-off", "proxy", last=ended(127)["state"]["terminated"])],
                )
            ],
            STARTING,
            Code.STARTING,
            "Its container proxy ends again and again; the last time with exit code 127 (a command was not found).",
        ),
    ]
)

UNREACHED = condition("Ready", 100, status="False")
GOING = [
    Case("it runs", job(), [running()], RUNNING, Code.RUNNING, "It runs on node gpu-0."),
    Case("all run", job(nodes=3), [running(r) for r in range(3)], RUNNING, Code.RUNNING, "All 3 ranks run.", nodes=3),
    Case(
        "some run",
        job(nodes=3),
        [running(0), creating(1), running(2)],
        STARTING,
        Code.STARTING,
        "2 of 3 ranks are running; rank 1: its container is being made on node gpu-1.",
        nodes=3,
    ),
    Case(
        "one rank has no pod yet",
        job(nodes=2),
        [running(0)],
        STARTING,
        Code.STARTING,
        "1 of 2 ranks is running.",
        nodes=2,
    ),
    Case(
        "a rank that is done",
        job(nodes=3),
        [running(0), done(1), running(2)],
        RUNNING,
        Code.RUNNING,
        "2 of 3 ranks still run.",
        nodes=3,
    ),
    Case(
        "done, not yet said", job(), [done()], RUNNING, Code.RUNNING, "It has ended; the cluster has not said so yet."
    ),
    Case(
        "success is near",
        job(condition("SuccessCriteriaMet", 99)),
        [done()],
        RUNNING,
        Code.RUNNING,
        "It has ended; the cluster cleans up.",
    ),
    Case(
        "its node is silent",
        job(),
        [running(0, 10, UNREACHED)],
        RUNNING,
        Code.NODE_LOST,
        "Its node gpu-0 does not answer.",
    ),
    Case(
        "a rank's node is silent",
        job(nodes=2),
        [running(0), running(1, 10, UNREACHED)],
        RUNNING,
        Code.NODE_LOST,
        "Rank 1: its node gpu-1 does not answer.",
        nodes=2,
    ),
    Case(
        "it is not ready yet, for a moment",
        job(),
        [running(0, 10, UNREACHED)],
        RUNNING,
        Code.RUNNING,
        "It runs on node gpu-0.",
        now=110,
    ),
    Case(
        "a pod of an earlier Job of that name",
        job(),
        [{**running(), "metadata": {**running()["metadata"], "ownerReferences": [{"uid": "old", "controller": True}]}}],
        STARTING,
        Code.STARTING,
        "Its pods are being made.",
    ),
    Case(
        "news of the pods came before news of the Job",
        None,
        [running()],
        RUNNING,
        Code.RUNNING,
        "It runs on node gpu-0.",
        now=20,
    ),
]

ENDING = [
    Case(
        "one rank has failed and the Job ends the others",
        job(condition("FailureTarget", 91, "BackoffLimitExceeded"), nodes=4),
        [running(0), running(1, deleted=91), dead(2), running(3, deleted=91)],
        RUNNING,
        Code.EXIT_CODE,
        "Rank 2 ended with exit code 1; the other 3 are being ended.",
        nodes=4,
    ),
    Case(
        "the failed pod is gone",
        job(condition("FailureTarget", 91, "PodFailurePolicy", "Pod x has condition DisruptionTarget")),
        [],
        STARTING,
        Code.STOPPING,
        "It has failed; its ranks are being ended.",
    ),
    Case(
        "a rank that the Job ended is not the one that failed",
        job(condition("FailureTarget", 80, "BackoffLimitExceeded"), nodes=2),
        [dead(1, 137, 85, deleted=85, grace=0)],
        STARTING,
        Code.STOPPING,
        "It has failed; its ranks are being ended.",
        nodes=2,
    ),
    Case(
        "somebody removes a pod",
        job(nodes=2),
        [running(0), running(1, deleted=180)],
        RUNNING,
        Code.STOPPING,
        "Rank 1 is being removed on the cluster, outside the portal.",
        nodes=2,
    ),
    Case(
        "a pod is being evicted",
        job(),
        [running(0, 10, taken("EvictionByEvictionAPI", 180, "Eviction API: evicting"), deleted=180)],
        RUNNING,
        Code.EVICTED,
        "It was evicted from node gpu-0, as when a node is drained; its time of grace runs.",
    ),
    Case(
        "it stops because we asked",
        job(deleted=180),
        [running(deleted=180)],
        RUNNING,
        Code.STOPPING,
        "It was asked to stop and ends now.",
        asked=True,
    ),
    Case(
        "its Job is gone at once and its pods follow",
        None,
        [running(0, deleted=180), running(1, deleted=180), done(2)],
        RUNNING,
        Code.STOPPING,
        "It was asked to stop and ends now. 2 of 3 ranks still run.",
        nodes=3,
        asked=True,
    ),
    Case(
        "somebody removes it",
        None,
        [running(deleted=180)],
        RUNNING,
        Code.STOPPING,
        "It is being removed on the cluster, outside the portal.",
    ),
    Case(
        "somebody removed the Job and left the pods",
        None,
        [running()],
        RUNNING,
        Code.REMOVED,
        "Its Job was removed on the cluster, outside the portal; its ranks were left to themselves.",
    ),
    Case(
        "a node does not answer a stop",
        None,
        [running(0, deleted=100), running(1, deleted=100)],
        RUNNING,
        Code.STOPPING,
        "Node gpu-0 does not answer, so that rank 0 cannot be ended there.",
        nodes=2,
        asked=True,
        now=100 + 60 + 300,
    ),
    Case(
        "the Job says Failed before its pods are seen to have ended",
        job(failed(195)),
        [running()],
        RUNNING,
        Code.STOPPING,
        "It has failed; its ranks are being ended.",
    ),
    Case(
        "the Job says Complete before its pods are seen to have ended",
        job(complete(195)),
        [running()],
        RUNNING,
        Code.RUNNING,
        "It has ended; the cluster cleans up.",
    ),
]

EXITS = [
    (1, Code.EXIT_CODE, "exit code 1"),
    (2, Code.EXIT_CODE, "exit code 2"),
    (126, Code.EXIT_CODE, "exit code 126 (a command was found but is not executable)"),
    (127, Code.EXIT_CODE, "exit code 127 (a command was not found)"),
    (134, Code.SIGNAL, "exit code 134 (aborted, signal 6)"),
    (135, Code.SIGNAL, "exit code 135 (a bus error, signal 7; often /dev/shm is too small)"),
    (136, Code.SIGNAL, "exit code 136 (an arithmetic error, signal 8)"),
    (137, Code.SIGNAL, "exit code 137 (killed, signal 9; the cluster does not say why)"),
    (139, Code.SIGNAL, "exit code 139 (a bad memory access, signal 11)"),
    (143, Code.SIGNAL, "exit code 143 (asked to end, signal 15)"),
    (255, Code.EXIT_CODE, "exit code 255"),
]
TAKEN = [
    (
        dead(0, 143, 90, taken("PreemptionByScheduler")),
        Code.PREEMPTED,
        "It had to leave node gpu-0 to make room for a pod of higher priority.",
    ),
    (
        dead(0, 137, 90, taken("EvictionByEvictionAPI")),
        Code.EVICTED,
        "It was evicted from node gpu-0, as when a node is drained.",
    ),
    (
        dead(0, 1, 90, taken("DeletionByTaintManager")),
        Code.NODE_LOST,
        "It had to leave node gpu-0, which was lost or closed.",
    ),
    (
        dead(0, None, 90, taken("DeletionByPodGC", message="PodGC: node no longer exists")),
        Code.NODE_LOST,
        "It was lost together with node gpu-0.",
    ),
    (
        turned_away("Evicted", LOW, 0, taken("TerminationByKubelet", message=LOW)),
        Code.EVICTED,
        "It was evicted: node gpu-0 ran out of memory.",
    ),
    (turned_away("Evicted", LOW), Code.EVICTED, "It was evicted: node gpu-0 ran out of memory."),
    (
        turned_away("Evicted", "The node had condition: [DiskPressure]. "),
        Code.EVICTED,
        "It was evicted: node gpu-0 ran out of disk space.",
    ),
    (
        turned_away("Evicted", 'Usage of EmptyDir volume "shm" exceeds the limit "2Gi". '),
        Code.EVICTED,
        "It was evicted: it wrote more than 2 GiB to /dev/shm.",
    ),
    (
        turned_away("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. "),
        Code.EVICTED,
        "It was evicted: it wrote more than 10 GiB to the node's disk.",
    ),
    (
        turned_away("Terminated", "Pod was terminated in response to imminent node shutdown."),
        Code.EVICTED,
        "It had to leave node gpu-0, which was shut down.",
    ),
    (turned_away("NodeLost", "Node gpu-0 is unresponsive"), Code.NODE_LOST, "It was lost together with node gpu-0."),
    (dead(0, 143, 90, taken("SomethingNew")), Code.EVICTED, "It had to leave node gpu-0."),
    (
        turned_away("OutOfnvidia.com/gpu", "Pod was rejected: Node didn't have enough resource: nvidia.com/gpu"),
        Code.COULD_NOT_START,
        "It was turned away by node gpu-0, which had too little GPU left.",
    ),
    (
        turned_away("UnexpectedAdmissionError", "Pod was rejected: Allocate failed due to devices unavailable"),
        Code.COULD_NOT_START,
        "It was turned away by node gpu-0, whose devices were not all there.",
    ),
    (
        turned_away("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed"),
        Code.COULD_NOT_START,
        "It was turned away by node gpu-0, which no longer fits what it asks for.",
    ),
    (
        turned_away("DeadlineExceeded", "Pod was active on the node longer than", deadline=90000),
        Code.TIME_LIMIT,
        "It was ended by the cluster at its limit of 25 h on a node.",
    ),
    (
        dead(0, 137, why="OOMKilled"),
        Code.OUT_OF_MEMORY,
        "It used more than its 64 GiB of memory and was killed.",
    ),
    (
        dead(0, 137, why="OOMKilled", memory=""),
        Code.OUT_OF_MEMORY,
        "It was killed because its node ran out of memory.",
    ),
    (
        dead(0, 128, why="StartError", says=f'{OCI}exec: "nope": executable file not found in $PATH: unknown'),
        Code.COULD_NOT_START,
        "It could not start: the command nope was not found in the image.",
    ),
    (
        dead(0, 128, why="ContainerCannotRun", says=OCI + NOT_EXECUTABLE),
        Code.COULD_NOT_START,
        "It could not start: the command ./train is not executable in the image.",
    ),
    (
        dead(0, 128, why="StartError", says="the moon is full"),
        Code.COULD_NOT_START,
        "It could not start: the node says: the moon is full.",
    ),
    (
        dead(0, 137, why="ContainerStatusUnknown", says="The container could not be located"),
        Code.NODE_LOST,
        "It is gone, and node gpu-0 does not know how it ended.",
    ),
    (
        pod(phase="Failed", main=waiting("PodInitializing"), inits=[ended(3, name="fetch")]),
        Code.COULD_NOT_START,
        "It could not start: its init container fetch ended with exit code 3.",
    ),
    (pod(phase="Failed"), Code.COULD_NOT_START, "It failed, and the cluster does not say why."),
]
OVER = [
    Case("it succeeded", job(complete()), [done()], SUCCEEDED, Code.SUCCEEDED, "It ended with exit code 0."),
    Case(
        "a gang succeeded",
        job(complete(), nodes=2),
        [done(0), done(1)],
        SUCCEEDED,
        Code.SUCCEEDED,
        "All 2 ranks ended with exit code 0.",
        nodes=2,
    ),
    Case(
        "it succeeded before the stop",
        job(complete(), deleted=150),
        [],
        SUCCEEDED,
        Code.SUCCEEDED,
        "It ended with exit code 0.",
        asked=True,
    ),
    Case(
        "a limit on the Job",
        job(failed(reason="DeadlineExceeded"), deadline=86400),
        [],
        FAILED,
        Code.TIME_LIMIT,
        "Stopped at its time limit of 24 h.",
    ),
    Case(
        "the first that failed is the cause",
        job(failed(), nodes=4),
        [dead(0, 134, 95), dead(1, 1, 95), dead(2, 137, 90, why="OOMKilled"), dead(3, 1, 100)],
        FAILED,
        Code.OUT_OF_MEMORY,
        "Rank 2 used more than its 64 GiB of memory and was killed; the other 3 ended after it.",
        nodes=4,
    ),
    Case(
        "of two in the same second the one that was not asked to end",
        job(failed(), nodes=2),
        [dead(0, 143, 90), dead(1, 9, 90)],
        FAILED,
        Code.EXIT_CODE,
        "Rank 1 ended with exit code 9; the other one ended after it.",
        nodes=2,
    ),
    Case(
        "ranks that were done are not told",
        job(failed(), nodes=3),
        [done(0, 50), dead(1, 3), dead(2, 143, 99)],
        FAILED,
        Code.EXIT_CODE,
        "Rank 1 ended with exit code 3; one other ended after it.",
        nodes=3,
    ),
    Case(
        "the cluster removed the others",
        job(failed(), nodes=4),
        [dead(2, 5)],
        FAILED,
        Code.EXIT_CODE,
        "Rank 2 ended with exit code 5; the other 3 ended after it.",
        nodes=4,
    ),
    Case(
        "a lost node is the cause of what other ranks say of it",
        job(failed(), nodes=2),
        [dead(0, 1, 95), dead(1, 137, 150, taken("DeletionByTaintManager", 80))],
        FAILED,
        Code.NODE_LOST,
        "Rank 1 had to leave node gpu-1, which was lost or closed; the other one ended after it.",
        nodes=2,
    ),
    Case(
        "the pod that was taken away is gone",
        job(failed(reason="PodFailurePolicy", message="Pod a/r-x-a1-3-abcde has condition DisruptionTarget"), nodes=4),
        [],
        FAILED,
        Code.EVICTED,
        "Rank 3 was taken away by the cluster: its node was drained or lost, or others needed it.",
        nodes=4,
    ),
    Case(
        "the pod that was taken away is remembered",
        job(condition("FailureTarget", 95), failed(reason="PodFailurePolicy", message="DisruptionTarget")),
        [],
        FAILED,
        Code.PREEMPTED,
        "It had to leave node gpu-0 to make room for a pod of higher priority.",
        gone=[dead(0, 137, 90, taken("PreemptionByScheduler"), deleted=90, grace=0)],
    ),
    Case(
        "all pods are gone",
        job(failed()),
        [],
        LOST,
        Code.REMOVED,
        "Its pods were removed on the cluster, outside the portal, and how it ended went with them.",
    ),
    Case(
        "a removed pod is remembered",
        job(condition("FailureTarget", 95), failed(), nodes=2),
        [],
        LOST,
        Code.REMOVED,
        "Rank 1 was removed on the cluster, outside the portal; the other one ended after it.",
        nodes=2,
        gone=[dead(0, 137, 99, deleted=99, grace=0), dead(1, 143, 90, deleted=90, grace=0)],
    ),
    Case(
        "a pod that was removed while we stop it",
        job(failed()),
        [dead(0, 143, 90, deleted=80)],
        STOPPED,
        Code.STOPPED,
        "It was stopped.",
        asked=True,
    ),
    Case(
        "its pods were never seen to end",
        job(failed(100)),
        [running()],
        LOST,
        Code.REMOVED,
        "Its pods were removed on the cluster, outside the portal, and how it ended went with them.",
    ),
    Case("we asked, and no pod is left", job(deleted=150), [], STOPPED, Code.STOPPED, "It was stopped.", asked=True),
    Case(
        "somebody removes it, and no pod is left",
        job(deleted=150),
        [],
        LOST,
        Code.REMOVED,
        "It was removed on the cluster, outside the portal.",
    ),
    Case(
        "its Job is gone and its pods have ended",
        None,
        [done()],
        LOST,
        Code.REMOVED,
        "It was removed on the cluster, outside the portal.",
    ),
]
OVER += [
    Case(f"it ended: {text}", job(failed()), [dead(0, number)], FAILED, code, f"It ended with {text}.")
    for number, code, text in EXITS
] + [Case(f"it failed: {text}", job(failed()), [each], FAILED, code, text) for each, code, text in TAKEN]

CASES = BEGINNING + GOING + ENDING + OVER


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_a_cluster_shows_is_told_in_a_sentence(case: Case) -> None:
    seen = look(case)
    assert seen is not None
    shows = seen.phase if seen.phase is not Phase.ENDED else seen.outcome
    assert (shows, seen.reason.code, seen.reason.text) == (case.shows, case.code, case.text)


# what a real cluster showed, recorded on Kubernetes 1.37.2 with the objects that manifests.py makes

RECORDED = Path(__file__).parent / "recorded"
REAL = [
    ("badimage", Phase.ENDED, Outcome.FAILED, Code.IMAGE, "The name Bad Name cannot be that of an image.", None),
    ("claim", Phase.STARTING, None, Code.VOLUME, "The volume nodata does not exist in the cluster's namespace.", None),
    (
        "deadline",
        Phase.ENDED,
        Outcome.FAILED,
        Code.TIME_LIMIT,
        "It was ended by the cluster at its limit of 3 s on a node.",
        None,
    ),
    (
        "deleted-2",
        Phase.RUNNING,
        None,
        Code.STOPPING,
        "Rank 1 is being removed on the cluster, outside the portal.",
        None,
    ),
    (
        "deleted-end",
        Phase.ENDED,
        Outcome.LOST,
        Code.REMOVED,
        "Its pods were removed on the cluster, outside the portal, and how it ended went with them.",
        None,
    ),
    (
        "deleted-remembered",
        Phase.ENDED,
        Outcome.LOST,
        Code.REMOVED,
        "Rank 1 was removed on the cluster, outside the portal; the other one ended after it.",
        None,
    ),
    (
        "evicted-2",
        Phase.RUNNING,
        None,
        Code.EVICTED,
        "Rank 0 was evicted from node localhost, as when a node is drained; its time of grace runs.",
        None,
    ),
    (
        "evicted-end",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EVICTED,
        "Rank 0 was taken away by the cluster: its node was drained or lost, or others needed it.",
        None,
    ),
    (
        "evicted-remembered",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EVICTED,
        "Rank 0 was evicted from node localhost, as when a node is drained; the other one ended after it.",
        None,
    ),
    ("exit", Phase.ENDED, Outcome.FAILED, Code.EXIT_CODE, "It ended with exit code 3.", 3),
    (
        "gang-remembered",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EXIT_CODE,
        "Rank 1 ended with exit code 9; the other 2 ended after it.",
        9,
    ),
    (
        "gang",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EXIT_CODE,
        "Rank 1 ended with exit code 9; the other 2 ended after it.",
        9,
    ),
    (
        "ganggpu-1",
        Phase.STARTING,
        None,
        Code.NO_FREE_GPU,
        "2 of 3 ranks are running; rank 1: no node has 4 free GPUs (1 node checked).",
        None,
    ),
    (
        "ganggpu-2",
        Phase.STARTING,
        None,
        Code.STOPPING,
        "It was asked to stop and ends now. 2 of 3 ranks still run.",
        None,
    ),
    ("gangok", Phase.ENDED, Outcome.SUCCEEDED, Code.SUCCEEDED, "All 3 ranks ended with exit code 0.", 0),
    (
        "nocmd",
        Phase.ENDED,
        Outcome.FAILED,
        Code.COULD_NOT_START,
        "It could not start: the command nope was not found in the image.",
        None,
    ),
    (
        "noimage",
        Phase.STARTING,
        None,
        Code.IMAGE,
        "The registry of image localhost:1/none:1 is busy or out of reach; the node tries again.",
        None,
    ),
    (
        "oom",
        Phase.ENDED,
        Outcome.FAILED,
        Code.OUT_OF_MEMORY,
        "It used more than its 64 MiB of memory and was killed.",
        137,
    ),
    (
        "preempt-1",
        Phase.RUNNING,
        None,
        Code.PREEMPTED,
        "It had to leave node localhost to make room for a pod of higher priority; its time of grace runs.",
        None,
    ),
    (
        "preempt-end",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EVICTED,
        "It was taken away by the cluster: its node was drained or lost, or others needed it.",
        None,
    ),
    (
        "preempt-remembered",
        Phase.ENDED,
        Outcome.FAILED,
        Code.PREEMPTED,
        "It had to leave node localhost to make room for a pod of higher priority.",
        None,
    ),
    (
        "quota",
        Phase.STARTING,
        None,
        Code.QUOTA,
        "2 of 3 ranks are running; the namespace's quota of GPUs is full: 2 asked for, 4 of 4 in use.",
        None,
    ),
    ("removed-1", Phase.RUNNING, None, Code.STOPPING, "It is being removed on the cluster, outside the portal.", None),
    (
        "security",
        Phase.STARTING,
        None,
        Code.POLICY,
        "The namespace's security level, restricted, forbids its pods: runAsUser=0.",
        None,
    ),
    (
        "taint-end",
        Phase.ENDED,
        Outcome.FAILED,
        Code.EVICTED,
        "Rank 0 was taken away by the cluster: its node was drained or lost, or others needed it.",
        None,
    ),
    (
        "taint-remembered",
        Phase.ENDED,
        Outcome.FAILED,
        Code.NODE_LOST,
        "Rank 0 had to leave node localhost, which was lost or closed; the other one ended after it.",
        None,
    ),
    ("types", Phase.STARTING, None, Code.UNSCHEDULABLE, "No node has GPUs of type H100 (1 node checked).", None),
]


def recorded(name: str) -> Case:
    kept = json.loads((RECORDED / f"{name}.json").read_text())
    seconds = (datetime.fromisoformat(kept["now"]) - at(0)).total_seconds()
    return Case(
        name, kept["job"], kept["pods"], STARTING, Code.STARTING, "", kept["events"], kept["nodes"],
        kept["asked_to_stop"], seconds, kept["gone"],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "phase", "outcome", "code", "text", "exit_code"), REAL, ids=[row[0] for row in REAL])
def test_what_a_real_cluster_showed(
    name: str, phase: Phase, outcome: Outcome | None, code: Code, text: str, exit_code: int | None
) -> None:
    seen = look(recorded(name))
    assert seen is not None
    assert (seen.phase, seen.outcome, seen.reason.code, seen.reason.text) == (phase, outcome, code, text)
    assert seen.exit_code == exit_code


def test_every_recording_is_looked_at() -> None:
    assert {row[0] for row in REAL} == {path.stem for path in RECORDED.glob("*.json")}


# beside the sentence


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_there_is_nothing(asked: bool) -> None:
    assert observe(None, [], [], 1, asked, at(0)) is None


def test_raw_is_what_the_cluster_says() -> None:
    said = f"0/12 nodes are available: {NO_GPU}{PREEMPTION}"
    seen = observe(job(), [unplaced(said, gpus=4)], [], 1, False, at(10))
    assert seen is not None
    assert seen.reason.raw == said


def test_raw_is_the_end_of_the_log_where_a_program_failed() -> None:
    seen = observe(job(failed()), [dead(says="x" * 5000 + "\nValueError: no\x00\x1b[0m")], [], 1, False, at(200))
    assert seen is not None
    assert seen.reason.raw.endswith("\nValueError: no\ufffd\ufffd[0m")
    assert seen.reason.raw.startswith("…")
    assert len(seen.reason.raw.encode()) <= 1024


def test_raw_stays_the_same_while_a_node_tries_again() -> None:
    words = [("ErrImagePull", NOT_FOUND), ("ImagePullBackOff", f"{BACK_OFF}: ErrImagePull: {NOT_FOUND}")]
    seen = [observe(job(), [held_up(*each)], FIRST_TRY, 1, False, at(60)) for each in words]
    assert len({each.reason for each in seen if each}) == 1


def test_raw_stays_the_same_while_the_job_tries_again() -> None:
    tries = [not_made(QUOTA.replace("r-x-0-", f"r-x-0-{number}"), 20 + number) for number in range(5)]
    seen = [observe(job(), [], tries[:number], 1, False, at(60)) for number in (1, 3, 5)]
    assert len({each.reason for each in seen if each}) == 1


def test_a_gang_has_started_when_its_last_rank_has() -> None:
    seen = observe(job(nodes=2), [running(0, 10), running(1, 70)], [], 2, False, at(100))
    assert seen is not None
    assert seen.started_at == at(70)
    assert [(rank.rank, rank.node, rank.started_at) for rank in seen.ranks] == [
        (0, "gpu-0", at(10)),
        (1, "gpu-1", at(70)),
    ]


def test_a_gang_with_a_rank_that_has_not_started_has_not() -> None:
    seen = observe(job(nodes=2), [running(0, 10), creating(1)], [], 2, False, at(100))
    assert seen is not None
    assert seen.started_at is None


def test_a_rank_that_ended_has_its_times_and_its_exit_code() -> None:
    seen = observe(job(failed(100)), [dead(0, 3, 90)], [], 1, False, at(200))
    assert seen is not None
    (rank,) = seen.ranks
    assert (rank.started_at, rank.finished_at, rank.exit_code) == (at(10), at(90), 3)
    assert (seen.started_at, seen.finished_at, seen.exit_code) == (at(10), at(90), 3)


def test_a_gang_whose_ranks_were_removed_ended_when_the_job_says() -> None:
    seen = observe(job(failed(100), nodes=2), [dead(0, 3, 90)], [], 2, False, at(200))
    assert seen is not None
    assert (seen.finished_at, seen.exit_code, len(seen.ranks)) == (at(100), 3, 1)


def test_remembered_pods_complete_the_ranks() -> None:
    gone = [dead(1, 137, 99, deleted=99, grace=0)]
    seen = observe(job(condition("FailureTarget", 91), failed(100), nodes=2), [dead(0, 3)], [], 2, False, at(200), gone)
    assert seen is not None
    assert [(rank.rank, rank.exit_code) for rank in seen.ranks] == [(0, 3), (1, 137)]
    assert (seen.started_at, seen.finished_at) == (at(10), at(99))


def test_a_container_that_never_ran_has_no_times_of_1970_and_no_exit_code() -> None:
    never = dead(0, 128, why="StartError", says=NOT_EXECUTABLE)
    never["status"]["containerStatuses"][0]["state"]["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
    seen = observe(job(failed()), [never], [], 1, False, at(200))
    assert seen is not None
    assert seen.started_at is None
    assert (seen.ranks[0].started_at, seen.ranks[0].exit_code) == (None, None)


# the timeline

PULLED = f'Successfully pulled image "{IMAGE}" in 1m12.4s (1m12.4s including waiting). Image size: 9 bytes.'


def texts(seen: Observation | None) -> list[tuple[datetime, str]]:
    assert seen is not None
    return [(note.at, note.text) for note in seen.notes]


def test_the_timeline_tells_of_the_node_and_the_image() -> None:
    seen = observe(job(), [running()], [event("pod-0", "Pulled", PULLED, 9)], 1, False, at(20))
    assert texts(seen) == [
        (at(1), "It got node gpu-0."),
        (at(9), "Its image was downloaded in 1 min 12 s."),
    ]


def test_the_timeline_of_a_gang_names_its_ranks() -> None:
    said = [
        event("pod-1", "Pulled", 'Successfully pulled image "x" in 850ms (850ms including waiting).', 9),
        warning("pod-0", "FailedCreatePodSandBox", "plugin failed", 5),
    ]
    seen = observe(job(nodes=2), [running(0, 10), running(1, 12)], said, 2, False, at(20))
    assert [text for _, text in texts(seen)] == [
        "Rank 0 got node gpu-0.",
        "Rank 1 got node gpu-1.",
        "Rank 0: node gpu-0 could not start the container, and tries again.",
        "Rank 1's image was downloaded in 0.8 s.",
        "Rank 0 started.",
        "Rank 1 started.",
    ]


def test_the_timeline_of_a_large_gang_tells_of_troubles_only() -> None:
    pods = [running(rank) for rank in range(9)]
    seen = observe(job(nodes=9), pods, [warning("pod-4", "NodeNotReady", "Node is not ready", 50)], 9, False, at(60))
    assert texts(seen) == [(at(50), "Rank 4's node gpu-4 stopped answering.")]


def test_the_timeline_tells_a_repeated_trouble_once_and_forgets_no_first_time() -> None:
    def look_at(seconds: float) -> list[tuple[datetime, str]]:
        known = [not_made(QUOTA, at_) for at_ in range(20, int(seconds), 360) if seconds - at_ < 3600]
        return texts(observe(job(), [], known, 1, False, at(seconds)))

    told = {note for seconds in range(30, 20000, 60) for note in look_at(seconds)}
    assert told == {(at(20), "The namespace's quota of GPUs is full: 4 asked for, 8 of 8 in use.")}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_sentences_are_sentences(case: Case) -> None:
    seen = look(case)
    assert seen is not None
    for sentence in (seen.reason.text, *(note.text for note in seen.notes)):
        assert sentence.endswith(".")
        assert not sentence.endswith("..")
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert "  " not in sentence
    assert (seen.outcome is not None) is (seen.phase is Phase.ENDED)


# a verdict stands

# when patience ends the clock decides too: the first such verdict is kept, and the objects are removed
ENDED = [case for case in CASES if isinstance(case.shows, Outcome) and not case.events]


@pytest.mark.parametrize("case", ENDED, ids=[case.name for case in ENDED])
def test_a_verdict_is_the_same_at_a_later_look(case: Case) -> None:
    first, later = look(case), observe(case.job, case.pods, case.events, case.nodes, case.asked, at(9000), case.gone)
    assert first is not None
    assert later is not None
    assert (later.outcome, later.reason.code, later.exit_code) == (first.outcome, first.reason.code, first.exit_code)


@pytest.mark.parametrize("now", [0, 20, 100, 129, 131, 10**6])
def test_without_the_jobs_word_a_failed_rank_is_no_verdict(now: float) -> None:
    seen = observe(job(), [dead(0, 1, 90)], [], 1, False, at(now))
    assert seen is not None
    assert seen.outcome is None


# any shape: nothing that a cluster could say makes it raise

odd = st.sampled_from([None, "", "odd", -1, 0, True, [], {}, [None], ["x"], {"x": None}, "9999-99-99T99:99:99Z"])


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, value in steps for place in places(value, (*path, key)))]


def changed(found: Any, path: tuple[Any, ...], value: Any, remove: bool) -> Any:
    found = copy.deepcopy(found)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if remove and isinstance(inner, dict):
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


ALL = CASES + [recorded(row[0]) for row in REAL]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_a_field_that_is_missing_null_or_odd_never_raises(case: Case, data: st.DataObject) -> None:
    shown: dict[str, Any] = {"job": case.job, "pods": case.pods, "events": case.events, "gone": case.gone}
    inner = [path for path in places(shown) if len(path) > 2 or (len(path) == 2 and path[0] == "job")]
    for _ in range(data.draw(st.integers(1, 4))):
        if not inner:
            return
        path = data.draw(st.sampled_from(inner))
        shown = changed(shown, path, data.draw(odd), data.draw(st.booleans()))
        inner = [path for path in places(shown) if len(path) > 2 or (len(path) == 2 and path[0] == "job")]
    seen = observe(
        shown["job"], shown["pods"], shown["events"], case.nodes, case.asked, at(case.now), shown["gone"]
    )  # fmt: skip
    assert seen is None or (seen.outcome is not None) is (seen.phase is Phase.ENDED)
