"""Whether a job fits on this machine, now or ever. Pure: who holds what is given."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from app.cluster.local.gpus import Gpu, types_of
from app.cluster.local.settings import LocalSettings
from app.cluster.protocol import Code, JobSpec, Reason, Refused, Wait
from app.cluster.text import count, size


@dataclass(frozen=True, slots=True)
class Held:
    """What the attempts that have not ended hold."""

    gpus: Set[str]  # ids
    slots: int


def place(
    spec: JobSpec, settings: LocalSettings, gpus: tuple[Gpu, ...], held: Held, disk_free: int
) -> tuple[Gpu, ...] | Wait | Refused:
    """The GPUs for all its nodes, none for a job without; or why it cannot be, which outweighs why it must wait."""
    if refused := _misfit(spec, settings, gpus):
        return refused
    if disk_free < settings.disk_floor:
        text = f"The disk has {size(disk_free)} left; jobs start while at least {size(settings.disk_floor)} are free."
        return Wait(Reason(Code.DISK_FULL, text), resource="disk")
    if not spec.gpus:
        return _slot(settings.slots, held.slots)
    return _gpus(spec, gpus, held)


def _misfit(spec: JobSpec, settings: LocalSettings, gpus: tuple[Gpu, ...]) -> Refused | None:
    unknown = [volume.claim for volume in spec.volumes if volume.claim not in settings.volumes]
    if unknown:
        return _refused(f"This machine has no volume named {unknown[0]}; the setting LOCAL_VOLUMES lists those it has.")
    if not spec.gpus:
        return None if settings.slots else _refused("This machine runs no jobs without a GPU: LOCAL_SLOTS is 0.")
    suitable = _suitable(spec, gpus)
    if spec.gpu_types and gpus and not suitable:
        wanted = " or ".join(spec.gpu_types)
        return _refused(f"It asks for a GPU of type {wanted}; this machine has {', '.join(types_of(gpus))}.")
    needed = spec.gpus * spec.nodes
    most = max((len(pool) for pool in _pools(suitable)), default=0)
    if needed > most:
        kind = " of one suitable type" if len(types_of(gpus)) > 1 else ""
        has = count(most, "GPU") if most else "no GPU"
        return _refused(f"It asks for {count(needed, 'GPU')} in total; this machine has {has}{kind}.")
    return None


def _slot(slots: int, used: int) -> tuple[Gpu, ...] | Wait:
    if used < slots:
        return ()
    text = f"All {count(slots, 'place')} for jobs without a GPU on this machine are taken."
    return Wait(Reason(Code.NO_FREE_SLOT, text), resource="slot")


def _gpus(spec: JobSpec, gpus: tuple[Gpu, ...], held: Held) -> tuple[Gpu, ...] | Wait:
    needed = spec.gpus * spec.nodes
    free = [gpu for gpu in _suitable(spec, gpus) if gpu.id not in held.gpus]
    pools = _pools(free)
    for pool in pools:
        if len(pool) >= needed:
            return pool[:needed]
    most = max((len(pool) for pool in pools), default=0)
    text = f"It needs {count(needed, 'GPU')}; {most or 'none'} of this machine's {'is' if most == 1 else 'are'} free."
    return Wait(Reason(Code.NO_FREE_GPU, text), resource="gpu")


def _suitable(spec: JobSpec, gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in gpus if not spec.gpu_types or any(gpu.is_a(wanted) for wanted in spec.gpu_types))


def _pools(gpus: tuple[Gpu, ...] | list[Gpu]) -> list[tuple[Gpu, ...]]:
    """By type: ranks that train together need equal GPUs."""
    return [tuple(gpu for gpu in gpus if gpu.type == type) for type in types_of(gpus)]


def _refused(text: str) -> Refused:
    return Refused(Reason(Code.REFUSED, text))
