"""What the cluster says about attempts that do not get on. Asked for, not watched: most of it is never needed.

An event is kept here as long as its attempt is, because the cluster forgets it after an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.cluster.kubernetes.client import Client, Object
from app.cluster.kubernetes.errors import Forbidden, KubernetesError
from app.cluster.kubernetes.fields import items, text
from app.cluster.kubernetes.watch import EVENTS
from app.cluster.protocol import AttemptKey

FIRST = 2.0  # seconds that an attempt may take to start before anybody asks why
AGAIN = 10.0  # seconds between two questions about one attempt at least
LONGEST = 60.0
APART = 0.2  # seconds between any two questions
FORBIDDEN = 600.0  # seconds to wait where events may not be read
OBJECTS = 5  # asked about for one attempt at a time
KEPT = 200  # events of one attempt


@dataclass(slots=True)
class _Wanted:
    uids: tuple[str, ...] = ()
    stage: object = None
    due: float | None = None  # monotonic seconds; None: nothing is wanted
    asked_at: float = float("-inf")
    pause: float = AGAIN
    found: dict[str, Object] = field(default_factory=dict)  # by uid


class EventBook:
    def __init__(self, client: Client, namespace: str, changed: Callable[[], None], hurry: float = 1.0) -> None:
        self._client = client
        self._path = EVENTS.path(namespace)
        self._changed = changed
        self._hurry = hurry  # what pauses are multiplied with
        self._lock = threading.Lock()
        self._wanted: dict[AttemptKey, _Wanted] = {}
        self._not_before = 0.0

    def of(self, key: AttemptKey) -> list[Object]:
        with self._lock:
            return list(self._wanted[key].found.values()) if key in self._wanted else []

    def want(self, key: AttemptKey, uids: Sequence[str], stage: object, moves: bool) -> None:
        """Tell how an attempt is. It is asked about when that changes, and again and again while it does not move."""
        now = time.monotonic()
        with self._lock:
            wanted = self._wanted.get(key)
            if wanted is None:
                wanted = self._wanted[key] = _Wanted(stage=stage, due=None if moves else now + FIRST * self._hurry)
            wanted.uids = tuple(uids[:OBJECTS])
            if wanted.stage != stage:
                wanted.stage, wanted.pause = stage, AGAIN
                wanted.due = max(now, wanted.asked_at + AGAIN * self._hurry)
            elif moves and wanted.asked_at > float("-inf"):
                wanted.due = None

    def forget(self, key: AttemptKey) -> None:
        with self._lock:
            self._wanted.pop(key, None)

    def pull_due(self) -> float:
        """Ask about one attempt if it is time; seconds until it is worth calling again."""
        now = time.monotonic()
        with self._lock:
            due = [(wanted.due, key) for key, wanted in self._wanted.items() if wanted.due is not None]
            if not due:
                return LONGEST
            at, key = min(due)
            at = max(at, self._not_before)
            if at > now:
                return at - now
            wanted = self._wanted[key]
            wanted.asked_at = now
            wanted.due = now + wanted.pause * self._hurry
            wanted.pause = min(LONGEST, wanted.pause * 1.5)
            self._not_before = now + APART * self._hurry
        self.pull(key)
        return APART * self._hurry

    def pull(self, key: AttemptKey) -> None:
        """Ask now. Without an answer nothing changes."""
        with self._lock:
            wanted = self._wanted.get(key)
            uids = wanted.uids if wanted is not None else ()
        new = False
        try:
            for uid in uids:
                page = self._client.get(self._path, {"fieldSelector": f"involvedObject.uid={uid}", "limit": KEPT})
                new = self._keep(key, items(page, "items")) or new
        except Forbidden:
            with self._lock:
                self._not_before = time.monotonic() + FORBIDDEN * self._hurry
        except KubernetesError:
            pass  # the watch tells of it
        if new:
            self._changed()

    def _keep(self, key: AttemptKey, events: list[Object]) -> bool:
        """Whether there was something that was not known."""
        with self._lock:
            wanted = self._wanted.get(key)
            if wanted is None:
                return False
            new = False
            for event in events:
                uid = text(event, "metadata", "uid")
                event.get("metadata", {}).pop("managedFields", None)
                old = wanted.found.get(uid)
                if uid and (old is not None or len(wanted.found) < KEPT):
                    new = new or old != event
                    wanted.found[uid] = event
            return new
