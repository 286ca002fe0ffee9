"""A namespace as a tenant has it: the restricted level, and a ServiceAccount with exactly the rights of k8s/rbac."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.real.cluster.api import Api, Thing, path
from tests.real.cluster.certificates import kubeconfig
from tests.real.cluster.wait import eventually

RIGHTS = Path(__file__).resolve().parents[3] / "k8s/rbac"
ACCOUNT = "simpletrain"
NODE_READER = "clusterrole-nodes.yaml"  # optional, so not in the kustomization
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


def create(admin: Api, name: str) -> str:
    """Make the namespace and return the kubeconfig of the account that the portal gets for it."""
    admin.post(path("namespace"), {"metadata": {"name": name, "labels": RESTRICTED}})
    for document in _documents():
        admin.post(path(document["kind"], namespace=name), document)
    # pods need the default account, which a controller makes
    eventually(f"{name} is furnished", lambda: admin.get(path("serviceaccount", "default", namespace=name)))
    request = {"spec": {"expirationSeconds": 24 * 3600}}
    token = admin.post(path("serviceaccount", f"{ACCOUNT}/token", namespace=name), request)["status"]["token"]
    return kubeconfig(admin.server, admin.authority, ACCOUNT, {"token": token}, name)


def let_read_nodes(admin: Api, name: str) -> None:
    """Add the optional right to count GPUs."""
    role: Thing = yaml.safe_load((RIGHTS / NODE_READER).read_text())
    # under a name of its own: it ends with the namespace, and tests run side by side
    role["metadata"]["name"] = f"{role['metadata']['name']}-{name}"
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": name}
    binding: Thing = {"metadata": {"name": role["metadata"]["name"]}, "roleRef": reference, "subjects": [subject]}
    for kind, thing in (("clusterrole", role), ("clusterrolebinding", binding)):
        thing["metadata"]["ownerReferences"] = [_owner(admin, name)]
        admin.post(path(kind), thing)


def delete(admin: Api, name: str) -> None:
    """Ask for its end and do not wait; its pods get no time to say goodbye, their GPUs are for the next test."""
    admin.delete(path("pod", namespace=name), gracePeriodSeconds=0)
    admin.delete(path("namespace", name))


def user(name: str) -> str:
    """What the account is called in the audit log."""
    return f"system:serviceaccount:{name}:{ACCOUNT}"


def _owner(admin: Api, name: str) -> Thing:
    uid = admin.get(path("namespace", name))["metadata"]["uid"]
    return {"apiVersion": "v1", "kind": "Namespace", "name": name, "uid": uid}


def _documents() -> list[dict[str, Any]]:
    files = yaml.safe_load((RIGHTS / "kustomization.yaml").read_text())["resources"]
    return [document for file in files for document in yaml.safe_load_all((RIGHTS / file).read_text()) if document]
