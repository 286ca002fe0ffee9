"""The GPUs of this machine: real ones through NVML, or simulated ones by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pynvml  # it ships no types

SIMULATED = "simulated"  # the type of a simulated GPU that was given none
MOST_SIMULATED = 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    id: str  # what CUDA_VISIBLE_DEVICES calls it: a UUID, or the number of a simulated one
    type: str
    simulated: bool = False

    def is_a(self, wanted: str) -> bool:
        """Whether people who ask for `wanted` mean this one: "H100" is any "H100 80GB HBM3"."""
        return f" {_words(wanted)} " in f" {_words(self.type)} "


def simulated_gpus(text: str) -> tuple[str, ...]:
    """The types that "4", "H100=4" or "H100=4,A100=2" stand for, one for each GPU. Raises ValueError, saying why."""
    types: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = part.rpartition("=")
        name = name.strip()
        if not count.strip().isdecimal() or ("=" in part and not re.fullmatch(r"[A-Za-z0-9][-. \w]*", name)):
            raise ValueError(f"“{part}” is neither a number of GPUs nor TYPE=NUMBER.")
        types += [name or SIMULATED] * min(int(count), MOST_SIMULATED + 1)
        if len(types) > MOST_SIMULATED:
            raise ValueError(f"More than {MOST_SIMULATED} simulated GPUs.")
    return tuple(types)


def inventory(simulated: tuple[str, ...] | None) -> tuple[Gpu, ...]:
    """The simulated ones where some, or explicitly none, are given; else those that the driver shows."""
    if simulated is not None:
        return tuple(Gpu(str(number), type, simulated=True) for number, type in enumerate(simulated))
    return _real_gpus()


def types_of(gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Each type once, in the order of the machine."""
    return tuple(dict.fromkeys(gpu.type for gpu in gpus))


def _real_gpus() -> tuple[Gpu, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()  # no driver, so no GPU that a job could use
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ")
            )
            for handle in handles
        )
    except pynvml.NVMLError:
        return ()  # a driver that does not answer: CUDA would not either
    finally:
        pynvml.nvmlShutdown()


def _type_of(handle: object) -> str:
    return _text(pynvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.casefold()))
