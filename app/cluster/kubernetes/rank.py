"""From one pod to what is known of its rank: how far it got, what holds it up, why it failed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from app.cluster.kubernetes import words
from app.cluster.kubernetes.fields import (
    Event,
    Object,
    condition,
    earliest,
    field,
    items,
    mapping,
    moment,
    named,
    number,
    text,
)
from app.cluster.kubernetes.names import CONTAINER
from app.cluster.protocol import Code, RankStatus
from app.cluster.text import duration

IMAGE_PATIENCE = timedelta(minutes=5)  # from the first failed download
UNDATED_PATIENCE = timedelta(minutes=30)  # from the pod's arrival on the node, where nothing tells of the first
NO_PROGRESS = timedelta(minutes=10)  # the same trouble for so long: the GPUs that it holds are for others
NODE_SILENCE = timedelta(seconds=30)  # a pod that has just begun is not ready for a moment either
RECENT = timedelta(minutes=5)  # a trouble that still is there is told again within this

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}
)
_PLAIN_WAITS = frozenset({"", "ContainerCreating", "PodInitializing"})
# the number that stands beside these is the cluster's, not the program's
_NO_EXIT_CODE = frozenset({"ContainerStatusUnknown", "StartError", "ContainerCannotRun"})


class Stage(Enum):
    WAITS = "waits"
    RUNS = "runs"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands in a rank's way, as a sentence of its own."""

    code: Code
    text: str
    raw: str = ""
    weight: int = 0  # of several ranks' troubles the heaviest is told
    hopeless: bool = False  # nobody should wait for it any longer


@dataclass(frozen=True, slots=True)
class Failure:
    code: Code
    predicate: str  # stands behind `It ` or `Rank 2 `
    raw: str = ""
    at: datetime | None = None  # when it began to be over, which is what makes one rank the first
    consequence: bool = False  # looks like what happens to a rank when another has failed


@dataclass(frozen=True, slots=True)
class Rank:
    number: int
    uid: str
    node: str
    stage: Stage
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    trouble: Trouble | None  # while it waits, and where something is wrong while it runs
    failure: Failure | None  # once it has failed, and once the cluster has begun to take it away
    leaving_at: datetime | None  # it is being deleted, and its time of grace ends then

    @property
    def status(self) -> RankStatus:
        return RankStatus(self.number, self.node, self.started_at, self.finished_at, self.exit_code)

    @property
    def over(self) -> bool:
        return self.stage in (Stage.SUCCEEDED, Stage.FAILED)


def read(pod: Object, rank: int, events: Sequence[Event], gpu_types: str, now: datetime) -> Rank:
    """`events`: those about this pod, the oldest first."""
    main = _main(pod)
    ended = mapping(main, "state", "terminated")
    stage = _stage(pod, main)
    known = {} if text(ended, "reason") in _NO_EXIT_CODE else ended
    started = moment(main, "state", "running", "startedAt") or moment(ended, "startedAt")
    trouble = None
    if stage is Stage.WAITS:
        trouble = _why_it_waits(pod, main, events, gpu_types, now)
    elif stage is Stage.RUNS:
        trouble = _silent_node(pod, now)
    return Rank(
        number=rank,
        uid=text(pod, "metadata", "uid"),
        node=text(pod, "spec", "nodeName"),
        stage=stage,
        started_at=started,
        finished_at=moment(ended, "finishedAt"),
        exit_code=number(known, "exitCode"),
        trouble=trouble,
        failure=_failure(pod, main, stage),
        leaving_at=moment(pod, "metadata", "deletionTimestamp"),
    )


def has_ended(pod: Object) -> bool:
    return _stage(pod, _main(pod)) in (Stage.SUCCEEDED, Stage.FAILED)


def _main(pod: Object) -> Object:
    statuses = items(pod, "status", "containerStatuses")
    return named(statuses, CONTAINER) or (statuses[0] if len(statuses) == 1 else {})


def _stage(pod: Object, main: Object) -> Stage:
    phase = text(pod, "status", "phase")
    ended = mapping(main, "state", "terminated")
    if phase == "Failed":
        return Stage.FAILED
    if phase == "Succeeded":
        return Stage.SUCCEEDED
    if ended:
        return Stage.FAILED if number(ended, "exitCode") else Stage.SUCCEEDED
    if isinstance(field(main, "state", "running"), dict):
        return Stage.RUNS
    return Stage.WAITS


