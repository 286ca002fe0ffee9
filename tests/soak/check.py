"""What has to be true of a job when the portal says that nothing is left to do for it."""

from __future__ import annotations

import zlib

from sqlalchemy import select

from app.cluster.protocol import AttemptKey, Code, Outcome
from app.database import db
from app.jobs.models import Job, JobAttempt, JobEvent
from app.jobs.states import FINAL, State
from app.logs import service as logs
from tests.soak.plan import End, Plan, printed
from tests.soak.world import Thing, World, gap_in

ENDS = {Outcome.SUCCEEDED: State.SUCCEEDED, Outcome.FAILED: State.FAILED}


def fingerprint(job: Job) -> int:
    """Of what may never change again."""
    said = (job.state.value, job.exit_code, job.finished_at, job.reason_code, job.reason_text, job.version)
    return zlib.crc32(repr(said).encode())


def problems(world: World, job: Job, asked: Plan) -> list[str]:
    """Everything that is wrong with a settled job. Call in a context of its own."""
    key = AttemptKey(job.uid, 1)
    thing = world.things.get(key)
    found = _state(world, job, asked, thing)
    if thing is not None and not thing.removed and thing.vanished_at is None:
        found.append("its objects were left on the cluster")
    attempts = list(db.session.scalars(select(JobAttempt).where(JobAttempt.job_id == job.id)))
    if len(attempts) > 1 or (thing is not None and len(attempts) != 1):
        found.append(f"it has {len(attempts)} attempts")
    states = list(
        db.session.scalars(select(JobEvent.state).where(JobEvent.job_id == job.id, JobEvent.state.is_not(None)))
    )
    finals = [state for state in states if state in FINAL]
    # the cluster's queue may hold what was sent, so queued and starting can come again
    once = [state for state in states if state not in (State.QUEUED, State.STARTING)]
    if finals != [job.state] or len(once) != len(set(once)):
        found.append(f"its timeline has {[state and state.value for state in states]}")
    if thing is not None and attempts:
        for rank in range(asked.nodes):
            found += _log(world, thing, attempts[0].id, rank)
    return [f"{asked.name} ({job.uid}, {asked.end}): {text}" for text in found]


def _state(world: World, job: Job, asked: Plan, thing: Thing | None) -> list[str]:
    wanted: set[tuple[State, int | None]]
    by_person = job.stop_asked_by is not None
    cancelled: set[tuple[State, int | None]] = {(State.CANCELLED, None)} if by_person else set()
    outcome = thing.outcome(world.tick) if thing is not None else None
    if thing is None:
        wanted = cancelled | ({(State.FAILED, None)} if job.uid in world.refused else set())
    elif outcome is Outcome.LOST:
        wanted = cancelled | {(State.LOST, None)}
    elif outcome is Outcome.STOPPED:
        wanted = {(State.CANCELLED if by_person else State.FAILED, 143)}
        if not by_person and (asked.end is not End.OVERRUNS or job.reason_code != Code.TIME_LIMIT):
            return [f"it was stopped and nobody asked for it: {job.reason_text}"]
    elif outcome is None:
        return ["it is settled and has not ended"]
    else:
        wanted = {(ENDS[outcome], asked.code)}
    if (job.state, job.exit_code) not in wanted:
        truth = ", ".join(f"{state.value} with {code}" for state, code in wanted) or "nothing that is known"
        return [f"the portal says {job.state.value} with {job.exit_code}, and it was {truth}"]
    return []


def _log(world: World, thing: Thing, attempt_id: int, rank: int) -> list[str]:
    """Every byte once, in its place, and what is missing marked."""
    everything = printed(world.seed, thing.plan.number, rank, thing.plan.lines)
    data = everything[: thing.size(world.tick, len(everything))]
    gap = gap_in(thing.plan, rank, len(data))
    whole = thing.vanished_at is None and not thing.plan.endless_log
    wanted, missing = data, []
    if gap is not None:
        hole = gap.size if gap.known else logs.UNKNOWN
        wanted = data[: gap.at] + b"\0" * hole + data[gap.at + gap.size :]
        missing = [(gap.at, gap.size if gap.known else None)]
    stream = logs.find_stream(attempt_id, rank)
    if stream is None or not stream.complete:
        return [f"the log of rank {rank} is not complete"]
    kept = bytearray(b"\0" * stream.size)
    at = 0
    for piece in logs.pieces(attempt_id, rank):
        if piece.first_byte < at or piece.end > stream.size:
            return [f"the log of rank {rank} has bytes twice at {piece.first_byte}"]
        kept[piece.first_byte : piece.end] = piece.data
        at = piece.end
    marked = [(hole.first_byte, hole.size) for hole in logs.gaps(attempt_id, rank, 0, stream.size + 1)]
    if whole:
        good = bytes(kept) == wanted and marked == missing
    else:
        # it ends where the cluster stopped giving, and that is marked
        end = marked.pop() if marked else (0, 0)
        good = end == (stream.size - 1, None) and wanted.startswith(kept[:-1]) and marked in (missing, [])
        # a job that was removed may have lost any of its end; one whose log only never ended has lost nothing of it
        good = good and (thing.vanished_at is not None or thing.removed)
    if not good:
        return [f"the log of rank {rank} has {stream.size} bytes, gaps {marked}; wanted {len(wanted)}, gaps {missing}"]
    return []
