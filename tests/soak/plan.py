"""What each job of a soak does, from the seed and the job's number alone, so that a run can be had again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

CLUSTERS = 3


class End(StrEnum):
    SUCCEEDS = "succeeds"
    FAILS = "fails"
    OVERRUNS = "overruns"  # runs until its time limit; the worker has to stop it
    FOREVER = "forever"  # runs until a person stops it
    VANISHES = "vanishes"  # somebody removes it on the cluster
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a log that the cluster did not keep."""

    at: int
    size: int
    known: bool  # whether the cluster says how many


@dataclass(frozen=True, slots=True)
class Plan:
    """Times are ticks: rounds of the worker, about a second each in production."""

    number: int
    cluster: int
    nodes: int
    gpus: int
    held: int  # by the cluster's own queue
    starts: int  # then so long until all ranks run
    runs: int  # then so long until it ends by itself
    end: End
    code: int
    stop_after: int | None  # a person stops it so long after its launch was acknowledged; None: nobody does
    lines: int  # of each rank's log
    gap: Gap | None  # in rank 0's log
    endless_log: bool  # the cluster never says that the log is complete

    @property
    def name(self) -> str:
        return f"soak-{self.number}"


def plan(seed: int, number: int) -> Plan:
    dice = Random(f"{seed}/{number}")
    end = dice.choices(list(End), [78, 14, 1, 2, 2, 3])[0]
    cluster = dice.randrange(CLUSTERS)
    if end is End.OVERRUNS:
        cluster = 0  # the one whose time limits the worker keeps
    stop_after = dice.randint(0, 8) if end is End.FOREVER or dice.random() < 0.06 else None
    gap = Gap(dice.randint(0, 400), dice.randint(1, 200), dice.random() < 0.5) if dice.random() < 0.05 else None
    return Plan(
        number=number,
        cluster=cluster,
        nodes=dice.choice((1, 1, 1, 1, 1, 1, 1, 2, 3)),
        gpus=int(cluster == 2 and dice.random() < 0.5),
        held=dice.randint(1, 4) if dice.random() < 0.03 else 0,
        starts=dice.randint(0, 2),
        runs=dice.randint(1, 4),
        end=end,
        code=dice.randint(1, 255) if end is End.FAILS else 0,
        stop_after=stop_after,
        lines=int(min(3000, dice.lognormvariate(3, 1.2))),
        gap=gap,
        endless_log=dice.random() < 0.002,
    )


def printed(seed: int, number: int, rank: int, lines: int) -> bytes:
    """All that a rank would print if it came to its end: text, a byte that is no text, no line end at the end."""
    dice = Random(f"{seed}/{number}/{rank}")
    text = "".join(f"{number}.{rank} step {at} loss {dice.random():.6f}\n" for at in range(lines))
    return text.encode() + dice.randbytes(dice.randint(0, 40))
