"""A portal, people who launch and stop, and a worker that dies and is followed by another, all in one thread."""

from __future__ import annotations

import logging
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from sqlalchemy import Engine, event, func, select
from sqlalchemy.exc import OperationalError

from app import create_app
from app.accounts import service as accounts
from app.clusters.models import ClusterKind, ClusterRow
from app.config import Config
from app.database import db, transaction
from app.installation import service as installation
from app.jobs import service as jobs
from app.jobs.models import Job
from app.jobs.states import FINAL
from app.orgs import service as orgs
from app.presets import service as presets
from app.worker.collect import Collector
from app.worker.loop import ClusterLoop
from app.worker.turn import Replaced, Turn
from tests.soak.check import fingerprint, problems
from tests.soak.faults import Clock, Faults, Killed, Rates
from tests.soak.plan import CLUSTERS, End, Plan, plan
from tests.soak.world import SoakCluster, World

PRESET = """
name: soak
image: registry.example/soak:1
command: "true"
nodes: {default: 1, max: 4}
gpus: {default: 0, max: 8}
max_runtime: 1h
"""
PEOPLE = 4
AT_ONCE = 150  # jobs that are not settled
EACH_TICK = 20  # launches at most
STUCK = 3000  # ticks after which a job that is not settled counts as lost
CALM_EVERY, CALM = 250, 35  # ticks; of so many, the last ones in which nothing goes wrong and a minute passes in each
PARTS = 20  # of a run, compared with each other
KEEP_QUIET = ("simpletrain", "simpletrain.worker")


@dataclass(slots=True)
class Open:
    """A job that is not settled yet."""

    asked: Plan
    acknowledged_at: int  # tick
    stop_at: int | None
    final_at: int | None = None


@dataclass
class Part:
    """A twentieth of the jobs."""

    cpu: float  # seconds of processor time up to its end
    wall: float
    memory: int  # bytes resident at its end
    floor: float  # seconds of processor time that a fixed piece of work took then: machines have neighbours
    ticks: list[int] = field(default_factory=list)  # from the launch to the final state, of each job


@dataclass
class Result:
    seed: int
    jobs: int
    seconds: float
    faults: Counter[str]
    ends: Counter[str]
    kills: int
    parts: list[Part]
    violations: list[str]
    log_bytes: int
    database: str
    made: int = 0

    def cpu(self, first: int, last: int) -> float:
        """Seconds of processor time for each job from the end of one part to the end of another."""
        return (self.parts[last].cpu - self.parts[first].cpu) / (self.jobs * (last - first) / PARTS)

    def cost(self, first: int, last: int) -> float:
        """The same beside the floor of then."""
        return self.cpu(first, last) / median(part.floor for part in self.parts[first : last + 1])


