"""What the objects of an attempt are called, and the labels by which they are known as ours.

A name is made of the attempt alone, so that a repeated step makes the same one. It is never read back: labels tell
whose an object is, and only an object that carries this installation's is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.cluster.protocol import Attempt, AttemptKey

INSTANCE = "simpletrain.io/instance"
ORG = "simpletrain.io/org"
JOB = "simpletrain.io/job"
ATTEMPT = "simpletrain.io/attempt"
USER = "simpletrain.io/user"

INDEX = "batch.kubernetes.io/job-completion-index"  # on a pod of an Indexed Job, as label and as annotation: its rank
CONTAINER = "main"  # in each pod; another container beside it was put there by the cluster

SLUG_LENGTH = 20
NAME_LENGTH = 40  # a pod's host name is this and "-<rank>", and must stay a DNS label

_UID = re.compile(r"[a-z0-9]{8}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


def object_name(attempt: Attempt) -> str:
    """`r-<slug of the job's name>-<uid>-a<number>`: a DNS label of at most 40 characters, a letter first."""
    key = attempt.key
    if not _UID.fullmatch(key.job) or not _NUMBER.fullmatch(str(key.number)):
        raise ValueError(f"{key} cannot name an object")
    slug = re.sub(r"[^a-z0-9]+", "-", attempt.job_name.lower())[:SLUG_LENGTH].strip("-")
    return "-".join(part for part in ("r", slug, str(key)) if part)


def labels(attempt: Attempt) -> dict[str, str]:
    """On every object and every pod. Ids only: labels are seen by all who can look at the namespace."""
    own = {
        **attempt_labels(attempt.instance, attempt.key),
        ORG: attempt.org,
        USER: attempt.user,
    }
    for label, value in own.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{value!r} cannot be the value of the label {label}")
    return {
        "app.kubernetes.io/managed-by": "simpletrain",
        "app.kubernetes.io/part-of": "simpletrain",
        "app.kubernetes.io/component": "training-job",
        **own,
    }


def attempt_labels(instance: str, key: AttemptKey) -> dict[str, str]:
    """The labels that no other attempt's objects carry."""
    return {INSTANCE: instance, JOB: key.job, ATTEMPT: str(key.number)}


def instance_selector(instance: str) -> str:
    """Finds every object of this installation."""
    return f"{INSTANCE}={instance}"


def attempt_selector(instance: str, key: AttemptKey) -> str:
    return ",".join(f"{label}={value}" for label, value in attempt_labels(instance, key).items())


def key_of(found: Mapping[str, object] | None, instance: str) -> AttemptKey | None:
    """Whose object carries these labels; None where it is not surely one of this installation's attempts."""
    if not found or found.get(INSTANCE) != instance:
        return None
    job, number = found.get(JOB), found.get(ATTEMPT)
    if not isinstance(job, str) or not isinstance(number, str):
        return None
    if not _UID.fullmatch(job) or not _NUMBER.fullmatch(number):
        return None
    return AttemptKey(job, int(number))
