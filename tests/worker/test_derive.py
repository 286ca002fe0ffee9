"""What a job is, from what it was, what people wish and what its cluster shows."""

from __future__ import annotations

from itertools import product

import pytest

from app.cluster.protocol import Code, Observation, Outcome
from app.jobs.models import Wish
from app.jobs.states import ACTIVE, NEXT, State
from app.worker.derive import derive
from tests.worker.stub import ended, held, running, starting

ENDS = {
    Outcome.SUCCEEDED: State.SUCCEEDED,
    Outcome.FAILED: State.FAILED,
    Outcome.LOST: State.LOST,
}
SEEN: dict[str, Observation | None] = {
    "nothing": None,
    "held": held(),
    "starting": starting(),
    "running": running(),
    **{outcome.value: ended(outcome) for outcome in Outcome},
}


def expected(state: State, wish: Wish, seen: str) -> State:
    """The table of design.md, written down a second time."""
    if seen == "nothing":
        return State.CANCELLED if wish is Wish.STOP else State.LOST
    if seen in ENDS:
        return ENDS[Outcome(seen)]
    if seen == Outcome.STOPPED:
        return State.CANCELLED
    if wish is Wish.STOP:
        return State.STOPPING
    if state is State.RUNNING:
        return State.RUNNING
    return {"held": State.QUEUED, "starting": State.STARTING, "running": State.RUNNING}[seen]


CASES = [
    (state, wish, seen)
    for state, wish, seen in product(ACTIVE, Wish, SEEN)
    if not (state is State.STOPPING and wish is Wish.RUN)  # nobody takes a wish to stop back
]


@pytest.mark.parametrize(("state", "wish", "seen"), CASES)
def test_the_table_of_states(state: State, wish: Wish, seen: str) -> None:
    reached, reason = derive(state, wish, "Bob", "1 hour", SEEN[seen])
    assert reached is expected(state, wish, seen)
    assert reached is state or reached in NEXT[state], "a job cannot go there"
    assert reason.text.endswith(".")


def test_a_job_that_ended_by_itself_keeps_its_own_end_when_a_stop_came_too_late() -> None:
    state, reason = derive(State.STOPPING, Wish.STOP, "Bob", "1 hour", ended(Outcome.FAILED, 3, text="Exit code 3."))
    assert (state, reason.text) == (State.FAILED, "Exit code 3.")


def test_a_stop_says_who_asked_and_keeps_the_raw_text() -> None:
    state, reason = derive(State.STOPPING, Wish.STOP, "Bob", "1 hour", ended(Outcome.STOPPED))
    assert (state, reason.code, reason.text, reason.raw) == (State.CANCELLED, Code.STOPPED, "Stopped by Bob.", "raw")


@pytest.mark.parametrize("seen", [None, ended(Outcome.STOPPED)])
def test_a_stop_that_nobody_asked_for_is_the_time_limit_and_a_failure(seen: Observation | None) -> None:
    state, reason = derive(State.STOPPING, Wish.STOP, "", "1 hour", seen)
    assert (state, reason.code) == (State.FAILED, Code.TIME_LIMIT)
    assert reason.text == "Stopped at its time limit of 1 hour."


def test_what_was_stopped_without_the_portal_is_cancelled_with_the_clusters_own_words() -> None:
    state, reason = derive(State.RUNNING, Wish.RUN, "", "1 hour", ended(Outcome.STOPPED, text="Somebody stopped it."))
    assert (state, reason.text) == (State.CANCELLED, "Somebody stopped it.")


def test_what_vanished_is_lost() -> None:
    state, reason = derive(State.RUNNING, Wish.RUN, "", "1 hour", None)
    assert (state, reason.code) == (State.LOST, Code.REMOVED)


def test_an_end_without_an_outcome_is_a_bug_of_the_cluster() -> None:
    with pytest.raises(ValueError, match="outcome"):
        derive(
            State.RUNNING, Wish.RUN, "", "1 hour", Observation(ended(Outcome.LOST).phase, ended(Outcome.LOST).reason)
        )
