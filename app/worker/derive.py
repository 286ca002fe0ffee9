"""From what a cluster shows to what a job is. Pure: no clock, no database, no cluster."""

from __future__ import annotations

from app.cluster.protocol import Code, Observation, Outcome, Phase, Reason
from app.jobs.models import Wish
from app.jobs.states import State

_OUTCOMES = {Outcome.SUCCEEDED: State.SUCCEEDED, Outcome.FAILED: State.FAILED, Outcome.LOST: State.LOST}
_PHASES = {Phase.HELD: State.QUEUED, Phase.STARTING: State.STARTING, Phase.RUNNING: State.RUNNING}


def derive(
    state: State, wish: Wish, stopped_by: str, time_limit: str, seen: Observation | None
) -> tuple[State, Reason]:
    """The state and reason of a job that has objects on a cluster, or had.

    `stopped_by` names who asked for the end, empty where the portal did because of the job's time limit, which
    `time_limit` says. An end that the job found by itself wins over a stop that came too late.
    """
    if seen is None:
        if wish is Wish.STOP:
            return _stopped(stopped_by, time_limit, "")
        return State.LOST, Reason(Code.REMOVED, "It was removed on the cluster, outside the portal.")
    if seen.phase is Phase.ENDED:
        if seen.outcome is Outcome.STOPPED:
            if wish is Wish.STOP:
                return _stopped(stopped_by, time_limit, seen.reason.raw)
            return State.CANCELLED, seen.reason
        if seen.outcome is None:
            raise ValueError("an observation that ended without an outcome")
        return _OUTCOMES[seen.outcome], seen.reason
    if wish is Wish.STOP:
        return State.STOPPING, Reason(Code.STOPPING, "It was asked to stop and ends now.", seen.reason.raw)
    reached = _PHASES[seen.phase]
    if state is State.RUNNING:
        # a rank that a cluster shows late, or again, does not make a running job a starting one
        reached = State.RUNNING
    return reached, seen.reason


def _stopped(stopped_by: str, time_limit: str, raw: str) -> tuple[State, Reason]:
    if stopped_by:
        return State.CANCELLED, Reason(Code.STOPPED, f"Stopped by {stopped_by}.", raw)
    return State.FAILED, Reason(Code.TIME_LIMIT, f"Stopped at its time limit of {time_limit}.", raw)
