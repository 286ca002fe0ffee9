"""What can go wrong between the portal and an API server: six kinds, each with a sentence that names no credential."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

RAW = 1024  # characters kept of what a server says


class KubernetesError(Exception):
    """`text` is a sentence for people, `raw` what the server or the system said word for word."""

    def __init__(self, text: str, raw: str = "") -> None:
        super().__init__(text if not raw else f"{text} ({raw})")
        self.text = text
        self.raw = raw


class Trouble(StrEnum):
    """Why there was no usable answer."""

    DNS = "dns"
    TLS = "tls"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    CUT = "cut"
    BUSY = "busy"  # 429
    SERVER = "server"  # 5xx
    NONSENSE = "nonsense"  # something answered, and it is no Kubernetes
    PAUSED = "paused"  # not asked: the last failures are too recent


class Retry(KubernetesError):
    """No usable answer: ask again. What was asked for may have happened, unless `sent` is false."""

    def __init__(
        self, trouble: Trouble, text: str, raw: str = "", after: float | None = None, sent: bool = True
    ) -> None:
        super().__init__(text, raw)
        self.trouble = trouble
        self.after = after  # seconds, where the server or the breaker names them
        self.sent = sent


class Auth(KubernetesError):
    """The cluster does not know who is asking."""


class Ban(StrEnum):
    QUOTA = "quota"
    RBAC = "rbac"
    POLICY = "policy"  # an admission webhook, an admission policy, Pod Security


class Forbidden(KubernetesError):
    def __init__(self, ban: Ban, text: str, raw: str = "") -> None:
        super().__init__(text, raw)
        self.ban = ban


class Clash(StrEnum):
    EXISTS = "exists"
    TERMINATING = "terminating"  # one of that name is being deleted
    MODIFIED = "modified"  # it is not, or not any more, the one that was meant


class Conflict(KubernetesError):
    def __init__(self, clash: Clash, text: str, raw: str = "") -> None:
        super().__init__(text, raw)
        self.clash = clash


class Invalid(KubernetesError):
    """The server will never accept this."""


class Missing(StrEnum):
    OBJECT = "object"
    NAMESPACE = "namespace"
    VERSION = "version"  # the history that was asked for is no longer kept: list anew


class Gone(KubernetesError):
    def __init__(self, what: Missing, text: str, raw: str = "") -> None:
        super().__init__(text, raw)
        self.what = what


_POLICY = re.compile(r"admission webhook|ValidatingAdmissionPolicy|violates PodSecurity|denied (the )?request", re.I)
_TOO_NEW = "ResourceVersionTooLarge"


def error_of(code: int, status: dict[str, Any], retry_after: float | None = None) -> KubernetesError:
    """The error that a Status object of the API tells of, or a bare HTTP status where there is none."""
    message = str(status.get("message") or "")[:RAW]
    reason = str(status.get("reason") or "")
    details = status.get("details") if isinstance(status.get("details"), dict) else {}
    assert isinstance(details, dict)
    causes = {str(cause.get("reason")) for cause in details.get("causes") or () if isinstance(cause, dict)}
    if code == 401:
        return Auth("The cluster does not accept the portal's credential (401).", message)
    if code == 403:
        return _forbidden(message, causes)
    if code == 404:
        return _missing(details, message)
    if code == 409:
        return _conflict(reason, message)
    if code == 410 or reason in ("Expired", "Gone"):
        return Gone(Missing.VERSION, "The cluster no longer keeps that part of its history.", message)
    if code == 429:
        after = retry_after if retry_after is not None else _seconds(details.get("retryAfterSeconds"))
        return Retry(Trouble.BUSY, "The cluster is busy and asks to wait (429).", message, after or 1.0)
    if _TOO_NEW in causes:
        return Gone(Missing.VERSION, "The cluster's history is older than what the portal has seen.", message)
    if 300 <= code < 400:
        return Retry(Trouble.NONSENSE, f"The cluster's address redirects elsewhere ({code}); that is not followed.")
    if code >= 500:
        return Retry(Trouble.SERVER, f"The cluster has a fault of its own ({code}).", message, retry_after)
    return Invalid(message or f"The cluster refuses the request ({code}).", message)


def _forbidden(message: str, causes: set[str]) -> KubernetesError:
    if "exceeded quota" in message:
        return Forbidden(Ban.QUOTA, "The quota of the namespace is used up.", message)
    if "NamespaceTerminating" in causes or "because it is being terminated" in message:
        return Gone(Missing.NAMESPACE, "The namespace is being deleted.", message)
    if _POLICY.search(message):
        return Forbidden(Ban.POLICY, "A rule of the cluster forbids it.", message)
    return Forbidden(Ban.RBAC, "The portal's account on the cluster lacks a right (403).", message)


def _missing(details: dict[str, Any], message: str) -> KubernetesError:
    if details.get("kind") == "namespaces":
        return Gone(Missing.NAMESPACE, "The namespace does not exist.", message)
    return Gone(Missing.OBJECT, "The object does not exist.", message)


def _conflict(reason: str, message: str) -> KubernetesError:
    if "object is being deleted" in message:
        return Conflict(Clash.TERMINATING, "One of that name is still being deleted.", message)
    if reason == "AlreadyExists":
        return Conflict(Clash.EXISTS, "One of that name exists already.", message)
    return Conflict(Clash.MODIFIED, "The object has changed meanwhile.", message)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