# it waits


def _why_it_waits(pod: Object, main: Object, events: Sequence[Event], gpu_types: str, now: datetime) -> Trouble:
    if not text(pod, "spec", "nodeName"):
        return _unplaced(pod, gpu_types)
    # what was wrong before the pod had its node is over
    placed = moment(condition(pod, "PodScheduled"), "lastTransitionTime")
    events = [event for event in events if placed is None or event.last >= placed]
    inits = items(pod, "status", "initContainerStatuses")
    for status in [*inits, main]:
        trouble = _container_trouble(pod, status, events, now)
        if trouble:
            return trouble
    return _on_its_way(pod, inits, events, now)


def _unplaced(pod: Object, gpu_types: str) -> Trouble:
    refused = condition(pod, "PodScheduled", "False")
    said = text(refused, "message")
    if text(refused, "reason") == "SchedulingGated":
        return Trouble(Code.SUSPENDED, "The cluster's own queue holds it back.", words.raw(said), weight=1)
    nominated = text(pod, "status", "nominatedNodeName")
    if nominated:
        return Trouble(Code.STARTING, f"Room is being made for it on node {nominated}.", words.raw(said), weight=1)
    if text(refused, "reason") == "SchedulerError":
        return Trouble(Code.UNSCHEDULABLE, "The cluster's scheduler failed to place it.", words.raw(said), weight=2)
    if not said:
        return Trouble(Code.STARTING, "It waits for a node.")
    code, sentence = words.unschedulable(said, _gpus(pod), gpu_types)
    return Trouble(code, sentence, words.raw(said), weight=2)


def _gpus(pod: Object) -> int:
    limits = mapping(named(items(pod, "spec", "containers"), CONTAINER), "resources", "limits")
    asked = [value for resource, value in limits.items() if "/" in resource]
    return int(asked[0]) if len(asked) == 1 and str(asked[0]).isdecimal() else 0


def _container_trouble(pod: Object, status: Object, events: Sequence[Event], now: datetime) -> Trouble | None:
    waiting = mapping(status, "state", "waiting")
    reason, said = text(waiting, "reason"), text(waiting, "message")
    name = text(status, "image") or _image(pod, text(status, "name"))
    if reason in _PLAIN_WAITS:
        return None
    raw = words.raw(f"{reason}: {said}" if said else reason)
    if reason == "InvalidImageName":
        return Trouble(Code.IMAGE, f"The name {name} cannot be that of an image.", raw, weight=3, hopeless=True)
    if reason == "ErrImageNeverPull":
        sentence = f"Image {name} is not on the node, and the cluster may not download it."
        return Trouble(Code.IMAGE, sentence, raw, weight=3, hopeless=True)
    if reason in _IMAGE_REASONS:
        return _image_trouble(pod, name, reason, said, events, now)
    if reason == "CrashLoopBackOff":
        last = mapping(status, "lastState", "terminated")
        code = number(last, "exitCode")
        how = f"; the last time with {words.exit_text(code)}" if code is not None else ""
        what = "It" if text(status, "name") == CONTAINER else f"Its container {text(status, 'name')}"
        return Trouble(Code.STARTING, f"{what} ends again and again{how}.", words.raw(text(last, "message")) or raw, 2)
    sentence = words.not_created(said) or f"Its container cannot be made: {words.quoted(said or reason)}."
    since = _first(events, "Failed", "BackOff", about=text(waiting, "message")) or _arrived(pod)
    return Trouble(Code.STARTING, sentence, raw, 3, hopeless=since is not None and now - since >= NO_PROGRESS)


def _image(pod: Object, container: str) -> str:
    for kind in ("containers", "initContainers"):
        found = named(items(pod, "spec", kind), container)
        if found:
            return text(found, "image")
    return "?"


def _image_trouble(pod: Object, name: str, reason: str, said: str, events: Sequence[Event], now: datetime) -> Trouble:
    failed = [event for event in events if event.says("Failed", "BackOff") and "pull" in event.message.lower()]
    # `Back-off pulling image "x": ErrImagePull: why`, and of older nodes without the why: the event then tells it
    told = [event.message for event in failed if event.says("Failed") and not event.message.startswith("Error: ")]
    why = re.sub(r'^Back-off pulling image "[^"]*"(: \w+: )?', "", said)
    cause = why or (told[-1] if told else said)
    trouble = words.image(name, cause.replace(name, ""))
    first = earliest(event.first for event in failed)
    if first is not None:
        impatient = now - first >= IMAGE_PATIENCE
    else:
        arrived = _arrived(pod)
        impatient = arrived is not None and now - arrived >= UNDATED_PATIENCE
    # without the reason in front, which goes to and fro between two words while the node tries again
    return Trouble(Code.IMAGE, trouble.text, words.raw(cause or reason), 3, hopeless=impatient and not trouble.passes)