class Soak:
    def __init__(self, config: Config, seed: int, count: int, rates: Rates, say: Callable[[str], None]) -> None:
        self._app = create_app(config)
        self._config = config
        self._count = count
        self._say = say
        self._clock = Clock()
        with self._app.app_context():
            installation.prepare()
            self._furnish()
            engine = db.engine
            _hurry(engine)
        self._faults = Faults(Random(seed), rates, self._clock, engine)
        self._world = World(seed, self._faults, meddle=self._meddle, checked=bytearray(count))
        self._prints = array("Q", bytes(8 * count))
        self._open: dict[int, Open] = {}  # by the job's id
        self._launched = 0
        self._loops: list[ClusterLoop] = []
        self._collector: Collector
        self._kills = 0
        self._ends: Counter[str] = Counter()
        self._parts: list[Part] = []
        self._ticks: list[int] = []
        self._log_bytes = 0

    def _furnish(self) -> None:
        with transaction():
            org = orgs.create("soak")
            presets.import_presets(org.id, PRESET)
            for number in range(PEOPLE):
                user, _ = accounts.create(f"person-{number}@example.org")
                orgs.join(org, user.id, orgs.Role.MEMBER)
            db.session.add_all(
                ClusterRow(name=f"cluster-{place}", kind=ClusterKind.KUBERNETES) for place in range(CLUSTERS)
            )

    def run(self) -> Result:
        began, used = time.monotonic(), time.process_time()
        with self._faults.installed(), _quiet():
            self._new_worker()
            while (self._launched < self._count or self._open) and not self._world.violations:
                self._tick()
                done = self._launched - len(self._open)
                if done >= self._count * (len(self._parts) + 1) // PARTS and self._ticks:
                    part = Part(
                        time.process_time() - used, time.monotonic() - began, _resident(), _floor(), self._ticks
                    )
                    self._parts.append(part)
                    self._ticks = []
                    self._say(
                        f"{done:,} of {self._count:,} jobs, {part.wall:.0f} s, {part.memory / 1e6:.0f} MB, "
                        f"{self._kills} kills"
                    )
            self._faults.armed = False
            self._clock.sleep(7200.0)  # the next sweep is due
            if not self._world.violations:
                self._at_work(self._round)
                self._finally()
        with self._app.app_context():
            db.engine.dispose()
        return Result(
            seed=self._world.seed,
            jobs=self._launched,
            seconds=time.monotonic() - began,
            faults=self._faults.counts,
            ends=self._ends,
            kills=self._kills,
            parts=self._parts,
            violations=self._world.violations,
            log_bytes=self._log_bytes,
            database="SQLite" if self._config.sqlite else "PostgreSQL",
            made=self._world.made,
        )

    # one round

    def _tick(self) -> None:
        left = self._open.values() if self._launched >= self._count else ()
        only_waits = left and all(each.asked.endless_log and each.final_at is not None for each in left)
        # a worker gives up a log that never ends once it has waited for long itself: now and then one lives that long
        calm = self._world.tick % CALM_EVERY >= CALM_EVERY - CALM
        self._faults.armed = not calm
        if calm:
            self._world.silent_until = [0] * CLUSTERS
        self._clock.sleep(60.0 if calm or only_waits else 1.0)
        self._world.pass_time()
        self._people()
        self._at_work(self._round)
        with self._app.app_context():
            self._check()

    def _round(self) -> None:
        for loop in self._loops:
            self._look(loop)
        with self._app.app_context():
            self._collector.round()

    def _look(self, loop: ClusterLoop) -> None:
        with self._app.app_context():
            loop.look()

    def _at_work(self, work: Callable[[], object]) -> None:
        self._faults.in_worker = True
        try:
            work()
        except Killed:
            self._kills += 1
            old = self._loops, self._collector
            self._new_worker()
            if self._kills % 5 == 0:
                self._outlived(*old)
        except Replaced:
            self._world.violated("the worker was told that another has taken over, and none has")
        finally:
            self._faults.in_worker = False

    def _new_worker(self) -> None:
        """As after a crash: nothing is known but what the database and the clusters say."""
        while True:
            try:
                with self._app.app_context():
                    turn, instance = Turn(), installation.identity()
                    rows = list(db.session.scalars(select(ClusterRow).where(ClusterRow.name.like("cluster-%"))))
                    places = sorted((row.name, row.id) for row in rows)
                break
            except (OperationalError, Killed):
                continue  # its process ends, and the next one begins
        self._collector = Collector(self._app, turn, self._config.log_limit, self._failed)
        self._loops = [
            ClusterLoop(
                self._app,
                turn,
                cluster_id,
                name,
                SoakCluster(self._world, place),
                instance,
                self._collector,
                self._failed,
            )
            for place, (name, cluster_id) in enumerate(places)
        ]

    def _outlived(self, loops: list[ClusterLoop], collector: Collector) -> None:
        """The one before was not dead, only slow: it must not write any more."""
        self._faults.counts["an old worker goes on"] += 1
        before = self._versions()
        self._world.meddle = lambda _: None  # what people write in between is not the worker's doing
        for go_on in [*(loop.look for loop in loops), collector.round]:
            try:
                with self._app.app_context():
                    go_on()
            except (Replaced, Killed):
                pass
        self._world.meddle = self._meddle
        if self._versions() != before:
            self._world.violated("a worker wrote after another had taken over")

    def _versions(self) -> object:
        with self._app.app_context():
            return db.session.execute(select(func.sum(Job.version)).where(Job.id.in_(self._open))).scalar()

    def _failed(self, error: BaseException) -> None:
        self._world.violated(f"a thread of the worker failed: {error!r}")

    # people

    def _people(self) -> None:
        for job_id, each in list(self._open.items()):
            if each.stop_at is not None and each.stop_at <= self._world.tick and self._stop(job_id):
                each.stop_at = None
        for _ in range(self._faults.dice.randint(0, EACH_TICK)):
            if self._launched >= self._count or len(self._open) >= AT_ONCE:
                return
            self._launch(plan(self._world.seed, self._launched))

    def _launch(self, asked: Plan) -> None:
        """Ask until it is acknowledged, as a client with an idempotency key does."""
        request = jobs.LaunchRequest(
            preset="soak",
            name=asked.name,
            nodes=asked.nodes,
            gpus=asked.gpus,
            cluster=f"cluster-{asked.cluster}",
            max_runtime="1h",
        )
        while True:
            try:
                with self._app.app_context():
                    user = accounts.by_email(f"person-{asked.number % PEOPLE}@example.org")
                    assert user is not None
                    done = jobs.launch(orgs.by_slug("soak"), user, request, f"key-{asked.number}")
                    job_id = done.job.id
                break
            except OperationalError:
                continue
        self._launched += 1
        stop_at = self._world.tick + asked.stop_after if asked.stop_after is not None else None
        self._open[job_id] = Open(asked, self._world.tick, stop_at)

    def _stop(self, job_id: int) -> bool:
        """Whether it was acknowledged."""
        try:
            with self._app.app_context():
                job = db.session.get_one(Job, job_id)
                user = db.session.get_one(accounts.User, job.user_id)
                jobs.stop(job, user, orgs.Role.MEMBER)
        except OperationalError:
            return False
        return True

    def _meddle(self, asked: Plan) -> None:
        """A person's stop that comes in between two statements of the worker."""
        for job_id, each in self._open.items():
            if each.asked.number == asked.number:
                self._faults.in_worker = False
                self._stop(job_id)
                self._faults.in_worker = True

    # what is true all along

    def _check(self) -> None:
        rows = db.session.execute(select(Job.id, Job.state, Job.settled).where(Job.id.in_(self._open))).all()
        if len(rows) != len(self._open):
            self._world.violated(f"{len(self._open) - len(rows)} jobs that were acknowledged are gone")
        for row in rows:
            each = self._open[row.id]
            if row.state in FINAL and each.final_at is None:
                each.final_at = self._world.tick
            if row.settled:
                self._settled(row.id, each)
            elif self._world.tick > each.acknowledged_at + STUCK:
                self._world.violated(f"{each.asked.name} ({each.asked.end}) is {row.state.value} for {STUCK} ticks")

    def _settled(self, job_id: int, each: Open) -> None:
        job = db.session.get_one(Job, job_id)
        asked = each.asked
        for text in problems(self._world, job, asked):
            self._world.violated(text)
        self._ends[job.state.value] += 1
        if asked.end in (End.SUCCEEDS, End.FAILS) and asked.stop_after is None:
            self._ticks.append((each.final_at or self._world.tick) - each.acknowledged_at)
        self._prints[asked.number] = fingerprint(job)
        self._world.checked[asked.number] = 1
        self._world.ever.pop(job.uid, None)
        self._world.refused.discard(job.uid)
        for key in [key for key in self._world.things if key.job == job.uid]:
            del self._world.things[key]
        self._world.stops = {key for key in self._world.stops if key.job != job.uid}
        del self._open[job_id]

    def _finally(self) -> None:
        """Once more over everything, when all is done."""
        if self._world.things:
            self._world.violated(f"{len(self._world.things)} objects were left on the clusters")
        with self._app.app_context():
            total = 0
            for job in db.session.scalars(select(Job).order_by(Job.id).execution_options(yield_per=500)):
                number = int(job.name.removeprefix("soak-"))
                total += 1
                if self._prints[number] != fingerprint(job):
                    self._world.violated(f"{job.name} changed after its end")
                if not job.settled or job.state not in FINAL:
                    self._world.violated(f"{job.name} is {job.state.value}")
            if total != self._count:
                self._world.violated(f"{total} rows for {self._count} acknowledged launches")


