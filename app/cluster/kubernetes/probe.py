"""Tries a cluster before it is used: is it there, may the portal do what it does, would a pod of a job be let in?

Nothing is left behind: the only object is sent as a dry run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.cluster.kubernetes.client import Client
from app.cluster.kubernetes.errors import KubernetesError
from app.cluster.kubernetes.manifests import KubernetesSettings, manifests
from app.cluster.protocol import Attempt, AttemptKey, JobSpec

# What the portal does in its namespace: (API group, resource, subresource) → verbs. k8s/rbac/role.yaml allows exactly
# this, and a test compares both with what the audit log of a real API server saw.
NEEDS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("batch", "jobs", ""): ("create", "delete", "get", "list", "watch"),
    ("", "services", ""): ("create", "delete", "get", "list", "patch"),
    ("", "pods", ""): ("delete", "list", "watch"),
    ("", "pods", "log"): ("get",),
    ("", "events", ""): ("list",),
}
NODES = ("", "nodes", "")


@dataclass(frozen=True, slots=True)
class Check:
    text: str  # what was looked at, as a sentence
    problem: str = ""  # a sentence; empty: it is well
    needed: bool = True  # without it no job can run


def probe(client: Client, settings: KubernetesSettings) -> Iterator[Check]:
    """One check after the other; no more follow where one that all others need has failed."""
    try:
        version = client.get("/version").get("gitVersion", "of an unknown version")
    except KubernetesError as error:
        yield Check("The cluster answers.", error.text)
        return
    yield Check(f"Kubernetes {version} answers.")
    try:
        missing = list(_missing(client, settings.namespace))
    except KubernetesError as error:
        yield Check("The portal may ask what it is allowed.", error.text)
        return
    role = "Apply k8s/rbac to the namespace."
    allowed = f"The portal may do in {settings.namespace} what it needs."
    yield Check(allowed, f"It may not {', '.join(missing)} in {settings.namespace}. {role}" if missing else "")
    if missing:
        return
    yield _dry_run(client, settings)
    sees = _may(client, "", NODES, "list")
    yield Check(
        "The portal may count GPUs by their nodes.",
        "" if sees else "It may not list nodes, so GPUs are those that --gpus names.",
        needed=False,
    )


def _missing(client: Client, namespace: str) -> Iterator[str]:
    for resource, verbs in NEEDS.items():
        for verb in verbs:
            if not _may(client, namespace, resource, verb):
                yield f"{verb} {'/'.join(part for part in resource[1:] if part)}"


def _may(client: Client, namespace: str, resource: tuple[str, str, str], verb: str) -> bool:
    group, name, subresource = resource
    attributes = {"verb": verb, "group": group, "resource": name}
    if subresource:
        attributes["subresource"] = subresource
    if namespace:
        attributes["namespace"] = namespace
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool((answer.get("status") or {}).get("allowed"))


def _dry_run(client: Client, settings: KubernetesSettings) -> Check:
    text = f"A job would be let in to {settings.namespace}."
    spec = JobSpec(image="registry.example/probe:1", command=("true",), gpus=0, nodes=1, max_runtime=60)
    attempt = Attempt(AttemptKey("aaaaaaaa", 1), "probe", "probe", "0", "0", spec)
    (job,) = manifests(attempt, settings)
    try:
        client.post(f"/apis/batch/v1/namespaces/{settings.namespace}/jobs", job, {"dryRun": "All"})
    except KubernetesError as error:
        return Check(text, f"{error.text} {error.raw}".strip())
    return Check(text)
