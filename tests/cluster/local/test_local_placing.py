"""What fits, what waits, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from app.cluster.local import LocalCluster
from app.cluster.protocol import AttemptKey, Code, GpuPool, Phase, Volume
from tests.cluster.local.machine import INSTANCE, Machine

SHOW = "echo $CUDA_VISIBLE_DEVICES; exec sleep 1000"


def visible(machine: Machine, key: AttemptKey, rank: int = 0) -> str:
    machine.until_printed(key, b"\n", rank)
    return (machine.path(key) / f"rank-{rank}.log").read_text().strip()


def test_gpus_are_exclusive(machine: Machine) -> None:
    machine.configure(gpus=("H100",) * 4)
    first = machine.launch(machine.attempt(SHOW, gpus=3))
    waiting = machine.waiting(machine.attempt(SHOW, gpus=2))
    assert (waiting.reason.code, waiting.resource) == (Code.NO_FREE_GPU, "gpu")
    assert waiting.reason.text == "It needs 2 GPUs; 1 of this machine's is free."
    second = machine.launch(machine.attempt(SHOW, gpus=1))
    assert visible(machine, first) == "0,1,2"
    assert visible(machine, second) == "3"


def test_gpus_are_free_again_when_a_job_ends(machine: Machine) -> None:
    machine.configure(gpus=("H100",))
    key = machine.launch(machine.attempt(SHOW, gpus=1))
    machine.cluster.stop(key)
    machine.until(key, Phase.ENDED)
    assert visible(machine, machine.launch(machine.attempt(SHOW, gpus=1))) == "0"


def test_another_worker_sees_who_holds_what(machine: Machine) -> None:
    machine.configure(gpus=("H100", "H100", "A100"))
    machine.launch(machine.attempt(SHOW, gpus=1))
    capacity = LocalCluster(machine.settings, INSTANCE).capacity()
    assert capacity.gpus == (
        GpuPool("H100", total=2, used=1, free=1, most_free_on_one_node=1, simulated=True),
        GpuPool("A100", total=1, used=0, free=1, most_free_on_one_node=1, simulated=True),
    )


def test_gpus_of_a_launch_that_crashed_stay_with_it(machine: Machine) -> None:
    machine.configure(gpus=("H100", "H100"))
    configure = "machine.configure(gpus=('H100', 'H100'))"
    machine.worker_killed_at("local.before_spawn", configure, f"machine.launch(machine.attempt({SHOW!r}, gpus=1))")
    crashed = machine.attempt(SHOW, gpus=1)
    assert visible(machine, machine.launch(machine.attempt(SHOW, gpus=1))) == "1"
    assert visible(machine, machine.launch(crashed)) == "0"


def test_each_rank_sees_its_own_gpus(machine: Machine) -> None:
    machine.configure(gpus=("H100",) * 4)
    key = machine.launch(machine.attempt(SHOW, gpus=2, nodes=2))
    assert [visible(machine, key, rank) for rank in (0, 1)] == ["0,1", "2,3"]
    (note,) = machine.observe(key).notes
    assert (note.text, note.detail) == ("It holds 4 simulated GPUs of this machine.", "H100: 0, 1, 2, 3")


def test_a_type_is_found_by_its_short_name(machine: Machine) -> None:
    machine.configure(gpus=("A100-SXM4-80GB", "H100 80GB HBM3"))
    assert visible(machine, machine.launch(machine.attempt(SHOW, gpus=1, gpu_types=("h100",)))) == "1"


def test_all_gpus_of_a_job_are_of_one_type(machine: Machine) -> None:
    machine.configure(gpus=("A100", "H100", "H100"))
    assert visible(machine, machine.launch(machine.attempt(SHOW, gpus=2))) == "1,2"
    refused = machine.refusal(machine.attempt(gpus=3))
    assert refused.reason.text == "It asks for 3 GPUs in total; this machine has 2 GPUs of one suitable type."


def test_a_cpu_job_sees_no_gpu(machine: Machine) -> None:
    machine.configure(gpus=("H100",))
    assert visible(machine, machine.launch(machine.attempt(SHOW))) == ""


def test_what_can_never_fit_is_refused(machine: Machine) -> None:
    machine.configure(gpus=("H100", "H100"))
    total = machine.refusal(machine.attempt(gpus=1, nodes=3))
    assert (total.reason.code, total.reason.text) == (
        Code.REFUSED,
        "It asks for 3 GPUs in total; this machine has 2 GPUs.",
    )
    wrong_type = machine.refusal(machine.attempt(gpus=1, gpu_types=("A100", "B200")))
    assert wrong_type.reason.text == "It asks for a GPU of type A100 or B200; this machine has H100."
    machine.configure(gpus=())
    assert machine.refusal(machine.attempt(gpus=1)).reason.text == (
        "It asks for 1 GPU in total; this machine has no GPU."
    )


def test_an_unknown_volume_is_refused(machine: Machine) -> None:
    refused = machine.refusal(machine.attempt(volumes=(Volume("datasets", "/data"),)))
    assert "no volume named datasets" in refused.reason.text


def test_cpu_jobs_take_slots_and_gpu_jobs_do_not(machine: Machine) -> None:
    machine.configure(gpus=("H100",), slots=2)
    for _ in range(2):
        machine.launch(machine.attempt(("sleep", "1000")))
    waiting = machine.waiting(machine.attempt())
    assert (waiting.reason.code, waiting.resource) == (Code.NO_FREE_SLOT, "slot")
    assert waiting.reason.text == "All 2 places for jobs without a GPU on this machine are taken."
    machine.launch(machine.attempt(("sleep", "1000"), gpus=1))
    assert machine.cluster.capacity().cpu_slots_free == 0


def test_a_full_disk_lets_nothing_start(machine: Machine) -> None:
    machine.configure(disk_floor=1 << 60)
    waiting = machine.waiting(machine.attempt())
    assert (waiting.reason.code, waiting.resource) == (Code.DISK_FULL, "disk")
    assert "jobs start while at least 1.049e+06 TiB are free" in waiting.reason.text


def test_elsewhere_than_on_linux_it_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    refused = machine.refusal(machine.attempt())
    assert "runs Linux" in refused.reason.text


def test_without_a_driver_there_are_no_gpus(machine: Machine) -> None:
    if Path("/proc/driver/nvidia").exists() or os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a driver")
    machine.configure(gpus=None)
    assert machine.cluster.capacity().gpus == ()
