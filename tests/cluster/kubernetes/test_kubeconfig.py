"""A kubeconfig is read by an allow-list: what would run, open or trust anything else is refused with a sentence."""

from __future__ import annotations

import base64
import builtins
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cluster.kubernetes import kubeconfig
from app.cluster.kubernetes.kubeconfig import Credential, Unusable, from_json, in_cluster, parse, token_source
from tests.cluster.kubernetes.conftest import Keys

Config = dict[str, Any]
Change = Callable[[Config], object]


def config(cluster: Config | None = None, user: Config | None = None, context: Config | None = None) -> Config:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://k8s.example:6443"} | (cluster or {})}],
        "users": [{"name": "u", "user": {"token": "abc.DEF-123"} | (user or {})}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"} | (context or {})}],
        "preferences": {},
    }


def changed(by: Change) -> str:
    made = config()
    by(made)
    return yaml.safe_dump(made)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_takes_server_token_and_namespace() -> None:
    found = parse(yaml.safe_dump(config(context={"namespace": "lab"})))
    assert found == Credential("https://k8s.example:6443", token="abc.DEF-123", namespace="lab")
    assert parse(json.dumps(config())).namespace == "default"


def test_takes_authority_and_certificate(keys: Keys) -> None:
    user = {"client-certificate-data": b64(keys.certificate), "client-key-data": b64(keys.key), "token": ""}
    found = parse(yaml.safe_dump(config({"certificate-authority-data": b64(keys.ca)}, user)))
    assert (found.ca, found.certificate, found.key, found.token) == (keys.ca, keys.certificate, keys.key, "")
    assert from_json(found.to_json()) == found
    assert keys.key.splitlines()[3] not in repr(found)


