"""The API server by plain HTTP: enough for the harness itself, and independent of the client that the portal uses."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.real.cluster.errors import ClusterError, Refused

Thing = dict[str, Any]
SECONDS = 15
KINDS = {  # kind: group and version, collection
    "clusterrole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "clusterrolebinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "event": ("api/v1", "events"),
    "job": ("apis/batch/v1", "jobs"),
    "namespace": ("api/v1", "namespaces"),
    "node": ("api/v1", "nodes"),
    "pod": ("api/v1", "pods"),
    "resourcequota": ("api/v1", "resourcequotas"),
    "role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "rolebinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "secret": ("api/v1", "secrets"),
    "service": ("api/v1", "services"),
    "serviceaccount": ("api/v1", "serviceaccounts"),
}


def path(kind: str, name: str = "", *, namespace: str = "") -> str:
    """Where an object lies, or without a name all of its kind."""
    group, collection = KINDS[kind.lower()]
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"/{group}{inside}/{collection}" + (f"/{name}" if name else "")


class Api:
    """One server as one user, from a kubeconfig in JSON with everything in it (no files, no commands)."""

    def __init__(self, kubeconfig: str) -> None:
        config = json.loads(kubeconfig)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"].rstrip("/")
        self.authority: str = cluster.get("certificate-authority-data", "")
        self._token: str = user.get("token", "")
        self._context = ssl.create_default_context(cadata=base64.b64decode(self.authority).decode() or None)
        if "client-certificate-data" in user:
            self._show_certificate(user)
        elif not self._token:
            raise ClusterError("The kubeconfig signs in by a command; give one with a token or a certificate in it.")

    def _show_certificate(self, user: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:  # the ssl module reads certificates from files only
            for name in ("certificate", "key"):
                Path(folder, name).write_bytes(base64.b64decode(user[f"client-{name}-data"]))
            self._context.load_cert_chain(Path(folder, "certificate"), Path(folder, "key"))

    def text(self, path: str, method: str = "GET", body: Thing | None = None, kind: str = "application/json") -> str:
        """What the server answers; Refused with its reason when that is an error, OSError when it does not answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {"Content-Type": kind}, method=method)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=SECONDS) as answer:
                return str(answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(_reason(error.read().decode(errors="replace")), error.code) from None
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error  # cut off in the middle of an answer

    def get(self, path: str) -> Thing:
        return self._thing(path)

    def post(self, path: str, body: Thing) -> Thing:
        return self._thing(path, "POST", body)

    def patch(self, path: str, body: Thing) -> Thing:
        return self._thing(path, "PATCH", body, "application/merge-patch+json")

    def delete(self, path: str, **options: Any) -> None:
        """Ask for its end; what is not there is fine."""
        try:
            self.text(path, "DELETE", {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except Refused as error:
            if error.status != http.client.NOT_FOUND:
                raise

    def _thing(self, *request: Any) -> Thing:
        thing: Thing = json.loads(self.text(*request))
        return thing


def _reason(answer: str) -> str:
    """The sentence in a Status object, or the answer as it is."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer
