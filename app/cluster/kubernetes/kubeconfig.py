"""How the portal signs in to a cluster, read from a kubeconfig by an allow-list. No file is opened, no command is run.

A kubeconfig may name commands, files of this machine and proxies; tools that load it follow them. Here only a server's
address, certificates, keys and tokens that stand in the text itself are taken over. Everything else is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from app.cluster.kubernetes import tls

LIMIT = 1 << 20  # bytes of a kubeconfig
DEPTH = 12  # levels that a kubeconfig may be nested; a plain one has five
TOKEN_LIMIT = 64 << 10  # characters
MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REREAD = 60.0  # seconds that a mounted token is used before it is read anew: the kubelet exchanges it

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")

EMBED = "Make one that holds everything: kubectl config view --flatten --minify."
ACCOUNT = "Make a service account for the portal and give its token instead (docs/clusters.md)."

REFUSED_OF_CLUSTER = {
    "certificate-authority": f"It names a file with the certificate authority, which the portal does not open. {EMBED}",
    "insecure-skip-tls-verify": "It turns the check of the server's certificate off. Give the authority of that "
    "certificate as certificate-authority-data instead.",
    "tls-server-name": "It asks to check the server's certificate under another name (tls-server-name). Give an "
    "address that the certificate is made for.",
    "proxy-url": "It names a proxy (proxy-url), which the portal does not use. Give an address that the portal can "
    "reach directly.",
}
REFUSED_OF_USER = {
    "exec": f"It signs in by running a command (exec), which the portal never does. {ACCOUNT}",
    "auth-provider": f"It signs in through a plugin (auth-provider), which the portal does not run. {ACCOUNT}",
    "tokenFile": f"It names a file with a token (tokenFile), which the portal does not open. {ACCOUNT}",
    "client-certificate": f"It names a file with a certificate, which the portal does not open. {EMBED}",
    "client-key": f"It names a file with a key, which the portal does not open. {EMBED}",
    "username": f"It signs in by name and password, which Kubernetes no longer accepts. {ACCOUNT}",
    "password": f"It signs in by name and password, which Kubernetes no longer accepts. {ACCOUNT}",
    **dict.fromkeys(
        ("as", "as-uid", "as-groups", "as-user-extra"),
        f"It acts in the name of somebody else (impersonation), which the portal does not do. {ACCOUNT}",
    ),
}
TAKEN_OF_CLUSTER = {"server", "certificate-authority-data"}
TAKEN_OF_USER = {"token", "client-certificate-data", "client-key-data"}
HARMLESS = {"extensions", "disable-compression"}


class Unusable(ValueError):
    """A kubeconfig or a stored credential that is refused; the text says what to do instead. Quotes no secret."""


@dataclass(frozen=True, slots=True)
class Credential:
    server: str
    ca: str = ""  # PEM; empty: the system's authorities
    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)  # PEM
    key: str = field(default="", repr=False)  # PEM
    namespace: str = "default"
    mounted: bool = False  # the portal's own service account: everything is read where the kubelet mounts it

    def to_json(self) -> str:
        """For sealing: it holds the secrets."""
        return json.dumps({"mounted": True} if self.mounted else asdict(self))


def from_json(text: str) -> Credential:
    """The reverse of `to_json`. Checked like a kubeconfig, because whoever stored it need not have been the portal."""
    try:
        stored = json.loads(text)
        if stored.get("mounted"):
            # never with a stored address: the account's token goes to the portal's own cluster only
            return in_cluster()
        return _checked(Credential(**stored))
    except (TypeError, AttributeError, json.JSONDecodeError):
        raise Unusable("The stored credential cannot be read. Add the cluster's credential again.") from None


def parse(text: str) -> Credential:
    """The credential of the current context, or of the only one. Raises Unusable."""
    config = _load(text)
    if not isinstance(config, dict):
        raise Unusable("This is not a kubeconfig: it does not consist of clusters, users and contexts.")
    if config.get("kind") not in (None, "Config"):
        raise Unusable(f"This is not a kubeconfig but a {_shown(config['kind'])}.")
    context = _context(config)
    cluster = _named(config, "clusters", "cluster", context.get("cluster"))
    user = _named(config, "users", "user", context.get("user"))
    _refuse(cluster, REFUSED_OF_CLUSTER, TAKEN_OF_CLUSTER | HARMLESS, "cluster")
    _refuse(user, REFUSED_OF_USER, TAKEN_OF_USER | HARMLESS, "user")
    return _checked(
        Credential(
            server=_text(cluster, "server"),
            ca=_pem(cluster, "certificate-authority-data"),
            token=_text(user, "token"),
            certificate=_pem(user, "client-certificate-data"),
            key=_pem(user, "client-key-data"),
            namespace=_text(context, "namespace") or "default",
        )
    )


def in_cluster() -> Credential:
    """The service account that the portal's own pod runs under. Raises Unusable outside a cluster."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        ca = (MOUNT / "ca.crt").read_text()
        namespace = (MOUNT / "namespace").read_text().strip()
        token = (MOUNT / "token").read_text().strip()
    except OSError:
        host = ""
    if not host:
        raise Unusable("The portal does not run in a pod with a service account. Give a kubeconfig instead.")
    host = f"[{host}]" if ":" in host else host
    return _checked(Credential(f"https://{host}:{port}", ca, token, namespace=namespace, mounted=True))


