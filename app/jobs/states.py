"""The states of a job and the only ways from one to another."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def final(self) -> bool:
        return self in FINAL


WORDS = frozenset(state.value for state in State)
FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.LOST})
ACTIVE = tuple(state for state in State if state not in FINAL)

# design.md's table. A cluster may be looked at rarely, so a state that was passed through unseen may be skipped:
# queued goes on to whatever starting goes on to, and so forth.
_ENDS = {State.SUCCEEDED, State.FAILED, State.LOST}
NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.CANCELLED} | _ENDS),
    State.STARTING: frozenset({State.QUEUED, State.RUNNING, State.STOPPING, State.CANCELLED} | _ENDS),
    State.RUNNING: frozenset({State.STOPPING, State.CANCELLED} | _ENDS),
    State.STOPPING: frozenset({State.CANCELLED} | _ENDS),
    **{state: frozenset() for state in FINAL},
}
