"""Every figure that the portal tells, and how one is changed. Where metrics are off, a change costs a look-up.

prometheus_client is loaded only by a process that tells its figures: `begin` gives life to those of this process.
docs/monitoring.md has a row for each; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Teller(StrEnum):
    """Which process tells a figure. No figure of the two means the same, so that sums over both are right."""

    WEB = "web"
    WORKER = "worker"
    BOTH = "both"  # each of its own process
    DATABASE = "database"  # the web, from the database, at the moment of the question


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    kind: Kind
    teller: Teller
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram, in seconds

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count up; a gauge goes down with a negative amount."""
        if (live := _live.get(self.name)) is not None:
            (live.labels(**labels) if labels else live).inc(amount)

    def set(self, value: float, **labels: str) -> None:
        if (live := _live.get(self.name)) is not None:
            (live.labels(**labels) if labels else live).set(value)

    def observe(self, seconds: float, **labels: str) -> None:
        if (live := _live.get(self.name)) is not None:
            (live.labels(**labels) if labels else live).observe(seconds)

    def forget(self, **labels: str) -> None:
        """Tell nothing more of a cluster that is not looked at any more."""
        if (live := _live.get(self.name)) is not None:
            try:
                live.remove(*(labels[name] for name in self.labels))
            except KeyError:
                return  # nothing was told of it yet


_live: dict[str, Any] = {}

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)

REQUEST = Figure(
    "simpletrain_request_seconds",
    Kind.HISTOGRAM,
    Teller.WEB,
    "Time to answer a request, by route template, method and class of status.",
    ("route", "method", "status"),
    SHORT,
)
CONNECTIONS = Figure(
    "simpletrain_database_connections",
    Kind.GAUGE,
    Teller.BOTH,
    "Connections to the database that are in use now.",
)
ERRORS = Figure(
    "simpletrain_errors_total",
    Kind.COUNTER,
    Teller.BOTH,
    "Lines that were logged as errors, by logger.",
    ("logger",),
)

DATABASE_UP = Figure(
    "simpletrain_database_up",
    Kind.GAUGE,
    Teller.DATABASE,
    "1 where the database answered within 2 s; where it is 0, the other figures of the database are left out.",
)
JOBS = Figure(
    "simpletrain_jobs",
    Kind.GAUGE,
    Teller.DATABASE,
    "Jobs that have not ended, by cluster and state.",
    ("cluster", "state"),
)
WORKER_SEEN = Figure(
    "simpletrain_worker_seen_timestamp_seconds",
    Kind.GAUGE,
    Teller.DATABASE,
    "When a worker last told the database that it lives, which it does every 15 s.",
)

WORKER_ACTIVE = Figure(
    "simpletrain_worker_active",
    Kind.GAUGE,
    Teller.WORKER,
    "1 in the worker whose turn it is, 0 in one that waits.",
)
WORKER_EPOCH = Figure(
    "simpletrain_worker_epoch",
    Kind.GAUGE,
    Teller.WORKER,
    "Number of the turn, which grows each time that a worker takes over.",
)
LOOKED = Figure(
    "simpletrain_cluster_looked_timestamp_seconds",
    Kind.GAUGE,
    Teller.WORKER,
    "When the worker last went through everything on a cluster, every 30 s at least; at first when it began with it.",
    ("cluster",),
)
LOOK = Figure(
    "simpletrain_cluster_look_seconds",
    Kind.HISTOGRAM,
    Teller.WORKER,
    "Time to go once through everything on a cluster.",
    ("cluster",),
    SHORT,
)
ANSWERED = Figure(
    "simpletrain_cluster_answered_timestamp_seconds",
    Kind.GAUGE,
    Teller.WORKER,
    "When a cluster last answered, at first when the worker began with it; not of this machine, never silent.",
    ("cluster",),
)
CLUSTER_ERRORS = Figure(
    "simpletrain_cluster_errors_total",
    Kind.COUNTER,
    Teller.WORKER,
    "Steps of jobs that failed on a cluster and are tried again.",
    ("cluster",),
)
LAUNCHES = Figure(
    "simpletrain_launches_total",
    Kind.COUNTER,
    Teller.WORKER,
    "Launches by how they ended: launched, refused by the cluster for good, or an error, which is tried again.",
    ("cluster", "result"),
)
LAUNCH_WAIT = Figure(
    "simpletrain_launch_wait_seconds",
    Kind.HISTOGRAM,
    Teller.WORKER,
    "From the acknowledged launch until the job exists on its cluster, waiting for room included.",
    ("cluster",),
    LONG,
)
ENDED = Figure(
    "simpletrain_jobs_ended_total",
    Kind.COUNTER,
    Teller.WORKER,
    "Jobs that the worker saw end, by final state.",
    ("cluster", "state"),
)
LOG_BYTES = Figure(
    "simpletrain_log_bytes_total",
    Kind.COUNTER,
    Teller.WORKER,
    "Bytes of jobs' output that were archived, as printed.",
)
LOG_MISSING = Figure(
    "simpletrain_log_missing_bytes_total",
    Kind.COUNTER,
    Teller.WORKER,
    "Bytes of jobs' output that could not be archived; each log marks its gaps.",
)
LOG_COMMIT = Figure(
    "simpletrain_log_commit_seconds",
    Kind.HISTOGRAM,
    Teller.WORKER,
    "Time to commit what all streams printed.",
    (),
    SHORT,
)
LOG_STREAMS = Figure(
    "simpletrain_log_streams",
    Kind.GAUGE,
    Teller.WORKER,
    "Streams of output that are followed now, one for each rank.",
)
LOG_WAITING = Figure(
    "simpletrain_log_streams_waiting",
    Kind.GAUGE,
    Teller.WORKER,
    "Streams that the last round had no room for: more than now and then, the archive lags behind.",
)

ALL = tuple(each for each in list(globals().values()) if isinstance(each, Figure))


def begin(teller: Teller, registry: CollectorRegistry | None) -> None:
    """Give life to the figures of this process. Repeating it changes nothing."""
    import prometheus_client as prometheus

    prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each counter, of no use where restarts are noticed
    for figure in ALL:
        if figure.teller not in (teller, Teller.BOTH) or figure.name in _live:
            continue
        if figure.kind is Kind.COUNTER:
            _live[figure.name] = prometheus.Counter(figure.name, figure.text, figure.labels, registry=registry)
        elif figure.kind is Kind.HISTOGRAM:
            _live[figure.name] = prometheus.Histogram(
                figure.name, figure.text, figure.labels, registry=registry, buckets=figure.buckets
            )
        else:
            # of several web processes the sum, without those that have ended
            _live[figure.name] = prometheus.Gauge(
                figure.name, figure.text, figure.labels, registry=registry, multiprocess_mode="livesum"
            )


def end() -> None:
    """Forget everything: for tests, which begin more than once in a process."""
    _live.clear()