def token_source(credential: Credential) -> Callable[[bool], str]:
    """Gives the token to send. Called with true it looks whether there is a newer one than was just refused."""
    if credential.mounted:
        return _MountedToken(MOUNT / "token", credential.token)
    return lambda refused: credential.token


class _MountedToken:
    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token
        self._read_at = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, refused: bool) -> str:
        with self._lock:
            if refused or time.monotonic() > self._read_at + REREAD:
                with suppress(OSError):  # it is being exchanged: the old one is good for a while
                    self._token = self._path.read_text().strip() or self._token
                self._read_at = time.monotonic()
            return self._token


# what a kubeconfig may look like


def _load(text: str) -> Any:
    """YAML without what makes it dangerous: no references, no tags, no key twice, bounded size and depth."""
    if len(text.encode("utf-8", "surrogatepass")) > LIMIT:
        raise Unusable("This is larger than 1 MiB: it is not a kubeconfig.")
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        nodes = (event for event in events if not isinstance(event, yaml.StreamStartEvent))
        if not isinstance(next(nodes), yaml.DocumentStartEvent):
            raise Unusable("The kubeconfig is empty.")
        value = _value(next(nodes), nodes, 0)
        next(nodes)  # the document's end
        if not isinstance(next(nodes), yaml.StreamEndEvent):
            raise Unusable("There are several documents in this file. Give one kubeconfig.")
        return value
    except (yaml.YAMLError, UnicodeError) as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise Unusable(
            f"This is not YAML{where}. Give the kubeconfig as kubectl config view --raw prints it."
        ) from None


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise Unusable(f"It uses YAML references (& and *), which the portal does not follow. {EMBED}")
    if depth > DEPTH:
        raise Unusable("It is nested too deeply: this is not a kubeconfig.")
    if getattr(event, "tag", None):
        raise Unusable(f"It uses YAML tags (!), which the portal does not follow. {EMBED}")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(event, events, depth + 1)
        if not isinstance(key, str):
            raise Unusable("It has a key that is not a word: this is not a kubeconfig.")
        if key in mapping:
            raise Unusable(f"It says {_shown(key)} twice in one place. Remove the one that does not hold.")
        mapping[key] = _value(next(events), events, depth + 1)
    return mapping


def _scalar(event: yaml.ScalarEvent) -> str | bool | None:
    if not event.style:  # it stands there without quotes
        if event.value.lower() in ("", "~", "null"):
            return None
        if event.value.lower() in ("true", "yes", "on"):
            return True
        if event.value.lower() in ("false", "no", "off"):
            return False
    value = event.value
    assert isinstance(value, str)
    return value


