"""A watched copy of one kind of object in one namespace: list, then watch, for ever.

The copy is replaced only by a complete list, and changed only by the stream behind it, in the order of the server. It
never gives up, and never asks more than once a second. A list is made anew every ten minutes and after each gap, since
a server that was restored from a backup loses events without a word.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.cluster.kubernetes.breaker import Pulse, backoff
from app.cluster.kubernetes.client import WATCH, Client, Object, Stream
from app.cluster.kubernetes.errors import Gone, KubernetesError, Missing, Retry, Trouble, error_of
from app.cluster.kubernetes.fields import items, mapping, number, text
from app.cluster.kubernetes.names import instance_selector, key_of
from app.cluster.protocol import AttemptKey

FRAME = 8 << 20  # bytes of one event
SERVER_SIDE = (240, 300)  # seconds after which the server ends a watch by itself; random, so that not all end at once
TRIES = 3  # failed watches in a row that go on from where the last one was, before a list is made anew
REMEMBERED = 1000  # deleted objects, as they last were
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

log = logging.getLogger("simpletrain.kubernetes")


@dataclass(frozen=True, slots=True)
class Kind:
    name: str  # as in a path and in a Role
    prefix: str  # of a path

    def path(self, namespace: str, name: str = "") -> str:
        return f"{self.prefix}/namespaces/{namespace}/{self.name}" + (f"/{name}" if name else "")


JOBS = Kind("jobs", "/apis/batch/v1")
PODS = Kind("pods", "/api/v1")
SERVICES = Kind("services", "/api/v1")
EVENTS = Kind("events", "/api/v1")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds; tests are in a hurry."""

    apart: float = 1.0  # from one request to the next at least, and the first pause after a failure
    relist: float = 600.0
    silence: float = WATCH[1]


