"""What a cluster shows, written shortly: Jobs, pods and events as the API server would send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]

T0 = datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC)  # when the Job was made; all times below are seconds after it
NAME = "r-digits-k3v9x2ab-a1"
INDEX = "batch.kubernetes.io/job-completion-index"
IMAGE = "registry.example/pytorch:2.9"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def stamp(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, seconds: float, reason: str = "", message: str = "", status: str = "True") -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(seconds),
    }


def job(
    *conditions: Object,
    nodes: int = 1,
    deleted: float | None = None,
    suspend: bool = False,
    deadline: int | None = None,
    gpu_types: str = "",
) -> Object:
    metadata: Object = {
        "name": NAME,
        "uid": "job-uid",
        "creationTimestamp": stamp(0),
        "annotations": {"simpletrain.io/gpu-types": gpu_types} if gpu_types else {},
    }
    if deleted is not None:
        metadata["deletionTimestamp"] = stamp(deleted)
    spec: Object = {"completions": nodes, "parallelism": nodes, "suspend": suspend}
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    return {"kind": "Job", "metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)}}


def complete(seconds: float = 100) -> Object:
    return condition("Complete", seconds, "CompletionsReached", "Reached expected number of succeeded pods")


def failed(seconds: float = 100, reason: str = "BackoffLimitExceeded", message: str = "") -> Object:
    return condition("Failed", seconds, reason, message or "Job has reached the specified backoff limit")


def pod(
    rank: int = 0,
    *conditions: Object,
    phase: str = "Pending",
    node: str | None = None,
    main: Object | None = None,
    inits: list[Object] | None = None,
    reason: str = "",
    message: str = "",
    deleted: float | None = None,
    grace: int = 60,
    memory: str = "64Gi",
    gpus: int = 0,
    claims: tuple[str, ...] = (),
    deadline: int | None = None,
    **status: Any,
) -> Object:
    """On a node, where `node` is named, since second 1. `main`: the status of its container."""
    node = f"gpu-{rank}" if node is None else node
    limits: Object = {"memory": memory} if memory else {}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    metadata: Object = {
        "name": f"{NAME}-{rank}-abcde",
        "uid": f"pod-{rank}",
        "creationTimestamp": stamp(0),
        "labels": {INDEX: str(rank)},
        "ownerReferences": [{"kind": "Job", "uid": "job-uid", "controller": True}],
    }
    if deleted is not None:
        metadata |= {"deletionTimestamp": stamp(deleted + grace), "deletionGracePeriodSeconds": grace}
    spec: Object = {
        "containers": [{"name": "main", "image": IMAGE, "resources": {"limits": limits}}],
        "volumes": [
            {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}} for n, claim in enumerate(claims)
        ],
    }
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    placed = [condition("PodScheduled", 1)] if node else []
    shown: Object = {"phase": phase, "conditions": [*placed, *conditions], **status}
    if node:
        spec["nodeName"] = node
        shown["startTime"] = stamp(1)
    if main is not None:
        shown["containerStatuses"] = [main]
    if inits is not None:
        shown["initContainerStatuses"] = inits
    if reason:
        shown |= {"reason": reason, "message": message}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": shown}


def container(name: str = "main", last: Object | None = None, **state: Object) -> Object:
    return {"name": name, "image": IMAGE, "state": state, "lastState": {"terminated": last} if last else {}}


def waiting(reason: str, message: str = "", name: str = "main", last: Object | None = None) -> Object:
    return container(name, last, waiting={"reason": reason, "message": message})


def ended(
    exit_code: int | None, seconds: float = 90, reason: str = "", message: str = "", started: float = 10,
    name: str = "main",
) -> Object:  # fmt: skip
    facts: Object = {
        "reason": reason or ("Error" if exit_code else "Completed"),
        "startedAt": stamp(started),
        "finishedAt": stamp(seconds),
    }
    if exit_code is not None:
        facts["exitCode"] = exit_code
    if message:
        facts["message"] = message
    return container(name, terminated=facts)


def unplaced(message: str, rank: int = 0, reason: str = "Unschedulable", **more: Any) -> Object:
    return pod(rank, condition("PodScheduled", 1, reason, message, status="False"), node="", **more)


def running(rank: int = 0, started: float = 10, *conditions: Object, **more: Any) -> Object:
    ready = () if conditions else (condition("Ready", started),)
    main = container(running={"startedAt": stamp(started)})
    return pod(rank, *ready, *conditions, phase="Running", main=main, **more)


def creating(rank: int = 0, **more: Any) -> Object:
    return pod(rank, main=waiting("ContainerCreating"), **more)


def held_up(reason: str, message: str = "", rank: int = 0, **more: Any) -> Object:
    return pod(rank, main=waiting(reason, message), **more)


def done(rank: int = 0, seconds: float = 90, **more: Any) -> Object:
    return pod(rank, phase="Succeeded", main=ended(0, seconds), **more)


def dead(rank: int = 0, exit_code: int | None = 1, seconds: float = 90, *conditions: Object, **more: Any) -> Object:
    facts = {key: more.pop(key) for key in ("why", "says", "started") if key in more}
    main = ended(exit_code, seconds, facts.get("why", ""), facts.get("says", ""), facts.get("started", 10))
    return pod(rank, *conditions, phase="Failed", main=main, **more)


def taken(kind: str, seconds: float = 80, message: str = "") -> Object:
    return condition("DisruptionTarget", seconds, kind, message)


def turned_away(reason: str, message: str = "", rank: int = 0, *conditions: Object, **more: Any) -> Object:
    """Failed without a container: an eviction, or a node that would not have it."""
    return pod(rank, *conditions, phase="Failed", reason=reason, message=message, **more)


def event(
    about: str, reason: str, message: str, seconds: float = 20, last: float | None = None, warning: bool = False
) -> Object:
    return {
        "kind": "Event",
        "involvedObject": {"kind": "Job" if about == "job-uid" else "Pod", "uid": about},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "firstTimestamp": stamp(seconds),
        "lastTimestamp": stamp(seconds if last is None else last),
        "eventTime": None,
        "count": 1,
    }


def warning(about: str, reason: str, message: str, seconds: float = 20, last: float | None = None) -> Object:
    return event(about, reason, message, seconds, last, warning=True)


def not_made(message: str, seconds: float = 20) -> Object:
    return warning("job-uid", "FailedCreate", f"Error creating: {message}", seconds)
