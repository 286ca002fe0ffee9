"""When to ask a cluster that did not answer, and what is known about when it last did. One for each cluster."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from app.cluster.kubernetes.errors import Auth, Forbidden, Gone, KubernetesError, Missing, Retry, Trouble
from app.cluster.protocol import Health

FIRST, LONGEST = 1.0, 60.0  # seconds between tries
LOGIN = 30.0  # seconds between tries with a credential that was refused
OBEYED = 300.0  # seconds: a longer Retry-After is cut to this


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row. Random, so that many waiters do not come back together."""
    return min(LONGEST, FIRST * 2.0 ** min(failures - 1, 10)) * random.uniform(0.75, 1.0)  # noqa: S311  # no secret is made of it


class Breaker:
    """Lets everything pass while the cluster answers; after a failure one request now and then, the rest not at all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._not_before = 0.0
        self._why = ""

    def check(self) -> None:
        """Raises Retry while it is too early to ask again; who passes is the one that tries."""
        with self._lock:
            now = self._clock()
            if not self._failures or now >= self._not_before:
                if self._failures:
                    self._not_before = now + backoff(self._failures)  # nobody else until this one has come back
                return
            left = self._not_before - now
        raise Retry(Trouble.PAUSED, self._why, after=left, sent=False)

    def answered(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self, error: KubernetesError) -> None:
        """Only what concerns the whole cluster: a fault in one request says nothing about the next."""
        if isinstance(error, Auth):
            pause: float | None = LOGIN
        elif isinstance(error, Retry) and error.trouble is not Trouble.PAUSED:
            if error.trouble is Trouble.SERVER and error.after is None:
                return  # often one webhook that does not answer
            pause = None if error.after is None else min(error.after, OBEYED)
        else:
            return
        with self._lock:
            self._failures += 1
            self._why = error.text
            self._not_before = self._clock() + (pause if pause is not None else backoff(self._failures))


class Pulse:
    """What a person is told about how the cluster answers. Each source (a kind that is watched) has its own trouble."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered_at: datetime | None = None
        self._troubles: dict[str, str] = {}

    def answered(self, source: str = "") -> None:
        with self._lock:
            self._answered_at = datetime.now(UTC)
            self._troubles.pop(source, None)

    def recovered(self, source: str) -> None:
        with self._lock:
            self._troubles.pop(source, None)

    def failed(self, error: KubernetesError, source: str = "") -> None:
        with self._lock:
            if _is_an_answer(error):
                self._answered_at = datetime.now(UTC)
            self._troubles[source] = f"{error.text}{_about(error, source)}"

    def health(self) -> Health:
        with self._lock:
            return Health(self._answered_at, next(iter(self._troubles.values()), ""))


def _is_an_answer(error: KubernetesError) -> bool:
    """A refusal is an answer of the cluster too, but the portal learns nothing from it about its jobs."""
    return isinstance(error, Gone) and error.what is Missing.VERSION


def _about(error: KubernetesError, source: str) -> str:
    if not isinstance(error, Forbidden) or not source:
        return ""
    return f" That is needed to {source}." if source in ("launch", "stop", "remove", "look") else f" ({source})"
