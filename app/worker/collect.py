"""Carries what jobs print into the archive: one thread reads all sources and commits them together.

A chunk and the cursor behind it are saved in one transaction, so a crash at any moment loses no byte and keeps none
twice: whoever goes on reads from the cursor. One transaction a quarter of a second for all streams, because what a
commit costs does not depend on how much is in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from app import journal
from app.cluster.faults import fault
from app.cluster.protocol import AttemptKey, Cluster, ClusterError, LogPiece, LogSource
from app.database import db
from app.logs import service as logs
from app.metrics import figures
from app.worker.turn import Replaced, Turn

EVERY = 0.25  # seconds between commits
PIECE = 1 << 20  # bytes read from one source at a time
TURNS = 4  # such pieces of one source in a round at most
ROUND = 8 << 20  # bytes committed together at most: what the queue may hold in memory

log = logging.getLogger("simpletrain.worker")


@dataclass(slots=True)
class _Following:
    key: AttemptKey
    cluster: Cluster
    done: Callable[[], None]
    source: LogSource | None = None
    not_before: float = 0.0  # monotonic seconds
    failures: int = 0
    apart: bool = False  # a commit with it failed: the next one is its own, so that it can spoil no other
    left: bool = False  # nobody waits for it any more


class Collector:
    def __init__(self, app: Flask, turn: Turn, limit: int, failed: Callable[[BaseException], None]) -> None:
        self._app = app
        self._turn = turn
        self._limit = limit
        self._failed = failed
        self._streams: dict[tuple[int, int], _Following] = {}
        self._lock = threading.Lock()
        self._busy = threading.Event()  # set while there is something to follow, or the end has come
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        figures.WORKER_ACTIVE.set(1)
        figures.WORKER_EPOCH.set(turn.epoch)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Commit what was read and end."""
        self._stopping = True
        self._busy.set()
        self._thread.join()

    def follow(self, attempt_id: int, ranks: int, key: AttemptKey, cluster: Cluster, done: Callable[[], None]) -> None:
        """Archive the output of every rank of an attempt, from where the archive ends. Repeating it changes nothing.

        `done` is called, from the collector's thread, whenever a stream becomes complete.
        """
        with self._lock:
            for rank in range(ranks):
                self._streams.setdefault((attempt_id, rank), _Following(key, cluster, done))
        self._busy.set()

    def leave(self, attempt_id: int, ranks: int) -> None:
        """Read an attempt's output no more: what came of it is all that is kept."""
        with self._lock:
            for rank in range(ranks):
                if (attempt_id, rank) in self._streams:
                    self._streams[attempt_id, rank].left = True

    def forget(self, cluster: Cluster) -> None:
        """Leave the streams of a cluster that is not looked at any more; whoever follows them again goes on."""
        with self._lock:
            left = [stream for stream, following in self._streams.items() if following.cluster is cluster]
            for stream in left:
                del self._streams[stream]

    def _run(self) -> None:
        journal.begin(epoch=self._turn.epoch)
        try:
            while not self._stopping:
                self._busy.wait()
                began = time.monotonic()
                with self._app.app_context():
                    self.round()
                with self._lock:
                    if not self._streams and not self._stopping:
                        self._busy.clear()
                if not self._stopping:
                    time.sleep(max(0.0, EVERY - (time.monotonic() - began)))
        except BaseException as error:
            self._failed(error)
        finally:
            self._close_sources()

    def round(self) -> None:
        """Read every source, those that have much a few times, and commit what came."""
        with self._lock:
            streams = list(self._streams.items())
        pieces: list[tuple[tuple[int, int], LogPiece]] = []
        room, unread = ROUND, len(streams)
        behind = streams
        for turn in range(TURNS):
            full = []
            for stream, following in behind:
                if room <= 0:
                    break
                unread -= not turn
                with journal.about(uid=following.key.job, attempt=following.key.number, rank=stream[1]):
                    piece = self._read(stream, following, min(PIECE, room))
                if piece is not None:
                    room -= len(piece.data)
                    pieces.append((stream, piece))
                    # a piece that is committed apart may fail alone, and then none behind it may be kept
                    if len(piece.data) == PIECE and not following.apart:
                        full.append((stream, following))
            behind = full
        figures.LOG_WAITING.set(unread)
        # the streams that this round had no room for come first in the next
        with self._lock:
            for stream, _ in pieces:
                if stream in self._streams:
                    self._streams[stream] = self._streams.pop(stream)
        apart = {stream for stream, following in streams if following.apart}
        for group in [[each] for each in pieces if each[0] in apart] + [[e for e in pieces if e[0] not in apart]]:
            if group:
                self._save(group)
        figures.LOG_STREAMS.set(len(self._streams))

    def _save(self, pieces: list[tuple[tuple[int, int], LogPiece]]) -> None:
        with self._lock:
            # one may be forgotten since it was read; its bytes are good all the same
            followings = [self._streams[stream] for stream, _ in pieces if stream in self._streams]
        try:
            closed = self._commit(pieces)
        except Replaced:
            raise
        except Exception as error:
            # whether it was saved is not known: read again from where the archive ends
            log.exception("the log archive could not be written; reading again from where it ends")
            for following in followings:
                following.apart = True
                self._rest(following, error)
            return
        for following in followings:
            following.apart = False
            following.failures = 0
        self._finish([stream for stream, piece in pieces if piece.complete or stream in closed])

    def _read(self, stream: tuple[int, int], following: _Following, limit: int) -> LogPiece | None:
        if following.left:
            with self._lock:
                self._streams.pop(stream, None)
            self._close_source(following)
            return None
        if time.monotonic() < following.not_before:
            return None
        try:
            if following.source is None:
                attempt_id, rank = stream
                kept = logs.find_stream(attempt_id, rank)
                if kept is not None and kept.complete:
                    with self._lock:
                        self._streams.pop(stream, None)  # it was told when it became complete
                    return None
                following.source = following.cluster.open_log(following.key, rank, kept.cursor if kept else "")
            piece = following.source.read(limit)
        except (ClusterError, OSError) as error:
            log.warning("log of %s rank %s: %s", following.key, stream[1], error)
            self._rest(following, error)
            return None
        except SQLAlchemyError as error:
            log.warning("log of %s rank %s: the database does not answer: %s", following.key, stream[1], error)
            db.session.rollback()
            self._rest(following, error)
            return None
        except Exception as error:
            log.exception("log of %s rank %s", following.key, stream[1])
            self._rest(following, error)
            return None
        if not following.apart:
            following.failures = 0
        return piece

    def _rest(self, following: _Following, error: Exception) -> None:
        """Leave a stream alone for a while, and then read it again from where the archive ends."""
        following.failures += 1
        pause = min(60.0, 2.0 ** min(following.failures, 6) / 2)
        if isinstance(error, ClusterError) and error.retry_after is not None:
            pause = error.retry_after
        following.not_before = time.monotonic() + pause
        self._close_source(following)

    def _commit(self, pieces: list[tuple[tuple[int, int], LogPiece]]) -> set[tuple[int, int]]:
        """Save what was read; the streams that were closed before, because their end was not waited for any more."""
        began = time.monotonic()
        fault("logs.before_commit")
        closed = set()
        with self._turn.transaction():
            for (attempt_id, rank), piece in pieces:
                stream = logs.stream(attempt_id, rank)
                if stream.complete:
                    closed.add((attempt_id, rank))
                    continue
                logs.append(
                    stream,
                    piece.data,
                    piece.cursor,
                    piece.skipped,
                    piece.skipped_why,
                    piece.complete,
                    self._limit,
                )
            fault("logs.before_cursor")
        fault("logs.after_commit")
        figures.LOG_COMMIT.observe(time.monotonic() - began)
        saved = [piece for stream, piece in pieces if stream not in closed]
        figures.LOG_BYTES.add(sum(len(piece.data) for piece in saved))
        figures.LOG_MISSING.add(sum(piece.skipped or 0 for piece in saved))
        return closed

    def _finish(self, complete: list[tuple[int, int]]) -> None:
        for stream in complete:
            with self._lock:
                following = self._streams.pop(stream, None)
            if following is not None:
                self._close_source(following)
                following.done()

    def _close_source(self, following: _Following) -> None:
        if following.source is not None:
            following.source.close()
            following.source = None

    def _close_sources(self) -> None:
        with self._lock:
            everything = list(self._streams.values())
        for following in everything:
            self._close_source(following)