def _context(config: dict[str, Any]) -> dict[str, Any]:
    name = config.get("current-context")
    if name:
        return _named(config, "contexts", "context", name)
    contexts = _list(config, "contexts")
    if len(contexts) != 1:
        raise Unusable(
            f"It has {len(contexts)} contexts and does not say which one is meant. "
            "Set current-context: kubectl config use-context NAME."
        )
    return _inner(contexts[0], "context")


def _named(config: dict[str, Any], where: str, what: str, name: object) -> dict[str, Any]:
    if not isinstance(name, str) or not name:
        raise Unusable(f"Its context names no {what}. {EMBED}")
    found = [entry for entry in _list(config, where) if entry.get("name") == name]
    if not found:
        raise Unusable(f"It names the {what} {_shown(name)}, and has none of that name. {EMBED}")
    if len(found) > 1:
        raise Unusable(f"It has the {what} {_shown(name)} twice. Remove the one that does not hold.")
    return _inner(found[0], what)


def _list(config: dict[str, Any], where: str) -> list[dict[str, Any]]:
    entries = config.get(where) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unusable(f"This is not a kubeconfig: its {where} are not a list.")
    return entries


def _inner(entry: dict[str, Any], what: str) -> dict[str, Any]:
    inner = entry.get(what) or {}
    if not isinstance(inner, dict):
        raise Unusable(f"This is not a kubeconfig: the {what} {_shown(entry.get('name'))} has no fields.")
    return inner


def _refuse(given: dict[str, Any], refused: dict[str, str], taken: set[str], what: str) -> None:
    """A field that is there but says nothing (null, false, empty) is none."""
    says = {key for key, value in given.items() if value}
    for key in refused:
        if key in says:
            raise Unusable(refused[key])
    for key in sorted(says - taken):
        raise Unusable(f"Its {what} has the field {_shown(key)}, which the portal does not know. Remove it. {EMBED}")


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise Unusable(f"Its {key} is not a text.")
    return value or ""


def _pem(given: dict[str, Any], key: str) -> str:
    try:
        data = base64.b64decode("".join(_text(given, key).split()), validate=True).decode("ascii")
    except (binascii.Error, UnicodeError):
        raise Unusable(f"Its {key} is not base64 of a PEM text. {EMBED}") from None
    return data


def _shown(name: object) -> str:
    text = str(name)
    return f"“{text[:60]}{'…' if len(text) > 60 else ''}”" if text.isprintable() else "(unreadable)"


# what a credential may hold


def _checked(credential: Credential) -> Credential:
    for value in asdict(credential).values():
        if not isinstance(value, str | bool):
            raise TypeError
    _check_server(credential.server)
    if not _NAMESPACE.fullmatch(credential.namespace):
        raise Unusable("Its namespace is not a name that Kubernetes allows.")
    if credential.token and (len(credential.token) > TOKEN_LIMIT or not _TOKEN.fullmatch(credential.token)):
        raise Unusable("Its token has spaces, line breaks or other characters that no token has. Copy it again.")
    if bool(credential.certificate) != bool(credential.key):
        raise Unusable(f"A client certificate and its key belong together; one is missing. {EMBED}")
    if not credential.token and not credential.certificate:
        raise Unusable(f"Its user has neither a token nor a client certificate. {ACCOUNT}")
    try:
        tls.context(credential.ca, credential.certificate, credential.key)
    except ValueError as problem:
        raise Unusable(str(problem)) from None
    return credential


def _check_server(server: str) -> None:
    if not server:
        raise Unusable("Its cluster has no server address.")
    if server.lower().startswith("http://"):
        raise Unusable(
            "Its server address is http, where everybody on the way can read the token. Give the https address."
        )
    try:
        url = urlsplit(server)
        usable = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable or not server.isascii() or not server.isprintable() or " " in server or "\\" in server:
        raise Unusable("Its server address is not of the form https://HOST:PORT.")
    if url.username is not None or url.password is not None or url.query or url.fragment or "@" in url.netloc:
        raise Unusable("Its server address has a user, a query or a fragment. Give it in the form https://HOST:PORT.")
    if not _HOST.fullmatch(url.hostname or "") or len(server) > 1000:
        raise Unusable("Its server address is not of the form https://HOST:PORT.")
