"""Figures that only the database knows, asked for when Prometheus asks, with a deadline.

A database that hangs costs the answer its figures and two seconds, never the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask

from app.database import db
from app.installation import service as installation
from app.jobs import service as jobs
from app.metrics import figures

if TYPE_CHECKING:
    from prometheus_client import Metric

PATIENCE = 2.0  # seconds


class Question:
    """Asks one thing at a time in a thread of its own: whoever asks waits no longer than PATIENCE."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._waiting = threading.Lock()  # held while one is under way, also one that nobody waits for any more

    def answer(self) -> Any:
        """The answer; None where there is none in time, or where an earlier question still hangs."""
        if not self._waiting.acquire(timeout=PATIENCE):
            return None
        said: list[Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                said.append(self._ask())
            except Exception:
                return  # no answer says the same, and the portal's own log says why
            finally:
                self._waiting.release()
                done.set()

        threading.Thread(target=run, name="metrics question", daemon=True).start()
        done.wait(PATIENCE)
        return said[0] if said else None


class Database:
    """A collector for prometheus_client."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._question = Question(self._ask)

    def _ask(self) -> tuple[list[tuple[str, str, int]], float | None]:
        with self._app.app_context():
            try:
                seen = installation.worker_seen_at()
                return jobs.unfinished(), seen.timestamp() if seen is not None else None
            finally:
                db.session.rollback()

    def collect(self) -> Iterable[Metric]:
        answer = self._question.answer()
        up = _gauge(figures.DATABASE_UP)
        up.add_metric([], 0 if answer is None else 1)
        yield up
        if answer is None:
            return
        counts, seen = answer
        depth = _gauge(figures.JOBS)
        for cluster, state, count in counts:
            depth.add_metric([cluster, state], count)
        yield depth
        if seen is not None:
            worker = _gauge(figures.WORKER_SEEN)
            worker.add_metric([], seen)
            yield worker


def _gauge(figure: figures.Figure) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(figure.name, figure.text, labels=figure.labels)
