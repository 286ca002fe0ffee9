"""A Kubernetes cluster behind the border: makes, stops and removes attempts, and reports what a watched copy shows.

What is there is known from the copy only; answers to requests are never taken for state, because a late one would turn
the clock back. Three threads work beside the caller's: one each for Jobs and pods, and one for chores.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from app.cluster.kubernetes.breaker import Pulse
from app.cluster.kubernetes.capacity import Node, capacity, node_of
from app.cluster.kubernetes.client import Client, Object
from app.cluster.kubernetes.derive import observe
from app.cluster.kubernetes.errors import Auth, Clash, Conflict, Forbidden, Gone, KubernetesError, Missing, Retry
from app.cluster.kubernetes.events import EventBook
from app.cluster.kubernetes.fields import condition, field, items, mapping, moment, named, number, order, text
from app.cluster.kubernetes.kubeconfig import Credential
from app.cluster.kubernetes.launch import Launcher, Made, is_placeholder
from app.cluster.kubernetes.logs import SLOTS, LogPool, PodSeen, RankSeen, Stage
from app.cluster.kubernetes.manifests import KubernetesSettings
from app.cluster.kubernetes.names import CONTAINER, INDEX, attempt_selector, instance_selector, key_of
from app.cluster.kubernetes.watch import JOBS, PODS, SERVICES, Kind, Pace, Watch
from app.cluster.protocol import (
    Attempt,
    AttemptKey,
    Capacity,
    ClusterError,
    Code,
    Health,
    Launched,
    LogSource,
    Observation,
    Outcome,
    Phase,
    Reason,
    Refused,
    Wait,
)

NODES = "/api/v1/nodes"
NODES_EVERY = 60.0  # seconds
NODES_FORBIDDEN = 600.0  # seconds until the next try where the portal may not see them
DELETE_AGAIN = 30.0  # seconds until a deletion that has not shown is asked for again
REMEMBER = 3600.0  # seconds that an attempt which was stopped is not let start
CAPACITY_EVERY = 1.0  # seconds
POD_NEWS = (
    5.0,
    30.0,
)  # seconds that a pod may be seen after the end of its Job: if maybe, and if surely, there was one

log = logging.getLogger("simpletrain.kubernetes")


class KubernetesCluster:
    enforces_max_runtime = False  # the worker does: a Job's own deadline counts the time that it waits

    def __init__(
        self,
        credential: Credential,
        settings: KubernetesSettings,
        instance: str,
        totals: Mapping[str, int] | None = None,
        *,
        pace: Pace | None = None,
        log_slots: int = SLOTS,
    ) -> None:
        """`totals`: GPUs by type as the operator counts them, for where the portal may not see nodes."""
        pace = pace or Pace()
        self._settings = settings
        self._instance = instance
        self._totals = totals or {}
        self._hurry = pace.apart
        self._client = client = Client(credential)
        self._pulse = Pulse()
        self._launcher = Launcher(client, settings, instance)
        namespace = settings.namespace
        self._jobs = Watch(client, JOBS, namespace, instance, self._pulse, self._moved, pace)
        self._pods = Watch(client, PODS, namespace, instance, self._pulse, self._moved, pace)
        self._events = EventBook(client, namespace, self._ring, pace.apart)
        self._logs = LogPool(client, namespace, self._rank, self._pulse, log_slots, pace.apart)
        self._changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # so that the caller and the chores do not delete twice
        self._fresh: dict[AttemptKey, tuple[str, float]] = {}  # made by us: uid, and when (monotonic seconds)
        self._nodes_of: dict[AttemptKey, int] = {}
        self._stopped: dict[AttemptKey, float] = {}  # asked to, and when
        self._deleting: dict[str, float] = {}  # uid, and when we asked for it
        self._confirmed: set[str] = set()  # uids of Jobs that are gone, and not only without their labels
        self._podless: dict[tuple[AttemptKey, int], float] = {}  # ended without a pod being seen, and since when
        self._nodes: Sequence[Node] | None = None
        self._nodes_due = 0.0
        self._capacity: tuple[float, Capacity] | None = None
        self._closing = threading.Event()
        self._chore = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="chores", daemon=True)

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._jobs.start()
        self._pods.start()
        self._keeper.start()

    def close(self) -> None:
        self._closing.set()
        self._chore.set()
        self._logs.close()
        self._jobs.close()
        self._pods.close()
        if self._keeper.ident is not None:
            self._keeper.join(5)
        self._client.close()

    def health(self) -> Health:
        return self._pulse.health()

    def capacity(self) -> Capacity:
        now = time.monotonic()
        if self._capacity is None or now > self._capacity[0] + CAPACITY_EVERY * self._hurry:
            found = capacity(self._nodes, self._pods.everything(), self._settings.gpu_types, self._totals)
            self._capacity = (now, found)
        return self._capacity[1]

    def launch(self, attempt: Attempt) -> Launched | Wait | Refused:
        if attempt.key in self._stopped:
            return Refused(Reason(Code.STOPPED, "It was stopped before it started."))
        with self._asking("launch"):
            answer = self._launcher.launch(attempt)
        if not isinstance(answer, Made):
            return answer
        self._fresh[attempt.key] = (answer.uid, time.monotonic())
        self._nodes_of[attempt.key] = attempt.spec.nodes
        return Launched(answer.uid)

    def observe(self, key: AttemptKey) -> Observation | None:
        self._require_a_look()
        now = datetime.now(UTC)
        job = self._job(key)
        pods, gone = self._pods.of(key), self._pods.deleted(key)
        if job is None:
            if self._is_on_its_way(key):
                return Observation(Phase.STARTING, Reason(Code.STARTING, "The cluster has accepted it."))
            job = self._last_look(key)
        nodes = self._count_nodes(key, job, pods)
        asked = key in self._stopped

        def look() -> Observation | None:
            return observe(job, pods, self._events.of(key), nodes, asked, now, gone)

        seen = look()
        if seen is None:
            return None
        uids = [text(each, "metadata", "uid") for each in (job, *_most_telling(pods, gone)) if each is not None]
        ended = seen.phase is Phase.ENDED
        self._events.want(key, uids, (seen.phase, seen.reason.code), seen.phase is Phase.RUNNING or ended)
        if ended and seen.outcome is not Outcome.SUCCEEDED and not asked:
            # the verdict is final: what the cluster can say about it is wanted now
            self._events.pull(key)
            return look()
        return seen

    def stop(self, key: AttemptKey) -> None:
        self._stopped[key] = time.monotonic()
        job = self._job(key)
        if job is not None:
            if not _finished(job):
                with self._asking("stop"):
                    self._delete(job)
            return
        with self._asking("stop"):
            found = self._live(JOBS, key)
            if not found and self._jobs.listed_at is not None:
                # its labels can be taken off it, but not off its pods' template: it is ours all the same
                stray = self._last_look(key)
                template = mapping(stray, "spec", "template", "metadata", "labels")
                found = [stray] if stray is not None and key_of(template, self._instance) == key else []
            for each in found:
                if not _finished(each):
                    self._delete(each)
            if not self._launcher.keep_away(key):
                raise ClusterError(
                    "It is not known yet whether the cluster has taken the job. It will be stopped if so.",
                    retry_after=2.0,
                )

    def remove(self, key: AttemptKey) -> None:
        with self._asking("remove"):
            jobs = self._live(JOBS, key)
            for job in jobs:
                self._delete_now(JOBS, job)
            for service in self._live(SERVICES, key, placeholders=True):
                self._delete_now(SERVICES, service)
            owners = {text(job, "metadata", "uid") for job in jobs}
            for pod in self._pods.of(key):
                # the rest follow their Job
                if _owner(pod) not in owners and not text(pod, "metadata", "deletionTimestamp"):
                    self._delete_now(PODS, pod)
        self._launcher.room()
        self._events.forget(key)
        # the last word about them may still be on its way
        self._jobs.forget(key, owners)
        self._pods.forget(key)
        self._fresh.pop(key, None)
        if len(self._confirmed) > 1000:
            self._confirmed.clear()
        self._nodes_of.pop(key, None)
        for each in list(self._podless):
            if each[0] == key:
                self._podless.pop(each, None)

    def owned(self) -> frozenset[AttemptKey]:
        found = set()
        with self._asking("list"):
            for kind in (JOBS, SERVICES, PODS):
                query = {"labelSelector": instance_selector(self._instance)}
                for item in self._client.items(kind.path(self._settings.namespace), query):
                    key = key_of(mapping(item, "metadata", "labels"), self._instance)
                    if key is not None and not is_placeholder(item):
                        found.add(key)
        return frozenset(found)

    def open_log(self, key: AttemptKey, rank: int, cursor: str) -> LogSource:
        return self._logs.open(key, rank, cursor)

    # what is known

    def _require_a_look(self) -> None:
        if self._jobs.listed_at is None or self._pods.listed_at is None:
            error = self._pulse.health().error
            raise ClusterError(error or "The cluster's jobs have not been listed yet.", retry_after=1.0)

    def _job(self, key: AttemptKey) -> Object | None:
        """The attempt's Job, as the copy shows it. Of several, which only other hands can make, the first."""
        jobs = [job for job in self._jobs.of(key) if not is_placeholder(job)]
        return min(jobs, key=lambda job: order(moment(job, "metadata", "creationTimestamp")), default=None)

    def _is_on_its_way(self, key: AttemptKey) -> bool:
        """Made by us, and too lately for the copy to show.

        A list shows everything that was acknowledged before it was asked for. So the doubt ends with the first list
        that was asked for after our request was answered, or earlier with an event about that very object.
        """
        made = self._fresh.get(key)
        if made is None:
            return False
        uid, at = made
        listed_at = self._jobs.listed_at
        if any(text(job, "metadata", "uid") == uid for job in self._jobs.deleted(key)):
            return False
        return listed_at is None or listed_at < at

    def _last_look(self, key: AttemptKey) -> Object | None:
        """The Job that is no longer in the copy, where that does not mean that it is gone without a word.

        One that had ended when it was removed has ended. One that only lost its labels still runs.
        """
        gone = [job for job in self._jobs.deleted(key) if not is_placeholder(job)]
        for job in reversed(gone):
            if _finished(job):
                return job
        for job in reversed(gone):
            uid = text(job, "metadata", "uid")
            if uid in self._confirmed:
                continue
            if (still := self._still_there(job)) is not None:
                return still
            self._confirmed.add(uid)
        return None

    def _still_there(self, job: Object) -> Object | None:
        """Taking labels off an object looks like its deletion to who watches by label."""
        with self._asking("look"):
            try:
                found = self._client.get(JOBS.path(self._settings.namespace, text(job, "metadata", "name")))
            except Gone as error:
                if error.what is Missing.OBJECT:
                    return None
                raise
        return found if text(found, "metadata", "uid") == text(job, "metadata", "uid") else None

    def _count_nodes(self, key: AttemptKey, job: Object | None, pods: Sequence[Object]) -> int:
        told = number(job, "spec", "completions") if job is not None else None
        if told is not None:
            self._nodes_of[key] = told
        return self._nodes_of.get(key) or max((_index(pod) + 1 for pod in pods), default=1)

    def _rank(self, key: AttemptKey, rank: int) -> RankSeen | None:
        """What the log of a rank has to know."""
        if self._jobs.listed_at is None or self._pods.listed_at is None:
            return None
        live = self._job(key)
        if live is None and self._is_on_its_way(key):
            return None
        gone = [job for job in self._jobs.deleted(key) if not is_placeholder(job)]
        job = live or (gone[-1] if gone else None)
        found = [(pod, False) for pod in self._pods.of(key)] + [(pod, True) for pod in self._pods.deleted(key)]
        of_rank = [(pod, deleted) for pod, deleted in found if _index(pod) == rank]
        of_rank.sort(key=lambda each: order(moment(each[0], "metadata", "creationTimestamp")))
        ran = bool(number(job, "status", "succeeded") or number(job, "status", "failed"))
        over = live is None or _finished(live) or bool(text(live, "metadata", "deletionTimestamp"))
        if over and job is not None and not of_rank:
            # pods are watched apart from Jobs: the news of one may still be under way
            noticed_at = self._podless.setdefault((key, rank), time.monotonic())
            if time.monotonic() < noticed_at + (POD_NEWS[1] if ran else POD_NEWS[0]) * self._hurry:
                over = False
        return RankSeen(
            pods=tuple(_pod_seen(pod, deleted) for pod, deleted in of_rank),
            over=over,
            known=job is not None and not (ran and not of_rank),
        )

    # requests

    def _live(self, kind: Kind, key: AttemptKey, placeholders: bool = False) -> list[Object]:
        query = {"labelSelector": attempt_selector(self._instance, key)}
        found = self._client.items(kind.path(self._settings.namespace), query)
        return [item for item in found if placeholders or not is_placeholder(item)]

    def _delete(self, job: Object) -> None:
        """End its pods, and then the Job: until they have gone, it is there to be seen."""
        uid, now = text(job, "metadata", "uid"), time.monotonic()
        if text(job, "metadata", "deletionTimestamp"):
            return
        with self._lock:
            asked_at = self._deleting.get(uid)
            if asked_at is not None and now < asked_at + DELETE_AGAIN * self._hurry:
                return
            self._deleting[uid] = now
        try:
            self._delete_now(JOBS, job, "Foreground")
        except KubernetesError:
            self._deleting.pop(uid, None)
            raise

    def _delete_now(self, kind: Kind, found: Object, propagation: str = "Background") -> None:
        name, uid = text(found, "metadata", "name"), text(found, "metadata", "uid")
        try:
            self._client.delete(kind.path(self._settings.namespace, name), uid, propagation)
        except Gone as error:
            if error.what is not Missing.OBJECT:
                raise
        except Conflict as error:
            if error.clash is not Clash.MODIFIED:
                raise
            # the name belongs to another object by now: what was meant is gone

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Errors of the API as the border knows them; what the operator should see goes to the health."""
        try:
            yield
        except KubernetesError as error:
            if isinstance(error, Auth | Forbidden | Gone):
                self._pulse.failed(error, what)
            after = error.after if isinstance(error, Retry) else 30.0
            raise ClusterError(error.text, error.raw, after) from error
        else:
            self._pulse.recovered(what)

    # chores

    def _moved(self) -> None:
        self._chore.set()
        self._logs.ring()
        self._ring()

    def _ring(self) -> None:
        with suppress(Exception):  # whoever listens has troubles of its own
            self._changed()

    def _keep(self) -> None:
        while not self._closing.is_set():
            pause = 5.0
            try:
                self._end_the_stopped()
                self._look_at_nodes()
                pause = min(pause, self._events.pull_due())
            except (KubernetesError, ClusterError) as error:
                log.info("chores: %s", error)
            except Exception:
                log.exception("a chore failed; going on")
            self._chore.wait(max(0.02, pause * self._hurry))
            if self._chore.is_set():
                self._closing.wait(0.05)
            self._chore.clear()

    def _end_the_stopped(self) -> None:
        """A Job that was asked for before it was stopped, and came after."""
        now = time.monotonic()
        for key, at in list(self._stopped.items()):
            job = self._job(key)
            if job is not None and not _finished(job):
                with self._asking("stop"):
                    self._delete(job)
            elif job is None and now > at + REMEMBER:
                self._stopped.pop(key, None)
        if len(self._deleting) > 1000:
            self._deleting = {uid: at for uid, at in self._deleting.items() if now < at + DELETE_AGAIN}

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if now < self._nodes_due:
            return
        self._nodes_due = now + NODES_EVERY * self._hurry
        try:
            self._nodes = [node_of(node) for node in self._client.items(NODES)]
        except Forbidden:
            self._nodes = None
            self._nodes_due = now + NODES_FORBIDDEN * self._hurry
        else:
            self._ring()


def _finished(job: Object) -> bool:
    return bool(condition(job, "Complete") or condition(job, "Failed"))


def _owner(pod: Object) -> str:
    return next((text(each, "uid") for each in items(pod, "metadata", "ownerReferences") if each.get("controller")), "")


def _index(pod: Object) -> int:
    written = text(pod, "metadata", "labels", INDEX) or text(pod, "metadata", "annotations", INDEX)
    return int(written) if written.isdecimal() else 0


def _most_telling(pods: Sequence[Object], gone: Sequence[Object]) -> list[Object]:
    """Those that do not run first: the cluster is asked about a few only."""
    running = [text(pod, "status", "phase") == "Running" for pod in pods]
    first = [pod for pod, runs in zip(pods, running, strict=True) if not runs]
    return [*first, *gone, *(pod for pod, runs in zip(pods, running, strict=True) if runs)]


def _pod_seen(pod: Object, deleted: bool) -> PodSeen:
    containers = items(pod, "spec", "containers")
    container = CONTAINER if named(containers, CONTAINER) else text(next(iter(containers), {}), "name")
    state = mapping(named(items(pod, "status", "containerStatuses"), container), "state")
    stage = Stage.WAITING
    over = text(pod, "status", "phase") in ("Succeeded", "Failed")
    if field(state, "terminated") is not None:
        if moment(state, "terminated", "startedAt") is not None:
            stage = Stage.ENDED
        over = True
    elif field(state, "running") is not None:
        stage = Stage.ENDED if over else Stage.RUNNING
    # one that never started and never will has printed nothing, as if it were gone
    return PodSeen(
        uid=text(pod, "metadata", "uid"),
        name=text(pod, "metadata", "name"),
        container=container,
        stage=stage,
        deleted=deleted or (over and stage is Stage.WAITING),
    )
