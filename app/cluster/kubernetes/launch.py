"""Makes the objects of an attempt exist, once. Every step may be repeated: names follow from the attempt alone."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass

from app.cluster.faults import fault
from app.cluster.kubernetes.client import Client, Object
from app.cluster.kubernetes.errors import (
    Ban,
    Clash,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubernetesError,
    Missing,
    Retry,
)
from app.cluster.kubernetes.fields import items, mapping, text
from app.cluster.kubernetes.manifests import SPEC_HASH, Impossible, KubernetesSettings, manifests
from app.cluster.kubernetes.names import key_of
from app.cluster.kubernetes.watch import JOBS, SERVICES, Kind
from app.cluster.kubernetes.words import not_made
from app.cluster.protocol import Attempt, AttemptKey, ClusterError, Code, Reason, Refused, Wait

PLACEHOLDER = "simpletrain.io/placeholder"
PLACEHOLDER_LIFE = 300  # seconds after which the cluster removes one by itself
UNDECIDED = 90.0  # seconds that a request without an answer may still take effect: a server gives up after 60
QUOTA_PAUSE = (30.0, 300.0)  # seconds before the first next try, and at most
TERMINATING_PAUSE = 2.0  # seconds

KINDS = {"Service": SERVICES, "Job": JOBS}

log = logging.getLogger("simpletrain.kubernetes")


@dataclass(frozen=True, slots=True)
class Made:
    key: AttemptKey
    uid: str  # of the Job


@dataclass(frozen=True, slots=True)
class _Unsure:
    """A Job was asked for and no answer came: it may still appear."""

    manifest: Object
    at: float  # monotonic seconds


class Launcher:
    def __init__(self, client: Client, settings: KubernetesSettings, instance: str) -> None:
        self._client = client
        self._settings = settings
        self._instance = instance
        self._unsure: dict[AttemptKey, _Unsure] = {}
        self._full: dict[str, tuple[Wait, float]] = {}  # what is short → the answer, and until when it holds

    def launch(self, attempt: Attempt) -> Made | Wait | Refused:
        """Raises KubernetesError where it is not known whether anything was made, or the operator has to act."""
        try:
            *others, job = manifests(attempt, self._settings)
        except (Impossible, ValueError) as problem:
            return Refused(Reason(Code.REFUSED, str(problem)))
        short = "gpu" if attempt.spec.gpus else ""
        if short in self._full and time.monotonic() < self._full[short][1]:
            return self._full[short][0]
        made: list[Object] = []
        for manifest in [*others, job]:
            fault(f"kubernetes.before_{manifest['kind'].lower()}")
            answer = self._create(attempt.key, manifest, short)
            if isinstance(answer, Wait | Refused):
                return answer
            made.append(answer)
            fault(f"kubernetes.after_{manifest['kind'].lower()}")
        self._full.pop(short, None)
        self._unsure.pop(attempt.key, None)
        *others, found = made
        for other in others:
            self._own(other, found)
        return Made(attempt.key, text(found, "metadata", "uid"))

    def room(self) -> None:
        """Something was removed: what a quota refused may fit now."""
        self._full.clear()

    def keep_away(self, key: AttemptKey) -> bool:
        """See to it that a Job which was asked for, and has not come, never comes; whether that is certain now.

        Its name is given to a Job of no pods, which is complete at once and removed by the cluster after five
        minutes: a late request then finds the name taken.
        """
        unsure = self._unsure.get(key)
        if unsure is None or time.monotonic() > unsure.at + UNDECIDED:
            self._unsure.pop(key, None)
            return True
        manifest = _placeholder(unsure.manifest)
        try:
            self._client.post(JOBS.path(self._settings.namespace), manifest)
        except Conflict:
            return False  # it has come
        except (Forbidden, Invalid) as error:
            log.warning("attempt %s: no placeholder could be made: %s", key, error)
            return False
        self._unsure.pop(key, None)
        return True

    def _create(self, key: AttemptKey, manifest: Object, short: str) -> Object | Wait | Refused:
        kind = KINDS[manifest["kind"]]
        try:
            return self._client.post(kind.path(self._settings.namespace), manifest)
        except Conflict as error:
            if error.clash is Clash.MODIFIED:
                raise _Changed(error) from error
            return self._taken(key, kind, manifest)
        except Forbidden as error:
            if error.ban is Ban.QUOTA:
                return self._quota(error, short)
            if error.ban is Ban.POLICY:
                return Refused(Reason(Code.POLICY, not_made(error.raw)[1], error.raw))
            raise
        except Invalid as error:
            return Refused(Reason(Code.REFUSED, f"The cluster refuses the job: {error.text}", error.raw))
        except Retry as error:
            if error.sent and kind is JOBS:
                self._unsure[key] = _Unsure(manifest, time.monotonic())
            raise

    def _taken(self, key: AttemptKey, kind: Kind, manifest: Object) -> Object | Wait | Refused:
        name = text(manifest, "metadata", "name")
        try:
            found = self._client.get(kind.path(self._settings.namespace, name))
        except Gone as error:
            if error.what is Missing.OBJECT:
                return _still_leaving(name, key)
            raise
        if key_of(mapping(found, "metadata", "labels"), self._instance) != key:
            sentence = f"The name {name} is taken on the cluster by something that is not this job's."
            return Refused(Reason(Code.REFUSED, sentence, _whose(found)))
        if PLACEHOLDER in mapping(found, "metadata", "labels"):
            return Refused(Reason(Code.STOPPED, "It was stopped before it started."))
        if text(found, "metadata", "deletionTimestamp"):
            return _still_leaving(name, key)
        if _hash_of(found) != _hash_of(manifest):
            # The settings or the portal's version have changed since. It is this attempt all the same: to refuse it
            # would call a job failed that runs.
            log.warning("attempt %s: %s %s was made with other settings", key, kind.name, name)
        return found

    def _quota(self, error: Forbidden, short: str) -> Wait:
        before = self._full.get(short)
        pause = QUOTA_PAUSE[0]
        if before is not None and before[0].retry_after is not None:
            pause = min(QUOTA_PAUSE[1], before[0].retry_after * 2)
        wait = Wait(Reason(Code.QUOTA, not_made(error.raw)[1], error.raw), resource=short, retry_after=pause)
        self._full[short] = (wait, time.monotonic() + pause)
        return wait

    def _own(self, other: Object, job: Object) -> None:
        """Tie it to the Job, so that the cluster removes it when the Job goes."""
        uid = text(job, "metadata", "uid")
        if any(text(owner, "uid") == uid for owner in items(other, "metadata", "ownerReferences")):
            return
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": text(job, "metadata", "name"), "uid": uid}
        # the uid makes the server refuse if it is another object by now
        patch = {"metadata": {"uid": text(other, "metadata", "uid"), "ownerReferences": [owner]}}
        self._client.patch(SERVICES.path(self._settings.namespace, text(other, "metadata", "name")), patch)


class _Changed(ClusterError):
    def __init__(self, error: KubernetesError) -> None:
        super().__init__(error.text, error.raw, retry_after=1.0)


def is_placeholder(job: Object) -> bool:
    return PLACEHOLDER in mapping(job, "metadata", "labels")


def _placeholder(manifest: Object) -> Object:
    job = copy.deepcopy(manifest)
    job["metadata"]["labels"][PLACEHOLDER] = "true"
    job["spec"] |= {"completions": 0, "parallelism": 0, "ttlSecondsAfterFinished": PLACEHOLDER_LIFE}
    return job


def _still_leaving(name: str, key: AttemptKey) -> Wait:
    reason = Reason(Code.STARTING, f"An earlier object named {name} is still being removed on the cluster.")
    return Wait(reason, resource=f"the name of {key}", retry_after=TERMINATING_PAUSE)


def _hash_of(found: Object) -> str:
    return text(found, "metadata", "annotations", SPEC_HASH)


def _whose(found: Object) -> str:
    labels = mapping(found, "metadata", "labels")
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))[:500] or "it has no labels"