def _on_its_way(pod: Object, inits: Sequence[Object], events: Sequence[Event], now: datetime) -> Trouble:
    """It has a node, and no container says what it waits for: the newest event does."""
    node = text(pod, "spec", "nodeName")
    last = next((e for e in reversed(events) if e.warning or e.says("Pulling", "Pulled", "Created", "Started")), None)
    if last is not None and last.says("Pulling"):
        return Trouble(Code.STARTING, f"Its image is being downloaded on node {node}.", words.raw(last.message), 1)
    if last is not None and last.warning and last.says("FailedMount", "FailedAttachVolume"):
        sentence = words.not_mounted(last.message, _claims(pod))
        return _lasting(Code.VOLUME, sentence, last, events, now)
    if last is not None and last.warning and last.says("FailedCreatePodSandBox", "NetworkNotReady"):
        sentence = f"Node {node} cannot start its container; it tries again."
        return _lasting(Code.STARTING, sentence, last, events, now)
    running = [text(status, "name") for status in inits if isinstance(field(status, "state", "running"), dict)]
    if running:
        return Trouble(Code.STARTING, f"Its init container {running[0]} runs.", weight=1)
    return Trouble(Code.STARTING, f"Its container is being made on node {node}.")


def _lasting(code: Code, sentence: str, last: Event, events: Sequence[Event], now: datetime) -> Trouble:
    """A trouble that a node tells again and again; told for ten minutes and still now, it will not pass."""
    first = _first(events, last.reason) or last.first
    hopeless = now - first >= NO_PROGRESS and now - last.last < RECENT
    return Trouble(code, sentence, words.raw(f"{last.reason}: {last.message}"), 2, hopeless)


def _first(events: Sequence[Event], *reasons: str, about: str = "") -> datetime | None:
    return earliest(event.first for event in events if event.says(*reasons) and about in event.message)


def _arrived(pod: Object) -> datetime | None:
    return moment(pod, "status", "startTime") or moment(condition(pod, "PodScheduled"), "lastTransitionTime")


def _claims(pod: Object) -> dict[str, str]:
    return {
        text(volume, "name"): text(volume, "persistentVolumeClaim", "claimName")
        for volume in items(pod, "spec", "volumes")
        if text(volume, "persistentVolumeClaim", "claimName")
    }


# it runs


def _silent_node(pod: Object, now: datetime) -> Trouble | None:
    """Nothing in our pods makes a running one unready, so an unready one tells of its node."""
    for status in ("False", "Unknown"):
        since = moment(condition(pod, "Ready", status), "lastTransitionTime")
        if since is not None and now - since >= NODE_SILENCE:
            said = text(condition(pod, "Ready", status), "message")
            node = text(pod, "spec", "nodeName")
            return Trouble(Code.NODE_LOST, f"Its node {node} does not answer.", words.raw(said), weight=1)
    return None


# it failed


def _failure(pod: Object, main: Object, stage: Stage) -> Failure | None:
    taken = condition(pod, "DisruptionTarget")
    if taken and stage is not Stage.SUCCEEDED:
        return _taken_away(
            pod, main, text(taken, "reason"), text(taken, "message"), moment(taken, "lastTransitionTime")
        )
    if stage is not Stage.FAILED:
        return None
    reason, said = text(pod, "status", "reason"), text(pod, "status", "message")
    at = _over_at(pod, main)
    raw = words.raw(f"{reason}: {said}" if said else reason)
    if reason in {"Evicted", "NodeLost", "Preempting", "Terminated", "Shutdown", "NodeShutdown"}:
        return _taken_away(pod, main, reason, said, at)
    if reason == "DeadlineExceeded":
        limit = number(pod, "spec", "activeDeadlineSeconds")
        there = f" of {duration(limit)}" if limit else ""
        return Failure(Code.TIME_LIMIT, f"was ended by the cluster at its limit{there} on a node", raw, at)
    turned_away = words.rejected(reason, said, text(pod, "spec", "nodeName"))
    if turned_away:
        return Failure(Code.COULD_NOT_START, turned_away, raw, at)
    for status in items(pod, "status", "initContainerStatuses"):
        ended = mapping(status, "state", "terminated") or mapping(status, "lastState", "terminated")
        if number(ended, "exitCode") and not main.get("started") and not mapping(main, "state", "terminated"):
            return _init_failed(text(status, "name"), ended, at)
    ended = mapping(main, "state", "terminated")
    if ended:
        return _ended_badly(pod, ended, at)
    return Failure(Code.COULD_NOT_START, "failed, and the cluster does not say why", raw, at)


