"""Certificates and kubeconfigs of one cluster, made with openssl."""

from __future__ import annotations

import base64
import json
import subprocess

from tests.real.cluster.place import NODE, Place

# file name: subject; organisations are groups to Kubernetes
IDENTITIES = {
    "apiserver": "/CN=kube-apiserver",
    "admin": "/O=system:masters/CN=admin",
    "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "node": f"/O=system:nodes/CN=system:node:{NODE}",
    "controllers": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "dns": "/O=system:masters/CN=cluster-dns",
}
CLIENTS = ("admin", "node", "controllers", "scheduler", "dns")
# what Python 3.13's strict checks ask for
EXTENSIONS = """
subjectAltName = IP:127.0.0.1, IP:10.96.0.1, DNS:localhost, DNS:kubernetes.default.svc
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")  # made in no time, unlike RSA
DAYS = ("-days", "3650")


def make(place: Place) -> None:
    """Make the authority, everybody's certificate, and the kubeconfigs."""
    place.pki.mkdir(parents=True, exist_ok=True)
    place.pki.chmod(0o700)
    (place.pki / "extensions").write_text(EXTENSIONS)
    _openssl(place, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "tokens.key")
    _openssl(place, "ec", "-in", "tokens.key", "-pubout", "-out", "tokens.pub")
    usage = ("-addext", "keyUsage = critical, keyCertSign, cRLSign", "-subj", "/CN=simpletrain-test")
    _openssl(place, "req", "-x509", *CURVE, "-keyout", "ca.key", "-out", "ca.crt", *DAYS, *usage)
    for name, subject in IDENTITIES.items():
        _openssl(place, "req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
        _openssl(place, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *DAYS, *signing)
    for name in CLIENTS:
        path = place.kubeconfig if name == "admin" else place.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        user = {"client-certificate-data": _file(place, f"{name}.crt"), "client-key-data": _file(place, f"{name}.key")}
        path.write_text(kubeconfig(place.server, _file(place, "ca.crt"), name, user))


def kubeconfig(server: str, authority: str, name: str, user: dict[str, str], namespace: str = "default") -> str:
    """The text of a kubeconfig, as JSON, which is YAML."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name, "namespace": namespace}}],
        },
        indent=1,
    )


def _file(place: Place, name: str) -> str:
    return base64.b64encode((place.pki / name).read_bytes()).decode()


def _openssl(place: Place, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=place.pki, check=True, capture_output=True)