def _hurry(engine: Engine) -> None:
    """Do not wait for the disk: no power is cut here, and half of the time would go into it."""
    word = "PRAGMA synchronous = OFF" if engine.dialect.name == "sqlite" else "SET synchronous_commit = off"
    engine.dispose()

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(word)
        cursor.close()
        if engine.dialect.name != "sqlite":
            connection.commit()  # a setting of a transaction that is undone is undone too


@contextmanager
def _quiet() -> Iterator[None]:
    """The worker tells of each fault; nobody reads ten thousand of them."""
    levels = {name: logging.getLogger(name).level for name in KEEP_QUIET}
    for name in KEEP_QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _floor() -> float:
    began = time.process_time()
    for number in range(200_000):
        str(number)
    return time.process_time() - began


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def flat(result: Result) -> list[str]:
    """What grew with the number of finished jobs, where there were enough to tell."""
    grown: list[str] = []
    if len(result.parts) < PARTS or result.jobs < 20_000:
        return grown
    warm, last = result.parts[PARTS // 5], result.parts[-2]
    if last.memory > warm.memory * 1.15 + 10e6:
        grown.append(f"memory grew from {warm.memory / 1e6:.0f} to {last.memory / 1e6:.0f} MB")
    early, late = median(warm.ticks), median(last.ticks)
    if late > early + 1:
        grown.append(f"a job took {early} ticks at the beginning and {late} at the end")
    first, second = result.cost(1, 7), result.cost(PARTS - 7, PARTS - 1)
    if second > first * 1.3:
        grown.append(f"a job cost {first:.2f} of the floor at the beginning and {second:.2f} at the end")
    return grown