def _taken_away(pod: Object, main: Object, kind: str, said: str, at: datetime | None) -> Failure:
    # the condition names who did it, the status of an evicted pod says why
    why = text(pod, "status", "message") or said
    code, predicate = words.disruption(kind, f"{why} {said}", text(pod, "spec", "nodeName"))
    times = [time for time in (at, _over_at(pod, main)) if time is not None]
    return Failure(code, predicate, words.raw(f"{kind}: {why}" if why else kind), min(times, default=None))


def _over_at(pod: Object, main: Object) -> datetime | None:
    """When it ended, or was asked to, whichever was first."""
    asked = moment(pod, "metadata", "deletionTimestamp")
    grace = number(pod, "metadata", "deletionGracePeriodSeconds")
    if asked is not None and grace:
        asked -= timedelta(seconds=grace)
    inits = [moment(s, "state", "terminated", "finishedAt") for s in items(pod, "status", "initContainerStatuses")]
    known = [asked, moment(main, "state", "terminated", "finishedAt")]
    if known == [None, None]:
        known = [*inits, moment(pod, "status", "startTime"), moment(pod, "metadata", "creationTimestamp")]
        return next((time for time in known if time is not None), None)
    return earliest(known)


def _init_failed(name: str, ended: Object, at: datetime | None) -> Failure:
    code = number(ended, "exitCode") or 0
    predicate = f"could not start: its init container {name} ended with {words.exit_text(code)}"
    return Failure(Code.COULD_NOT_START, predicate, words.raw(text(ended, "message"), from_end=True), at)


def _ended_badly(pod: Object, ended: Object, at: datetime | None) -> Failure:
    reason, said = text(ended, "reason"), text(ended, "message")
    raw = words.raw(said, from_end=True) or words.raw(reason)
    code = number(ended, "exitCode")
    if reason == "OOMKilled":
        return Failure(Code.OUT_OF_MEMORY, _out_of_memory(pod), words.raw(reason), at)
    if reason in {"StartError", "ContainerCannotRun"}:
        why = words.not_created(said) or f"the node says: {words.quoted(said)}."
        return Failure(
            Code.COULD_NOT_START, f"could not start: {words.continued(why).rstrip('.')}", words.raw(said), at
        )
    if reason == "ContainerStatusUnknown":
        node = text(pod, "spec", "nodeName")
        return Failure(Code.NODE_LOST, f"is gone, and node {node} does not know how it ended", words.raw(said), at)
    if code is None:
        return Failure(Code.EXIT_CODE, "failed, and the cluster does not say why", raw, at)
    if _was_deleted_first(pod, code, at, moment(ended, "finishedAt")):
        # whatever it ended with, it was asked to; by whom, the Job tells
        return Failure(Code.REMOVED, "was removed on the cluster, outside the portal", raw, at, consequence=True)
    known = Code.SIGNAL if 128 < code < 128 + 65 else Code.EXIT_CODE
    return Failure(known, f"ended with {words.exit_text(code)}", raw, at, consequence=code in {137, 143})


def _was_deleted_first(pod: Object, code: int, at: datetime | None, finished: datetime | None) -> bool:
    """Whether its deletion came before its end. Once the node is done with it, only its exit code tells."""
    if not text(pod, "metadata", "deletionTimestamp"):
        return False
    if number(pod, "metadata", "deletionGracePeriodSeconds"):
        return at is not None and finished is not None and at < finished
    return code in {137, 143}


def _out_of_memory(pod: Object) -> str:
    limit = text(named(items(pod, "spec", "containers"), CONTAINER), "resources", "limits", "memory")
    if not limit:
        return "was killed because its node ran out of memory"
    return f"used more than its {words.amount(limit)} of memory and was killed"
