"""What stands in the JSON files of an attempt. Facts only: sentences about them are the portal's.

Imported for type checking alone, so that a supervisor need not load `typing`. Times are seconds since 1970. A field
may be added; one that is here keeps its meaning, because a supervisor may be older than the portal that reads it.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class Spec(TypedDict):
    """Written by the portal: all that the supervisor needs to know."""

    job: str
    number: int
    instance: str
    name: str
    argv: list[str]
    workdir: str
    ranks: list[dict[str, str]]  # the whole environment of each rank
    gpus: list[str]  # which the attempt holds, of all its ranks
    gpu_type: str
    simulated: bool
    max_runtime: float  # seconds; 0: no limit
    grace: float  # seconds between TERM and KILL
    log_limit: int  # bytes per rank
    created_at: float


class Stop(TypedDict):
    """The wish to stop. That the file exists is what counts."""

    instance: str
    at: float


class Started(TypedDict):
    """Written before the first rank is made: from here on the attempt is never started again."""

    boot_id: str
    at: float


class RankBegin(TypedDict):
    pid: int  # for people only: nothing is decided by it
    at: float


class Running(TypedDict):
    """Written when all ranks run."""

    at: float
    ranks: list[RankBegin]


class RankEnd(TypedDict):
    started_at: float
    finished_at: float | None  # None: it could not be reaped
    exit_code: int | None  # 128 + n for a signal
    signal: int  # 0: it ended by itself
    interrupted: bool  # it ended after the supervisor had begun to end everything


Why = Literal["ended", "stopped", "time_limit", "could_not_start"]


class Exit(TypedDict):
    """The last word on an attempt. Never changed."""

    why: Why
    detail: str  # a sentence, where an attempt could not start
    finished_at: float
    running_at: float | None
    ranks: list[RankEnd]
    first_failed: int | None  # the rank that was the first to end with something else than 0
    killed: bool  # the time of grace was not enough
    left_behind: int  # processes that outlived the ranks and were killed
    oom_kills: int  # how often the system ran out of memory and killed something meanwhile


class Gap(TypedDict):
    """The bytes of a rank's output that are gone: from `start` up to and without `end`."""

    start: int
    end: int
