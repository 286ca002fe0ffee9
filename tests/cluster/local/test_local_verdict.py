"""From the facts of an end to outcome, code and sentence, by table."""

from __future__ import annotations

import pytest

from app.cluster.local.shim.records import Exit, RankEnd, Spec, Why
from app.cluster.local.verdict import ended
from app.cluster.protocol import Code, Outcome

SPEC: Spec = {
    "job": "testjoba",
    "number": 1,
    "instance": "test",
    "name": "job",
    "argv": ["true"],
    "workdir": "/",
    "ranks": [{}],
    "gpus": [],
    "gpu_type": "",
    "simulated": False,
    "max_runtime": 600,
    "grace": 30.0,
    "log_limit": 1024,
    "created_at": 1000.0,
}


def rank(exit_code: int = 0, signal: int = 0, interrupted: bool = False) -> RankEnd:
    code = 128 + signal if signal else exit_code
    return {
        "started_at": 1001.0,
        "finished_at": 1002.0,
        "exit_code": code,
        "signal": signal,
        "interrupted": interrupted,
    }


def facts(
    *ranks: RankEnd,
    why: Why = "ended",
    detail: str = "",
    running_at: float | None = 1001.0,
    killed: bool = False,
    left_behind: int = 0,
    oom_kills: int = 0,
) -> Exit:
    failed = [number for number, each in enumerate(ranks) if each["exit_code"] and not each["interrupted"]]
    return {
        "why": why,
        "detail": detail,
        "finished_at": 1003.0,
        "running_at": running_at,
        "ranks": list(ranks),
        "first_failed": failed[0] if failed else None,
        "killed": killed,
        "left_behind": left_behind,
        "oom_kills": oom_kills,
    }


STOPPED = rank(signal=15, interrupted=True)
OOM = "often that is the system running out of memory"
CASES = [
    (facts(rank()), Outcome.SUCCEEDED, Code.SUCCEEDED, "It ended with exit code 0."),
    (facts(rank(3)), Outcome.FAILED, Code.EXIT_CODE, "It ended with exit code 3."),
    (
        facts(rank(126)),
        Outcome.FAILED,
        Code.EXIT_CODE,
        "It ended with exit code 126 (a command was found but is not executable).",
    ),
    (facts(rank(137)), Outcome.FAILED, Code.EXIT_CODE, f"It ended with exit code 137 (killed, signal 9; {OOM})."),
    (facts(rank(signal=6)), Outcome.FAILED, Code.SIGNAL, "It aborted (signal 6, SIGABRT)."),
    (facts(rank(signal=40)), Outcome.FAILED, Code.SIGNAL, "It was ended by signal 40."),
    (
        facts(STOPPED, rank(signal=11), STOPPED),
        Outcome.FAILED,
        Code.SIGNAL,
        "Rank 1 crashed with a bad memory access (signal 11, SIGSEGV); the other 2 were stopped.",
    ),
    (
        facts(rank(1), STOPPED),
        Outcome.FAILED,
        Code.EXIT_CODE,
        "Rank 0 ended first, with exit code 1; the other one was stopped.",
    ),
    (
        facts(rank(), rank(1), STOPPED),
        Outcome.FAILED,
        Code.EXIT_CODE,
        "Rank 1 ended first, with exit code 1; one other was stopped.",
    ),
    (
        facts(rank(signal=9), STOPPED),
        Outcome.FAILED,
        Code.SIGNAL,
        f"Rank 0 was killed from outside (signal 9); the other one was stopped; {OOM}.",
    ),
    (
        facts(rank(signal=9), oom_kills=1),
        Outcome.FAILED,
        Code.OUT_OF_MEMORY,
        "It was killed (signal 9) because the machine ran out of memory.",
    ),
    (
        facts(STOPPED, why="time_limit"),
        Outcome.FAILED,
        Code.TIME_LIMIT,
        "Stopped at its time limit of 10 min.",
    ),
    (
        facts(rank(signal=9, interrupted=True), why="time_limit", killed=True),
        Outcome.FAILED,
        Code.TIME_LIMIT,
        "Stopped at its time limit of 10 min. It did not end by itself within 30 s and was killed.",
    ),
    (facts(STOPPED, why="stopped"), Outcome.STOPPED, Code.STOPPED, "It was stopped."),
    (
        facts(why="stopped", running_at=None),
        Outcome.STOPPED,
        Code.STOPPED,
        "It was stopped before it started.",
    ),
    (
        facts(why="could_not_start", detail="The command x was not found.", running_at=None),
        Outcome.FAILED,
        Code.COULD_NOT_START,
        "The command x was not found.",
    ),
]


@pytest.mark.parametrize(("exit", "outcome", "code", "text"), CASES, ids=[case[3] for case in CASES])
def test_an_end_is_told_in_a_sentence(exit: Exit, outcome: Outcome, code: Code, text: str) -> None:
    observation = ended(exit, SPEC)
    assert (observation.outcome, observation.reason.code, observation.reason.text) == (outcome, code, text)


@pytest.mark.parametrize(
    ("exit", "code"),
    [
        (facts(rank(), rank()), 0),
        (facts(rank(), rank(7), STOPPED), 7),
        (facts(why="could_not_start", running_at=None), None),
    ],
)
def test_the_exit_code_is_that_of_the_first_rank_that_failed(exit: Exit, code: int | None) -> None:
    assert ended(exit, SPEC).exit_code == code


def test_what_was_left_behind_is_told() -> None:
    (note,) = ended(facts(rank(), left_behind=2), SPEC).notes
    assert note.text == "2 processes that it left behind were killed."
