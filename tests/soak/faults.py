"""What goes wrong, when, and how often: thrown by one die with a seed, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest import mock

from sqlalchemy import Engine

from app.cluster.protocol import ClusterError
from app.worker import collect, loop, steps

# seconds that the worker waits for the end of a log: more than all faults that one job may meet here take together, so
# that only a log that never ends is given up
PATIENCE = 1800.0


class Killed(BaseException):
    """The worker is gone at this very place. Nothing of it is used any more: its objects are dropped as they are.

    What a real kill would leave undone and this does not is the rollback of an open transaction, which the database
    does by itself when a process is gone. Real kills are what tests/crash is about.
    """


@dataclass
class Clock:
    """Stands in for the `time` of the worker's modules, so that pauses pass as fast as the worker works."""

    at: float = 1000.0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += max(0.0, seconds)


@dataclass(frozen=True, slots=True)
class Rates:
    """How often, out of one."""

    kill: float = 0.0002  # at each named point, at each commit of the worker, inside each call of the cluster
    call: float = 0.003  # calls of the cluster that fail
    commit: float = 0.001
    outage: float = 0.002  # ticks at which one of the clusters falls silent
    meddle: float = 0.0005  # calls of the cluster during which a person stops that very job

    def times(self, factor: float) -> Rates:
        return Rates(*(getattr(self, name) * factor for name in self.__slots__))


@dataclass
class Faults:
    dice: Random
    rates: Rates
    clock: Clock
    engine: Engine
    counts: Counter[str] = field(default_factory=Counter)
    in_worker: bool = False  # people's requests are not killed
    armed: bool = True

    def point(self, name: str) -> None:
        """In place of `app.cluster.faults.fault`."""
        self._perhaps_killed(f"killed at {name}")

    @contextmanager
    def during(self, call: str) -> Iterator[None]:
        """Around what a call of the cluster does: it may not arrive, or its answer may be lost, or take long."""
        self._perhaps_killed(f"killed before {call}")
        kind = self.dice.choice(("not sent", "answer lost", "a bug", "slow")) if self._hit(self.rates.call) else ""
        if kind:
            self.counts[f"{call}: {kind}"] += 1
        if kind == "not sent":
            raise ClusterError("The cluster cannot be reached.", retry_after=self.dice.choice((None, None, 2.0)))
        if kind == "a bug":
            raise RuntimeError("a bug in the border to the cluster")
        if kind == "slow":
            self.clock.sleep(3.0)
        yield
        if kind == "answer lost":
            raise ClusterError("The cluster did not answer in time.")
        self._perhaps_killed(f"killed after {call}")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """In the worker's modules and in the database's driver."""
        dialect = self.engine.dialect
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            if self.in_worker:
                self._perhaps_killed("killed before a commit")
            kind = self.dice.choice(("refused", "answer lost")) if self._hit(self.rates.commit) else ""
            if kind:
                self.counts[f"commit: {kind}"] += 1
            error = dialect.loaded_dbapi.OperationalError("thrown by the soak")
            if kind == "refused":
                raise error
            commit(connection)
            if kind == "answer lost":
                raise error

        with (
            mock.patch.object(dialect, "do_commit", do_commit),
            mock.patch.object(loop, "time", self.clock),
            mock.patch.object(collect, "time", self.clock),
            mock.patch.object(steps, "time", self.clock),
            mock.patch.object(collect, "fault", self.point),
            mock.patch.object(steps, "fault", self.point),
            mock.patch.object(steps, "LOG_PATIENCE", PATIENCE),
        ):
            yield

    def hit(self, rate: float, what: str) -> bool:
        hit = self._hit(rate)
        if hit:
            self.counts[what] += 1
        return hit

    def _hit(self, rate: float) -> bool:
        return self.armed and self.dice.random() < rate

    def _perhaps_killed(self, what: str) -> None:
        if self._hit(self.rates.kill):
            self.counts[what] += 1
            raise Killed(what)
