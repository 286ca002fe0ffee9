"""Follows what the ranks print, a bounded number of them at a time; the rest take turns.

A source waits for its pod without asking anything, follows it while it runs, and reads it once more when it has
ended: a last line without an end is served only to who does not follow. Its thread fetches, the reader takes apart:
what has not been read is not asked for again, and holds the stream back when it is too much.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from app.cluster.kubernetes.breaker import Pulse, backoff
from app.cluster.kubernetes.client import LOG, Client, Stream
from app.cluster.kubernetes.errors import Auth, Forbidden, Gone, Invalid, KubernetesError, Retry, Trouble
from app.cluster.kubernetes.transcript import Cursor, Transcript
from app.cluster.kubernetes.watch import PODS
from app.cluster.protocol import AttemptKey, LogPiece

SLOTS = 64  # answers that are read at the same time on one cluster
BUFFER = 1 << 20  # bytes that wait for the reader, each source
TURN = 10.0  # seconds that a source may follow while others wait
EVERY = 5.0  # seconds between looks while others wait
PATIENCE = 120.0  # seconds that a node may fail to give the rest of what an ended container printed
TRIES = 3  # times that an answer about an ended container may lack what was there before
GLANCE = 5.0  # seconds between looks at what the cluster has not moved
COALESCE = 0.1  # seconds: changes that come together are looked at together

REMOVED = "The pod was removed from the cluster before the rest of its output could be read."
NEVER_SEEN = "The job's objects were removed from the cluster before the portal could read the output."
UNREAD = "The cluster did not give the rest of the output{why}."

log = logging.getLogger("simpletrain.kubernetes")


class Stage(Enum):
    WAITING = auto()  # its container has not started
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class PodSeen:
    uid: str
    name: str
    container: str
    stage: Stage
    deleted: bool


@dataclass(frozen=True, slots=True)
class RankSeen:
    pods: tuple[PodSeen, ...]  # the oldest first
    over: bool  # no further pod will come
    known: bool  # there never was a pod that is not among these


View = Callable[[AttemptKey, int], RankSeen | None]  # None: nothing is known yet


@dataclass(frozen=True, slots=True)
class _Request:
    pod: PodSeen
    since: int | None
    follow: bool

    @property
    def final(self) -> bool:
        return self.pod.stage is Stage.ENDED


@dataclass(frozen=True, slots=True)
class _End:
    request: _Request
    opened: bool  # there was an answer
    given: int  # bytes that had been given before it
    error: KubernetesError | None


class LogPool:
    """Gives each source its turn. One thread that decides, and one for each answer that is being read."""

    def __init__(
        self, client: Client, namespace: str, view: View, pulse: Pulse, slots: int = SLOTS, hurry: float = 1.0
    ) -> None:
        self.client = client
        self.namespace = namespace
        self.view = view
        self.pulse = pulse
        self.hurry = hurry  # what pauses are multiplied with
        self._slots = slots
        self._sources: list[PodLog] = []
        self._lock = threading.Lock()
        self._rung = threading.Event()
        self._closing = threading.Event()
        self._crowded = False
        self._thread: threading.Thread | None = None

    def open(self, key: AttemptKey, rank: int, cursor: str) -> PodLog:
        source = PodLog(self, key, rank, cursor)
        with self._lock:
            self._sources.append(source)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="log pool", daemon=True)
                self._thread.start()
        self.ring()
        return source

    def ring(self) -> None:
        """Something may have changed: a pod, or a source that can go on."""
        self._rung.set()

    def leave(self, source: PodLog) -> None:
        with self._lock, suppress(ValueError):
            self._sources.remove(source)

    def close(self) -> None:
        self._closing.set()
        self._rung.set()
        with self._lock:
            sources = list(self._sources)
        for source in sources:
            source.close()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        pause: float | None = None
        while not self._closing.is_set():
            self._rung.wait(pause)
            if self._rung.is_set():
                self._closing.wait(COALESCE * self.hurry)
            self._rung.clear()
            try:
                pause = self._pass()
            except Exception:
                log.exception("the log pool failed; going on")
                pause = 1.0

    def _pass(self) -> float | None:
        """Start what can be started; seconds until something is due by itself."""
        with self._lock:
            sources = list(self._sources)
        now = time.monotonic()
        running = [source for source in sources if source.running]
        waiting = 0
        free = self._slots - len(running)
        for source in sorted((source for source in sources if source.due(now)), key=lambda each: each.served_at):
            request = source.plan(now, follow=not self._crowded)
            if request is None:
                continue
            if free > 0:
                free -= 1
                source.start(request, now)
            else:
                waiting += 1
        self._crowded = waiting > 0
        if waiting:
            for source in running:
                source.yield_turn(now - TURN * self.hurry)
            return 0.5 * self.hurry
        times = [source.not_before for source in sources if not source.running and source.not_before > now]
        return max(0.02, min(times) - now) if times else None


class PodLog:
    """A LogSource: one rank's output. Three threads meet here: the reader, the pool's, and the one that fetches.

    They take turns: the pool starts a fetch when the reader has taken apart all of the last one.
    """

    def __init__(self, pool: LogPool, key: AttemptKey, rank: int, cursor: str) -> None:
        self.served_at = 0.0
        self.not_before = 0.0  # monotonic seconds
        self.running = False
        self._pool = pool
        self._key = key
        self._rank = rank
        self._transcript = Transcript(Cursor.from_text(cursor))
        self._lock = threading.Condition()
        self._buffer: deque[bytes | None] = deque()  # None: an answer begins
        self._buffered = 0
        self._end: _End | None = None  # of the answer that is in the buffer
        self._stream: Stream | None = None
        self._aborted = False
        self._closed = False
        self._seen: RankSeen | None = None  # at the last plan
        self._early = True  # a change of what is seen ends the pause
        self._failures = 0  # in a row
        self._failing_since: float | None = None
        self._unrecognised = 0  # answers about an ended container that lack what was there before
        self._clean = False  # the last answer that had the log went to the log's end
        self._given: int | None = None  # bytes that had been given when the last whole answer ended
        self._gaps: list[str] = []  # to be told before what comes next
        self._complete = False
        self._told = False  # that it is complete

    # the reader

    def read(self, limit: int) -> LogPiece | None:
        data: list[bytes] = []
        size = 0
        while size < limit and not self._gaps:
            part, gap = self._transcript.take(limit - size)
            if gap is not None:
                with self._lock:
                    self._gaps.append(gap)
            elif part:
                data.append(part)
                size += len(part)
            elif not self._refill():
                break
        with self._lock:
            gaps: list[str] = []
            if not data:
                gaps, self._gaps = self._gaps, []
            complete = self._complete and not self._gaps and not self._told
            if not data and not gaps and not complete:
                return None
            self._told = self._told or complete
            cursor = self._transcript.cursor.to_text()
        why = " ".join(dict.fromkeys(gaps))
        return LogPiece(b"".join(data), cursor, None if gaps else 0, why, complete)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._abort()
        self._pool.leave(self)

    def _refill(self) -> bool:
        """Hand on what has come; whether there was something."""
        with self._lock:
            if self._buffer:
                chunk = self._buffer.popleft()
                if chunk is None:
                    self._transcript.begin()
                else:
                    self._buffered -= len(chunk)
                    self._transcript.feed(chunk)
                self._lock.notify_all()
                return True
            end, self._end = self._end, None
            if end is None:
                return False
            self._settle(end)
        self._pool.ring()
        return True

    # what an answer meant, once all of it is taken apart; with the lock

    def _settle(self, end: _End) -> None:
        now = time.monotonic()
        recognised = self._transcript.end() if end.opened else False
        moved = end.opened and self._transcript.given != end.given
        whole = end.opened and end.error is None
        self._early = True
        if end.opened:
            self._pool.pulse.answered("logs")
        if end.opened and not self._transcript.notice:
            self._clean = whole
        if end.request.final and whole:
            self._settle_final(recognised, now)
        elif moved:
            self._failures, self._failing_since = 0, None
            self._rest(now, 0.25)
        elif whole and not end.request.follow:
            self._failures = 0
            self._rest(now, EVERY)
        elif whole or end.error is None:
            # its container has ended, or the node exchanged the file, or the kubelet ends what is hours old
            self._failures += 1
            self._rest(now, backoff(self._failures))
        else:
            self._settle_failed(end.request, end.error, end.opened, now)
        if whole:
            self._given = self._transcript.given

    def _settle_final(self, recognised: bool, now: float) -> None:
        """The container has ended. Its log is complete once a whole answer has all that was known and nothing new:
        an answer that broke off between the node and the API server looks whole.
        """
        self._failures, self._failing_since = 0, None
        notice = self._transcript.notice
        if recognised and not notice:
            if self._given == self._transcript.given:
                self._leave_pod("")
            self._rest(now, 0.0)
            return
        self._unrecognised += 1
        if self._unrecognised >= TRIES and notice and self._clean:
            self._leave_pod("")  # it was followed to its end, and the node has removed it since
        elif self._unrecognised >= TRIES:
            self._leave_pod(UNREAD.format(why=f": {notice}" if notice else "").rstrip(".") + ".")
        self._rest(now, 1.0)

    def _settle_failed(self, request: _Request, error: KubernetesError, opened: bool, now: float) -> None:
        if opened and isinstance(error, Retry) and error.trouble is Trouble.TIMEOUT:
            self._failures = 0  # the job says nothing
            self._rest(now, 0.0)
            return
        self._failures += 1
        pause = backoff(self._failures)
        log.info("log of %s rank %s: %s", self._key, self._rank, error)
        if isinstance(error, Auth | Forbidden):
            self._pool.pulse.failed(error, "logs")
            pause = max(pause, 30.0)
        elif isinstance(error, Retry) and error.after is not None:
            pause = max(pause, error.after)
        self._rest(now, pause)
        # While the cluster is away nothing is given up. When it answers, and the node does not, there is an end to it.
        from_server = isinstance(error, Gone | Invalid)
        from_server = from_server or (isinstance(error, Retry) and error.trouble is Trouble.SERVER)
        self._early = isinstance(error, Gone | Invalid)  # the news that the pod has moved on may be under way
        if not from_server or not (request.final or (self._seen is not None and self._seen.over)):
            self._failing_since = None
            return
        self._failing_since = self._failing_since or now
        if now >= self._failing_since + PATIENCE * self._pool.hurry:
            self._leave_pod(UNREAD.format(why=f": {error.raw or error.text}"[:300].rstrip(".")))

    def _leave_pod(self, gap: str) -> None:
        """There will be no more of this pod."""
        if gap:
            self._gaps.append(gap)
        self._transcript.cursor.next_pod("")
        self._failures, self._failing_since, self._unrecognised = 0, None, 0
        self._clean, self._given = False, None

    def _rest(self, now: float, seconds: float) -> None:
        self.not_before = now + seconds * self._pool.hurry

    # the pool

    def due(self, now: float) -> bool:
        with self._lock:
            if self.running or self._closed or self._complete or self._buffer or self._end is not None:
                return False
            if now >= self.not_before:
                return True
            return self._early and self._pool.view(self._key, self._rank) != self._seen

    def plan(self, now: float, follow: bool) -> _Request | None:
        """What to ask for now; None: nothing, until something changes."""
        with self._lock:
            seen = self._seen = self._pool.view(self._key, self._rank)
            self.not_before, self._early = now + GLANCE * self._pool.hurry, True
            if seen is None:
                return None
            while (pod := self._pod(seen)) is not None:
                if not pod.deleted and pod.stage is Stage.WAITING:
                    return None
                if not pod.deleted:
                    self.not_before = now
                    return _Request(pod, self._transcript.cursor.since, follow and pod.stage is Stage.RUNNING)
                self._leave_pod("" if pod.stage is Stage.WAITING or self._clean else REMOVED)
            if seen.over:
                if not seen.known and not self._transcript.cursor.done:
                    self._gaps.append(NEVER_SEEN)
                self._complete = True
            return None

    def _pod(self, seen: RankSeen) -> PodSeen | None:
        """The pod whose output is next."""
        cursor = self._transcript.cursor
        if cursor.pod and all(pod.uid != cursor.pod for pod in seen.pods):
            self._leave_pod("" if self._clean else REMOVED)
        for pod in seen.pods:
            if pod.uid == cursor.pod:
                return pod
        for pod in seen.pods:
            if pod.uid not in cursor.done:
                cursor.next_pod(pod.uid)
                return pod
        return None

    def start(self, request: _Request, now: float) -> None:
        with self._lock:
            self.running, self._aborted, self.served_at = True, False, now
            self._buffer.append(None)
        name = f"log of {request.pod.name}"
        threading.Thread(target=self._fetch, args=(request, self._transcript.given), name=name, daemon=True).start()

    def yield_turn(self, started_before: float) -> None:
        """Others wait: end the present answer if it has gone on for long."""
        with self._lock:
            if self.running and self.served_at < started_before:
                self._abort()

    def _abort(self) -> None:
        self._aborted = True
        if self._stream is not None:
            self._stream.abort()
        self._lock.notify_all()

    # the thread that fetches

    def _fetch(self, request: _Request, given: int) -> None:
        opened = False
        error: KubernetesError | None = None
        try:
            query: dict[str, str | int | bool] = {"container": request.pod.container, "timestamps": True}
            if request.follow:
                query["follow"] = True
            if request.since is not None:
                query["sinceTime"] = f"{datetime.fromtimestamp(request.since, UTC):%Y-%m-%dT%H:%M:%SZ}"
            path = f"{PODS.path(self._pool.namespace, request.pod.name)}/log"
            with self._pool.client.stream(path, query, LOG) as stream:
                opened = True
                with self._lock:
                    self._stream = stream
                    if self._aborted:
                        stream.abort()
                while (data := stream.read()) and self._put(data):
                    pass
                if not data:
                    stream.done()
                if self._aborted:
                    error = Retry(Trouble.CUT, "The portal ended it.")
        except KubernetesError as problem:
            error = problem
        except Exception:
            log.exception("the log of %s could not be read", request.pod.name)
            error = Retry(Trouble.NONSENSE, "The answer could not be read.")
        with self._lock:
            self._stream = None
            self._end = _End(request, opened, given, error)
            self.running = False
        self._pool.ring()

    def _put(self, data: bytes) -> bool:
        """Waits while the reader has enough to do; whether to go on."""
        with self._lock:
            while self._buffered >= BUFFER and not self._aborted:
                self._lock.wait()
            if self._aborted:
                return False
            self._buffer.append(data)
            self._buffered += len(data)
            return True