ACCEPTED: dict[str, Change] = {
    "the only context, where none is current": lambda c: c.pop("current-context"),
    "an empty current context": lambda c: c.update({"current-context": ""}),
    "no kind": lambda c: c.pop("kind"),
    "extensions": lambda c: c["clusters"][0]["cluster"].update(extensions=[{"name": "x", "extension": {"a": 1}}]),
    "compression": lambda c: c["clusters"][0]["cluster"].update({"disable-compression": True}),
    "a check that is not turned off": lambda c: c["clusters"][0]["cluster"].update({"insecure-skip-tls-verify": False}),
    "an empty proxy": lambda c: c["clusters"][0]["cluster"].update({"proxy-url": ""}),
    "no plugin": lambda c: c["users"][0]["user"].update(exec=None),
    "a path": lambda c: c["clusters"][0]["cluster"].update(server="https://rancher.example/k8s/clusters/c-1"),
    "an IPv6 address": lambda c: c["clusters"][0]["cluster"].update(server="https://[fd00::1]:6443"),
    "a plugin of another user": lambda c: c["users"].append({"name": "other", "user": {"exec": {"command": "x"}}}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name: str) -> None:
    assert parse(changed(ACCEPTED[name])).token == "abc.DEF-123"


def _cluster(**fields: object) -> Change:
    return lambda c: c["clusters"][0]["cluster"].update({key.replace("_", "-"): v for key, v in fields.items()})


def _user(**fields: object) -> Change:
    return lambda c: c["users"][0]["user"].update({key.replace("_", "-"): v for key, v in fields.items()})


def _context(**fields: object) -> Change:
    return lambda c: c["contexts"][0]["context"].update(fields)


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/tmp/run", "args": ["x"]}
REFUSED: dict[str, tuple[Change | str, str]] = {
    "exec v1": (_user(exec=EXEC), "running a command (exec)"),
    "exec v1beta1": (_user(exec=EXEC | {"apiVersion": "client.authentication.k8s.io/v1beta1"}), "running a command"),
    "exec v1alpha1": (_user(exec=EXEC | {"apiVersion": "client.authentication.k8s.io/v1alpha1"}), "running a command"),
    "exec of no version": (_user(exec={"command": "/tmp/run"}), "running a command"),
    "exec that is a list": (_user(exec=["x"]), "running a command"),
    "exec and a token": (_user(exec=EXEC, token="t"), "running a command"),
    "gcp": (_user(auth_provider={"name": "gcp", "config": {"cmd-path": "/tmp/run"}}), "plugin (auth-provider)"),
    "oidc": (_user(auth_provider={"name": "oidc", "config": {"idp-issuer-url": "http://169.254.169.254"}}), "plugin"),
    "azure": (_user(auth_provider={"name": "azure"}), "plugin"),
    "token file": (_user(tokenFile="/etc/passwd"), "file with a token"),
    "token file and token": (_user(tokenFile="/etc/passwd", token="t"), "file with a token"),
    "client certificate file": (_user(client_certificate="/x.crt"), "file with a certificate"),
    "client key file": (_user(client_key="/x.key"), "file with a key"),
    "authority file": (_cluster(certificate_authority="/etc/passwd"), "file with the certificate authority"),
    "basic": (_user(username="admin", password="secret-password"), "name and password"),
    "password": (_user(password="secret-password"), "name and password"),
    "as": (_user(**{"as": "system:admin"}), "impersonation"),
    "as-uid": (_user(as_uid="1"), "impersonation"),
    "as-groups": (_user(as_groups=["system:masters"]), "impersonation"),
    "as-user-extra": (_user(as_user_extra={"a": ["b"]}), "impersonation"),
    "proxy": (_cluster(proxy_url="http://10.0.0.1:3128"), "names a proxy"),
    "socks proxy": (_cluster(proxy_url="socks5://10.0.0.1"), "names a proxy"),
    "no check": (_cluster(insecure_skip_tls_verify=True), "check of the server's certificate off"),
    "no check, as text": (_cluster(insecure_skip_tls_verify="true"), "check of the server's certificate off"),
    "another name": (_cluster(tls_server_name="evil.example"), "another name"),
    "http": (_cluster(server="http://k8s.example"), "is http"),
    "HTTP": (_cluster(server="HTTP://k8s.example"), "is http"),
    "file address": (_cluster(server="file:///etc/passwd"), "https://HOST:PORT"),
    "unix address": (_cluster(server="unix:///run/x"), "https://HOST:PORT"),
    "no scheme": (_cluster(server="k8s.example:6443"), "https://HOST:PORT"),
    "no host": (_cluster(server="https://"), "https://HOST:PORT"),
    "user in the address": (_cluster(server="https://ok@169.254.169.254"), "has a user"),
    "password in the address": (_cluster(server="https://a:secret-password@k8s.example"), "has a user"),
    "query": (_cluster(server="https://k8s.example/?x=1"), "query"),
    "fragment": (_cluster(server="https://k8s.example/#x"), "query"),
    "space": (_cluster(server="https://k8s.example /"), "https://HOST:PORT"),
    "line break": (_cluster(server="https://k8s.example\r\nX: y"), "https://HOST:PORT"),
    "backslash": (_cluster(server="https://k8s.example\\@evil"), "https://HOST:PORT"),
    "letters of elsewhere": (_cluster(server="https://k8s.exämple"), "https://HOST:PORT"),
    "a bad port": (_cluster(server="https://k8s.example:99999"), "https://HOST:PORT"),
    "a bad address": (_cluster(server="https://[::1"), "https://HOST:PORT"),
    "no server": (_cluster(server=None), "no server address"),
    "a number for a server": (_cluster(server=["x"]), "server is not a text"),
    "no token": (_user(token=None), "neither a token nor"),
    "a token with a line break": (_user(token="a\r\nX-Remote-User: admin"), "spaces, line breaks"),
    "a token with a space": (_user(token="a b"), "spaces, line breaks"),
    "a token that is a list": (_user(token=["x"]), "not a text"),
    "a huge token": (_user(token="x" * 70_000), "spaces, line breaks"),
    "half a certificate": (_user(client_certificate_data=b64("x")), "one is missing"),
    "a certificate that is none": (_user(client_certificate_data=b64("x"), client_key_data=b64("y")), "cannot be used"),
    "no base64": (_user(client_key_data="%%%", client_certificate_data="x"), "not base64"),
    "an authority that is none": (_cluster(certificate_authority_data=b64("hello")), "not a certificate in PEM"),
    "an unknown field of the user": (_user(shiny="x"), "“shiny”"),
    "an unknown field of the cluster": (_cluster(shiny="x"), "“shiny”"),
    "a bad namespace": (_context(namespace="../../kube-system"), "namespace is not a name"),
    "a namespace with a line break": (_context(namespace="lab\n"), "namespace is not a name"),
    "no such context": (lambda c: c.update({"current-context": "x"}), "context “x”, and has none"),
    "no such cluster": (_context(cluster="x"), "cluster “x”, and has none"),
    "no such user": (_context(user="x"), "user “x”, and has none"),
    "no user": (_context(user=None), "names no user"),
    "two of a name": (lambda c: c["users"].append({"name": "u", "user": {}}), "“u” twice"),
    "two contexts": (
        lambda c: (c.pop("current-context"), c["contexts"].append({"name": "b", "context": {}})),
        "2 contexts and does not say",
    ),
    "no contexts": (lambda c: (c.pop("current-context"), c.pop("contexts")), "0 contexts"),
    "clusters that are no list": (lambda c: c.update(clusters={"a": 1}), "are not a list"),
    "users that are words": (lambda c: c.update(users=["a"]), "are not a list"),
    "a user without fields": (lambda c: c["users"][0].update(user="x"), "has no fields"),
    "another kind": (lambda c: c.update(kind="Secret"), "not a kubeconfig but a “Secret”"),
    "empty": ("", "empty"),
    "a comment": ("# nothing", "empty"),
    "a list": ("- a\n- b\n", "does not consist of clusters"),
    "a word": ("hello", "does not consist of clusters"),
    "no YAML": ("a: [", "not YAML"),
    "a tab": ("a:\n\t- b", "not YAML"),
    "control characters": ("a: \x00", "not YAML"),
    "lone surrogate": ("a: \ud800", "not YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "several documents"),
    "references": ("a: &x {b: 1}\nc: *x\n", "YAML references"),
    "an alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c]\n",
        "YAML references",
    ),
    "merge key": ("a: {<<: *x}\n", "YAML references"),
    "python": ("a: !!python/object/apply:os.system ['touch /tmp/x']\n", "YAML tags"),
    "a tag": ("a: !!binary aGVsbG8=\n", "YAML tags"),
    "a key twice": ("kind: Config\nusers: []\nusers: [{name: u}]\n", "“users” twice"),
    "a key that is a list": ("? [a]\n: b\n", "key that is not a word"),
    "too deep": ("[" * 3000, "nested too deeply"),
    "too deep by maps": ("{a: " * 3000, "nested too deeply"),
    "too large": ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, says = REFUSED[name]
    text = given if isinstance(given, str) else changed(given)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"something was opened or run: {args}")

    with monkeypatch.context() as patch:
        for module, function in ((builtins, "open"), (os, "open"), (subprocess, "Popen"), (os, "system")):
            patch.setattr(module, function, forbidden)
        with pytest.raises(Unusable) as raised:
            parse(text)
    message = str(raised.value)
    assert says in message
    assert message.endswith((".", ").")), message
    assert "secret-password" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"server": "https://k8s.example"}',
        '{"server": "http://k8s.example", "token": "t"}',
        '{"server": "https://k8s.example", "token": "t", "tokenFile": "/etc/passwd"}',
        '{"server": "https://k8s.example", "token": ["t"]}',
        '{"server": 7, "token": "t"}',
        '{"server": "https://k8s.example", "token": "t", "namespace": "../x"}',
        '{"server": "https://k8s.example", "token": "t\\r\\nX: y"}',
        '{"server": "https://k8s.example", "token": "t", "ca": "/etc/passwd"}',
    ],
)
def test_what_was_stored_by_somebody_else_is_refused_too(text: str) -> None:
    with pytest.raises(Unusable):
        from_json(text)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys) -> Path:
    monkeypatch.setattr(kubeconfig, "MOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name, text in (("token", "first\n"), ("ca.crt", keys.ca), ("namespace", "portal")):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_in_a_pod_the_mounted_account_is_used(pod: Path, keys: Keys) -> None:
    found = in_cluster()
    assert (found.server, found.token, found.ca, found.namespace) == (
        "https://10.96.0.1:443",
        "first",
        keys.ca,
        "portal",
    )
    assert found.token not in found.to_json()
    assert from_json(found.to_json()) == found


def test_a_stored_address_never_gets_the_mounted_token(pod: Path) -> None:
    stored = '{"mounted": true, "server": "https://evil.example", "token": "x"}'
    assert from_json(stored).server == "https://10.96.0.1:443"


def test_the_mounted_token_is_read_anew(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = token_source(in_cluster())
    (pod / "token").write_text("second")
    assert token(False) == "first"
    assert token(True) == "second"  # it was refused
    (pod / "token").write_text("third")
    monkeypatch.setattr(kubeconfig, "REREAD", 0.0)
    assert token(False) == "third"
    (pod / "token").unlink()
    assert token(False) == "third"


def test_outside_of_a_pod_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "MOUNT", tmp_path / "none")
    with pytest.raises(Unusable, match="does not run in a pod"):
        in_cluster()
    with pytest.raises(Unusable):
        from_json('{"mounted": true}')


def test_there_are_enough_of_them() -> None:
    assert len(REFUSED) + len(ACCEPTED) >= 90
