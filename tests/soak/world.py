"""Clusters in memory that live through the death of a worker, know the truth of each job, and watch for its doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.cluster.protocol import (
    Attempt,
    AttemptKey,
    Capacity,
    ClusterError,
    Code,
    GpuPool,
    Health,
    Launched,
    LogPiece,
    Observation,
    Outcome,
    Phase,
    RankStatus,
    Reason,
    Refused,
    Wait,
)
from app.database import now
from tests.soak.faults import Faults
from tests.soak.plan import CLUSTERS, End, Gap, Plan, plan, printed

SLOTS = (60, 1000, 1000)  # objects that may run at once on each cluster
GPUS = (0, 0, 24)
NO_SLOT = Wait(Reason(Code.NO_FREE_SLOT, "All places are taken."), resource="slot")
NO_GPU = Wait(Reason(Code.NO_FREE_GPU, "It needs 1 GPU; none is free."), resource="gpu")
REFUSED = Refused(Reason(Code.REFUSED, "It asks for more than there is.", "raw"))
OUTCOMES = {End.SUCCEEDS: Outcome.SUCCEEDED, End.FAILS: Outcome.FAILED}


@dataclass(slots=True)
class Thing:
    """The objects of one attempt."""

    plan: Plan
    made_at: int  # tick
    stopped_at: int | None = None  # tick at which it ends because it was asked to
    started: datetime | None = None
    finished: datetime | None = None
    seen: bool = False  # by a worker
    vanished_at: int | None = None
    removed: bool = False

    @property
    def runs_from(self) -> int:
        return self.made_at + self.plan.held + self.plan.starts

    @property
    def ends_at(self) -> int | None:
        """The tick of its own end; None: none comes."""
        if self.plan.end in (End.OVERRUNS, End.FOREVER, End.VANISHES):
            return None
        return self.runs_from + self.plan.runs

    def over(self, tick: int) -> int | None:
        """The tick at which it was over, as far as that has come."""
        ends = [at for at in (self.ends_at, self.stopped_at, self.vanished_at) if at is not None and at <= tick]
        return min(ends, default=None)

    def outcome(self, tick: int) -> Outcome | None:
        if self.over(tick) is None:
            return None
        if self.ends_at is not None and self.over(tick) == self.ends_at:
            return OUTCOMES[self.plan.end]
        return Outcome.LOST if self.over(tick) == self.vanished_at else Outcome.STOPPED

    def phase(self, tick: int) -> Phase:
        if self.over(tick) is not None:
            return Phase.ENDED
        if tick < self.made_at + self.plan.held:
            return Phase.HELD
        return Phase.STARTING if tick < self.runs_from else Phase.RUNNING

    def size(self, tick: int, total: int) -> int:
        """Bytes printed so far, of as many as it prints when it comes to its end."""
        until = self.over(tick)
        ran = (tick if until is None else until) - self.runs_from
        return max(0, min(total, total * ran // self.plan.runs))


@dataclass
class World:
    """All clusters, and what is true. A violation is kept, not raised: the worker would take it for a bug of ours."""

    seed: int
    faults: Faults
    tick: int = 0
    things: dict[AttemptKey, Thing] = field(default_factory=dict)  # until their job is checked
    ever: dict[str, int] = field(default_factory=dict)  # uid → number, until checked
    refused: set[str] = field(default_factory=set)  # uids
    stops: set[AttemptKey] = field(default_factory=set)  # delivered, until checked
    silent_until: list[int] = field(default_factory=lambda: [0] * CLUSTERS)
    violations: list[str] = field(default_factory=list)
    meddle: Callable[[Plan], None] = lambda _: None
    checked: bytearray = field(default_factory=bytearray)  # by number: whether its job is settled and was checked
    made: int = 0

    def pass_time(self) -> None:
        self.tick += 1
        for place in range(CLUSTERS):
            if self.faults.hit(self.faults.rates.outage, "a cluster falls silent"):
                self.silent_until[place] = self.tick + self.faults.dice.randint(3, 40)
        for thing in self.things.values():
            # somebody removes it, once the portal has recorded that it exists
            if (
                thing.plan.end is End.VANISHES
                and thing.seen
                and thing.vanished_at is None
                and thing.over(self.tick) is None
                and self.tick >= thing.runs_from + thing.plan.runs
            ):
                thing.vanished_at = self.tick

    def plan_of(self, job_name: str) -> Plan:
        return plan(self.seed, int(job_name.removeprefix("soak-")))

    def on(self, place: int) -> Iterator[tuple[AttemptKey, Thing]]:
        """What a listing of a cluster shows."""
        for key, thing in self.things.items():
            if thing.plan.cluster == place and not thing.removed and thing.vanished_at is None:
                yield key, thing

    def busy(self, place: int) -> list[Thing]:
        return [thing for _, thing in self.on(place) if thing.over(self.tick) is None]

    def violated(self, text: str) -> None:
        if len(self.violations) < 50:
            self.violations.append(f"tick {self.tick}: {text}")


class SoakCluster:
    """One worker's view of one cluster. Implements `app.cluster.protocol.Cluster`."""

    def __init__(self, world: World, place: int) -> None:
        self._world = world
        self._place = place
        self.enforces_max_runtime = place != 0

    def start(self, changed: Callable[[], None]) -> None: ...

    def close(self) -> None: ...

    def health(self) -> Health:
        return Health(now() if not self._silent else None, "It is silent." if self._silent else "")

    def capacity(self) -> Capacity:
        total = GPUS[self._place]
        pools = (GpuPool("H100", total, 0, total, total),) if total else ()
        return Capacity(pools, cpu_slots=SLOTS[self._place], cpu_slots_free=SLOTS[self._place])

    def launch(self, attempt: Attempt) -> Launched | Wait | Refused:
        world, key = self._world, attempt.key
        asked = world.plan_of(attempt.job_name)
        with self._call("launch", asked):
            if asked.cluster != self._place:
                world.violated(f"{attempt.job_name} came to cluster {self._place}, not to {asked.cluster}")
            if attempt.spec.nodes != asked.nodes or key.number != 1:
                world.violated(f"{attempt.job_name} came as {key} with {attempt.spec.nodes} nodes")
            thing = world.things.get(key)
            if thing is not None and not thing.removed:
                return Launched(f"uid-{key}")
            if key.job in world.ever or world.checked[asked.number]:
                world.violated(f"{attempt.job_name} ({key}) was made a second time")
            if key in world.stops:
                world.violated(f"{attempt.job_name} ({key}) was started after it was stopped")
            if asked.end is End.REFUSED:
                world.refused.add(key.job)
                return REFUSED
            busy = world.busy(self._place)
            if asked.gpus and sum(each.plan.gpus for each in busy) + asked.gpus > GPUS[self._place]:
                return NO_GPU
            if len(busy) >= SLOTS[self._place]:
                return NO_SLOT
            world.things[key] = Thing(asked, world.tick)
            world.ever[key.job] = asked.number
            world.made += 1
        return Launched(f"uid-{key}")

    def observe(self, key: AttemptKey) -> Observation | None:
        world = self._world
        thing = world.things.get(key)
        with self._call("observe", thing.plan if thing is not None else None):
            if thing is None or thing.removed or thing.vanished_at is not None:
                return None
            thing.seen = True
            return self._shown(thing)

    def stop(self, key: AttemptKey) -> None:
        world = self._world
        thing = world.things.get(key)
        with self._call("stop", None):
            world.stops.add(key)
            if thing is not None and thing.stopped_at is None and thing.over(world.tick) is None:
                thing.stopped_at = world.tick + thing.plan.number % 3  # its time of grace

    def remove(self, key: AttemptKey) -> None:
        world = self._world
        thing = world.things.get(key)
        with self._call("remove", None):
            if thing is not None:
                if thing.over(world.tick) is None:
                    world.violated(f"{thing.plan.name} was removed while it ran")
                thing.removed = True

    def owned(self) -> frozenset[AttemptKey]:
        with self._call("owned", None):
            return frozenset(key for key, _ in self._world.on(self._place))

    def open_log(self, key: AttemptKey, rank: int, cursor: str) -> SoakLog:
        with self._call("open_log", None):
            return SoakLog(self, key, rank, int(cursor or 0))

    @property
    def _silent(self) -> bool:
        return self._world.tick < self._world.silent_until[self._place]

    @contextmanager
    def _call(self, name: str, about: Plan | None) -> Iterator[None]:
        if self._silent:
            raise ClusterError("The cluster is silent.")
        faults = self._world.faults
        with faults.during(name):
            yield
            if about is not None and faults.hit(faults.rates.meddle, f"stopped by a person during {name}"):
                self._world.meddle(about)

    def _shown(self, thing: Thing) -> Observation:
        tick = self._world.tick
        phase = thing.phase(tick)
        if phase is Phase.HELD:
            return Observation(phase, Reason(Code.SUSPENDED, "The queue holds it.", "raw"))
        if phase is Phase.STARTING:
            return Observation(phase, Reason(Code.STARTING, "Its pods are being started."))
        if thing.started is None and (thing.over(tick) or tick) >= thing.runs_from:
            # one that overruns has run for long already, so that nobody waits for its limit here
            thing.started = now() - (timedelta(hours=2) if thing.plan.end is End.OVERRUNS else timedelta())
        if phase is Phase.RUNNING:
            ranks = tuple(RankStatus(rank, f"node-{rank}", thing.started) for rank in range(thing.plan.nodes))
            return Observation(phase, Reason(Code.RUNNING, "It runs."), ranks=ranks, started_at=thing.started)
        thing.finished = thing.finished or now()
        outcome = thing.outcome(tick)
        code = {Outcome.STOPPED: 143}.get(outcome, thing.plan.code) if outcome is not None else 0
        ranks = tuple(
            RankStatus(rank, f"node-{rank}", thing.started, thing.finished, code) for rank in range(thing.plan.nodes)
        )
        why = Reason(Code.STOPPED if outcome is Outcome.STOPPED else Code.EXIT_CODE, f"It ended with {code}.", "raw")
        return Observation(phase, why, outcome, ranks, thing.started, thing.finished, code)

    def log_state(self, key: AttemptKey, rank: int) -> tuple[bytes, Thing] | None:
        """What a rank has printed so far, and its objects; None where they are gone."""
        thing = self._world.things.get(key)
        if thing is None or thing.removed or thing.vanished_at is not None:
            return None
        everything = printed(self._world.seed, thing.plan.number, rank, thing.plan.lines)
        return everything[: thing.size(self._world.tick, len(everything))], thing