class Watch:
    """Its own thread writes; any thread reads. What is given out is never changed again."""

    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespace: str,
        instance: str,
        pulse: Pulse,
        changed: Callable[[], None],  # must not fail
        pace: Pace | None = None,
    ) -> None:
        self.kind = kind
        self._client = client
        self._path = kind.path(namespace)
        self._instance = instance
        self._pulse = pulse
        self._changed = changed
        self._pace = pace or Pace()
        self._lock = threading.Lock()  # guards what follows
        self._objects: dict[str, Object] = {}  # by uid
        self._uids: dict[AttemptKey, set[str]] = {}
        self._deleted: OrderedDict[str, tuple[AttemptKey | None, Object]] = OrderedDict()  # by uid
        self._forgotten: OrderedDict[str, None] = OrderedDict()  # uids
        self._listed_at: float | None = None
        # the thread's own
        self._version = ""  # resourceVersion to go on from; empty: list anew
        self._proved = False  # a watch from the last list on was alive
        self._alive = False  # the present watch has said something
        self._stream: Stream | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {kind.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if stream := self._stream:
            stream.abort()
        if self._thread.ident is not None:
            self._thread.join(5)

    # reading

    @property
    def listed_at(self) -> float | None:
        """When the request for the last complete list was made (monotonic seconds); None before the first.

        The list comes from the store itself, so it shows whatever was acknowledged before.
        """
        with self._lock:
            return self._listed_at

    def of(self, key: AttemptKey) -> list[Object]:
        with self._lock:
            return [self._objects[uid] for uid in self._uids.get(key, ())]

    def deleted(self, key: AttemptKey) -> list[Object]:
        """What was deleted lately, as it was at the end."""
        with self._lock:
            return [item for owner, item in self._deleted.values() if owner == key]

    def everything(self) -> list[Object]:
        with self._lock:
            return list(self._objects.values())

    def forget(self, key: AttemptKey, removed: Iterable[str] = ()) -> None:
        """It is settled: what was deleted is of no use any more, nor what is told later of objects with these uids."""
        with self._lock:
            for uid in [uid for uid, (owner, _) in self._deleted.items() if owner == key]:
                del self._deleted[uid]
            for uid in {*removed, *self._uids.get(key, ())}:
                self._forgotten[uid] = None
            while len(self._forgotten) > REMEMBERED:
                self._forgotten.popitem(last=False)

    # watching

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            began = time.monotonic()
            pause = 0.0
            try:
                if self._listed_at is None or not self._version or began > self._listed_at + self._pace.relist:
                    self._list()
                self._watch()
                failures = 0
            except KubernetesError as error:
                if self._closing.is_set():
                    return
                failures, pause = self._after(error, failures)
            except Exception:
                # an object of a shape that nobody thought of, or a bug: the copy is made anew, the thread stays
                log.exception("watch of %s failed", self.kind.name)
                self._version = ""
                failures += 1
                pause = backoff(failures) * self._pace.apart
            self._closing.wait(max(pause, self._pace.apart - (time.monotonic() - began)))

    def _after(self, error: KubernetesError, failures: int) -> tuple[int, float]:
        """How many failures in a row that makes, and how long to wait."""
        if isinstance(error, Gone) and error.what is Missing.VERSION:
            healthy = self._proved
            self._version, self._proved = "", False
            return (0, 0.0) if healthy else (failures + 1, backoff(failures + 1) * self._pace.apart)
        if isinstance(error, Retry) and error.trouble is Trouble.PAUSED:
            return failures, error.after or self._pace.apart
        failures = 1 if self._alive else failures + 1
        if failures > 1 or not isinstance(error, Retry):
            self._pulse.failed(error, self.kind.name)
            log.warning("watch of %s: %s", self.kind.name, error)
        if failures % TRIES == 0:
            self._version, self._proved = "", False
        after = error.after if isinstance(error, Retry) else None
        return failures, max(after or 0.0, backoff(failures) * self._pace.apart)

    def _list(self) -> None:
        asked_at = time.monotonic()
        found: dict[str, Object] = {}
        version = ""
        for page in self._client.pages(self._path, {"labelSelector": instance_selector(self._instance)}):
            version = _version(page)
            for item in items(page, "items"):
                if uid := _uid(item):
                    found[uid] = trimmed(item)
            if self._closing.is_set():
                return
        moved = self._swap(found, asked_at)
        self._version, self._proved = version, False
        self._answered()
        if moved:
            self._changed()

    def _swap(self, found: dict[str, Object], asked_at: float) -> bool:
        """Whether anything differs. What is the same stays the same object."""
        with self._lock:
            first = self._listed_at is None
            before, self._objects = self._objects, {}
            self._uids = {}
            moved = first or len(before) != len(found)
            for uid, item in found.items():
                old = before.pop(uid, None)
                same = old is not None and _version(old) == _version(item)
                moved = moved or not same
                self._add(uid, old if same and old is not None else item)
            for uid, item in before.items():
                self._remember(uid, self._key(item), item)
            self._listed_at = asked_at
            return moved or bool(before)

    def _watch(self) -> None:
        """Follow the events behind the version until the stream ends. Raises what ended it too early."""
        began = time.monotonic()
        self._alive = False
        query: dict[str, str | int | bool] = {
            "watch": True,
            "allowWatchBookmarks": True,
            "labelSelector": instance_selector(self._instance),
            "resourceVersion": self._version,
            "timeoutSeconds": random.randint(*SERVER_SIDE),  # noqa: S311  # no secret is made of it
        }
        with self._client.stream(self._path, query, (WATCH[0], self._pace.silence)) as stream:
            self._stream = stream
            self._answered()
            try:
                for line in stream.lines(FRAME):
                    self._take(line)
                    self._alive = self._proved = True
                    if self._closing.is_set():
                        return
            finally:
                self._stream = None
        if not self._alive and time.monotonic() - began < self._pace.apart:
            raise Retry(Trouble.CUT, "The cluster ends every watch at once.")

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        kind, item = text(event, "type"), mapping(event, "object")
        if not kind:
            raise Retry(Trouble.NONSENSE, "The cluster sent an event that cannot be read.")
        if kind == "ERROR":
            raise error_of(number(item, "code") or 500, item)
        self._answered()
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self._apply(kind, item)
            self._changed()
        self._version = _version(item) or self._version

    def _apply(self, kind: str, item: Object) -> None:
        uid = _uid(item)
        if not uid:
            return
        item = trimmed(item)
        with self._lock:
            owner = self._drop(uid) or self._key(item)
            if kind == "DELETED":  # also sent when somebody takes the labels off
                self._remember(uid, owner, item)
            else:
                self._add(uid, item)

    def _answered(self) -> None:
        self._pulse.answered(self.kind.name)
        self._client.breaker.answered()

    # the copy; call with the lock held

    def _add(self, uid: str, item: Object) -> None:
        self._objects[uid] = item
        if key := self._key(item):
            self._uids.setdefault(key, set()).add(uid)

    def _drop(self, uid: str) -> AttemptKey | None:
        """Whose it was."""
        old = self._objects.pop(uid, None)
        key = self._key(old) if old is not None else None
        if key in self._uids:
            self._uids[key].discard(uid)
            if not self._uids[key]:
                del self._uids[key]
        return key

    def _remember(self, uid: str, owner: AttemptKey | None, item: Object) -> None:
        if uid in self._forgotten:
            return
        self._deleted[uid] = (owner, item)
        self._deleted.move_to_end(uid)
        while len(self._deleted) > REMEMBERED:
            self._deleted.popitem(last=False)

    def _key(self, item: Object) -> AttemptKey | None:
        return key_of(mapping(item, "metadata", "labels"), self._instance)


def trimmed(item: Object) -> Object:
    """Without what is large and tells nothing. Changes the object that it is given."""
    mapping(item, "metadata").pop("managedFields", None)
    mapping(item, "metadata", "annotations").pop(LAST_APPLIED, None)
    for pod in (mapping(item, "spec"), mapping(item, "spec", "template", "spec")):
        for container in items(pod, "containers") + items(pod, "initContainers"):
            container.pop("env", None)
    return item


def _uid(item: Object) -> str:
    return text(item, "metadata", "uid")


def _version(item: Object) -> str:
    return text(item, "metadata", "resourceVersion")
