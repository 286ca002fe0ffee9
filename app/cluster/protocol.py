"""What a place that runs jobs promises to the worker: one protocol, and the values that cross it.

Two very different things stand behind it: a Kubernetes, known through a watched copy of its objects, and this
machine, known through files. So nothing here waits for a job: `launch`, `stop` and `remove` make a wish true or say
why not yet, and may be repeated at any time, also by another process after a crash; `observe` tells what is there
now; `changed` says that looking again is worth it. State is never remembered from an answer: it is always observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Volume:
    claim: str  # a PersistentVolumeClaim of the namespace; on this machine a name in LOCAL_VOLUMES
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What runs, fully resolved: nothing in it depends on a preset or a default any more."""

    image: str
    command: str | tuple[str, ...]  # a string is run by /bin/sh -c; a tuple is the exact argv
    gpus: int  # per node
    nodes: int
    max_runtime: int  # seconds, counted from the moment when all ranks run
    cpu: str = "1"  # Kubernetes quantities, per node
    memory: str = "1Gi"
    shm: str = ""  # size of /dev/shm; empty: the platform's default
    gpu_types: tuple[str, ...] = ()  # any of these; empty: any
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """Names one try of a job. Every object of it is named after this, so that a repeated step finds it again."""

    job: str  # the job's uid: eight lower-case letters and digits, unique in the installation
    number: int  # 1, 2, …

    def __str__(self) -> str:
        return f"{self.job}-a{self.number}"


@dataclass(frozen=True, slots=True)
class Attempt:
    key: AttemptKey
    job_name: str  # what people call it; unique in its org only
    instance: str  # id of this installation: objects of another one are never touched
    org: str  # ids, never names or addresses of people
    user: str
    spec: JobSpec


class Code(StrEnum):
    """Why a job is as it is. Stable: people write scripts against these."""

    # it waits
    SUBMITTED = "submitted"  # the worker has not looked at it yet
    BEHIND = "behind"  # others that came first wait for the same thing
    NO_FREE_GPU = "no_free_gpu"
    NO_FREE_SLOT = "no_free_slot"
    DISK_FULL = "disk_full"
    CLUSTER_SILENT = "cluster_silent"
    CLUSTER_OFF = "cluster_off"
    QUOTA = "quota"
    POLICY = "policy"  # a rule of the cluster forbids its pods
    SUSPENDED = "suspended"  # the cluster's own queue holds it
    UNSCHEDULABLE = "unschedulable"
    IMAGE = "image"
    VOLUME = "volume"
    STARTING = "starting"
    # it moves
    RUNNING = "running"
    STOPPING = "stopping"
    # it ended
    SUCCEEDED = "succeeded"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    COULD_NOT_START = "could_not_start"
    REFUSED = "refused"
    STOPPED = "stopped"
    REMOVED = "removed"  # outside the portal
    MACHINE_RESTARTED = "machine_restarted"
    SUPERVISOR_DIED = "supervisor_died"
    NODE_LOST = "node_lost"
    EVICTED = "evicted"
    PREEMPTED = "preempted"  # for something of higher priority


@dataclass(frozen=True, slots=True)
class Reason:
    code: Code
    text: str  # a plain sentence
    raw: str = ""  # word for word what the cluster says


@dataclass(frozen=True, slots=True)
class Launched:
    """The objects exist, made now or by an earlier call."""

    handle: str  # the cluster's own id of the object (a uid, a folder), for people who look there


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing was made; ask again later. `resource` names what is short: jobs behind that need it wait too."""

    reason: Reason
    resource: str = ""
    retry_after: float | None = None  # seconds; None: at the next look


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was made, and asking again will not help."""

    reason: Reason


class Phase(StrEnum):
    HELD = "held"  # exists, and the cluster's own queue holds it back
    STARTING = "starting"  # exists, not all ranks run
    RUNNING = "running"  # all ranks run
    ENDED = "ended"


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # ended because it was asked to
    LOST = "lost"  # vanished: how it ended is not known


@dataclass(frozen=True, slots=True)
class RankStatus:
    rank: int
    node: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None  # 128 + n for a signal


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the job's timeline. The same (at, text) twice is one event."""

    at: datetime
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    phase: Phase
    reason: Reason
    outcome: Outcome | None = None  # set exactly when phase is ENDED
    ranks: tuple[RankStatus, ...] = ()
    started_at: datetime | None = None  # when the last rank began to run
    finished_at: datetime | None = None
    exit_code: int | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuPool:
    type: str
    total: int
    used: int  # held by jobs of this portal
    free: int
    most_free_on_one_node: int
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    gpus: tuple[GpuPool, ...] = ()
    cpu_slots: int | None = None  # how many jobs without a GPU fit at once; None: the cluster decides
    cpu_slots_free: int | None = None
    nodes: int | None = None  # None: not known
    sees_all_pods: bool = True  # False: `free` leaves out what others use


@dataclass(frozen=True, slots=True)
class Health:
    answered_at: datetime | None  # when the cluster last answered; None: never
    error: str = ""  # a sentence; empty while it answers


class ClusterError(Exception):
    """The cluster did not answer, or not with something usable. Says nothing about any job: ask again later."""

    def __init__(self, text: str, raw: str = "", retry_after: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.raw = raw
        self.retry_after = retry_after  # seconds


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of one rank's output, in order, exactly once. A piece without data may still move the cursor."""

    data: bytes
    cursor: str  # opaque; given to `open_log` it goes on right behind this piece
    skipped: int | None = 0  # bytes missing before `data`; None: some, how many is not known
    skipped_why: str = ""  # a sentence, where bytes are missing
    complete: bool = False  # nothing follows


class LogSource(Protocol):
    """One rank's output from a cursor on. Used by one thread."""

    def read(self, limit: int) -> LogPiece | None:
        """At most `limit` bytes that are there now; None when there is nothing new. Does not wait."""
        ...

    def close(self) -> None: ...


class Cluster(Protocol):
    """One place where jobs run. Its methods are called from one thread, except `open_log` and its sources."""

    enforces_max_runtime: bool  # False: the worker stops a job at its limit

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to look. `changed` is called, from any thread, whenever `observe` may answer something new."""
        ...

    def close(self) -> None:
        """Stop looking. Nothing that runs is touched."""
        ...

    def health(self) -> Health: ...

    def capacity(self) -> Capacity: ...

    def launch(self, attempt: Attempt) -> Launched | Wait | Refused:
        """Make the attempt exist, once. Repeating it, also after a crash in the middle, never makes a second one.

        Raises ClusterError when it is not known whether anything was made; the caller repeats.
        """
        ...

    def observe(self, key: AttemptKey) -> Observation | None:
        """What is there now; None when there is surely nothing (a complete look, not a guess)."""
        ...

    def stop(self, key: AttemptKey) -> None:
        """Ask it to end: TERM, a time of grace, KILL. An attempt that does not exist yet must not start later.

        Repeatable; nothing there is success. Raises ClusterError when the wish could not be delivered.
        """
        ...

    def remove(self, key: AttemptKey) -> None:
        """Remove every object of an attempt that has ended. Repeatable; nothing there is success."""
        ...

    def owned(self) -> frozenset[AttemptKey]:
        """Every attempt of this installation that has objects here, from a complete listing."""
        ...

    def open_log(self, key: AttemptKey, rank: int, cursor: str) -> LogSource:
        """The output of one rank; an empty cursor is the beginning."""
        ...