class SoakLog:
    def __init__(self, cluster: SoakCluster, key: AttemptKey, rank: int, at: int) -> None:
        self._cluster, self._key, self._rank, self._at = cluster, key, rank, at

    def read(self, limit: int) -> LogPiece | None:
        with self._cluster._call("read", None):
            found = self._cluster.log_state(self._key, self._rank)
            if found is None:
                return LogPiece(b"", str(self._at), None, "Its pods are gone.", complete=True)
            data, thing = found
            over = thing.over(self._cluster._world.tick) is not None
            gap = gap_in(thing.plan, self._rank, len(data)) if over or not thing.plan.gap else None
            end = len(data)
            if thing.plan.gap is not None and self._rank == 0 and self._at <= thing.plan.gap.at:
                end = min(end, thing.plan.gap.at)
                if self._at == thing.plan.gap.at and gap is not None:
                    return self._jump(gap, len(data), thing)
            part = data[self._at : min(end, self._at + limit)]
            done = self._at + len(part) == len(data) and over and not thing.plan.endless_log
            if not part and not done:
                return None
            self._at += len(part)
            return LogPiece(part, str(self._at), complete=done)

    def _jump(self, gap: Gap, size: int, thing: Thing) -> LogPiece:
        self._at += gap.size
        done = self._at == size and not thing.plan.endless_log
        return LogPiece(b"", str(self._at), gap.size if gap.known else None, "Some were not kept.", done)

    def close(self) -> None: ...


def gap_in(asked: Plan, rank: int, size: int) -> Gap | None:
    """The gap of a log that ended with so many bytes; it is shown once the end is there."""
    if asked.gap is None or rank or asked.gap.at >= size:
        return None
    return Gap(asked.gap.at, min(asked.gap.size, size - asked.gap.at), asked.gap.known)
