"""Whatever dies, and wherever: one process tree for an attempt, and a true word about how it ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest

from app.cluster.local import LocalCluster
from app.cluster.local.cluster import PLACING
from app.cluster.local.folder import AttemptFolder
from app.cluster.local.shim import files
from app.cluster.local.shim.locks import holder
from app.cluster.local.spawn import spawn_supervisor
from app.cluster.protocol import ClusterError, Code, Outcome, Phase
from tests.cluster.local.machine import INSTANCE, Machine, wait_for

COUNTED = "echo $$ >> began; exec sleep 1000"
LAUNCH = f"machine.launch(machine.attempt({COUNTED!r}))"


def times_begun(machine: Machine) -> int:
    began = machine.folder / "began"
    return len(began.read_text().splitlines()) if began.exists() else 0


def test_a_job_outlives_the_worker_that_launched_it(machine: Machine) -> None:
    worker = machine.worker(LAUNCH, "import os; os.kill(os.getpid(), 9)")
    assert worker.wait(30) == -9
    (key,) = LocalCluster(machine.settings, INSTANCE).owned()
    machine.until(key, Phase.RUNNING)
    wait_for(lambda: times_begun(machine) == 1)
    machine.cluster.stop(key)
    assert machine.until(key, Phase.ENDED).outcome is Outcome.STOPPED


@pytest.mark.parametrize("point", ["local.before_spawn", "local.after_spawn"])
def test_launching_again_after_a_crash_makes_no_second_one(machine: Machine, point: str) -> None:
    machine.worker_killed_at(point, LAUNCH)
    attempt = machine.attempt(COUNTED)
    machine.launch(attempt)
    machine.launch(attempt)
    machine.until(attempt.key, Phase.RUNNING)
    wait_for(lambda: times_begun(machine))
    assert len(machine.processes(attempt.key)) == 1
    assert times_begun(machine) == 1


def test_a_stop_after_a_crash_before_the_start_is_final(machine: Machine) -> None:
    machine.worker_killed_at("local.before_spawn", LAUNCH)
    attempt = machine.attempt(COUNTED)
    machine.cluster.stop(attempt.key)
    machine.launch(attempt)
    assert machine.observe(attempt.key).outcome is Outcome.STOPPED
    assert times_begun(machine) == 0


def test_what_no_supervisor_took_on_is_given_up_for_good(machine: Machine) -> None:
    machine.worker_killed_at("local.before_spawn", LAUNCH)
    attempt = machine.attempt(COUNTED)
    assert machine.observe(attempt.key).phase is Phase.STARTING
    long_ago = time.time() - 60
    os.utime(machine.path(attempt.key) / "spec.json", (long_ago, long_ago))
    ended = machine.observe(attempt.key)
    assert (ended.outcome, ended.reason.code) == (Outcome.FAILED, Code.COULD_NOT_START)
    machine.launch(attempt)
    assert machine.observe(attempt.key) == ended
    assert times_begun(machine) == 0


def test_workers_that_launch_at_the_same_time_make_one(machine: Machine) -> None:
    gate = machine.folder / "gate"
    wait_at_gate = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.001)"
    workers = [machine.worker(wait_at_gate, LAUNCH) for _ in range(4)]
    gate.touch()
    assert [worker.wait(30) for worker in workers] == [0, 0, 0, 0]
    attempt = machine.attempt(COUNTED)
    machine.until(attempt.key, Phase.RUNNING)
    wait_for(lambda: times_begun(machine))
    assert len(machine.processes(attempt.key)) == 1
    assert times_begun(machine) == 1


def test_a_killed_supervisor_loses_the_job(machine: Machine) -> None:
    key = machine.launch(machine.attempt("setsid sleep 1000 & echo ready; exec sleep 1000"))
    machine.until_printed(key, b"ready")
    machine.until(key, Phase.RUNNING)
    os.kill(machine.supervisor(key), signal.SIGKILL)
    ended = machine.until(key, Phase.ENDED)
    assert (ended.outcome, ended.reason.code) == (Outcome.LOST, Code.SUPERVISOR_DIED)
    assert ended.started_at
    assert machine.output(key) == b"ready\n"
    machine.cluster.remove(key)
    assert machine.processes(key) == []
    assert machine.cluster.observe(key) is None


def test_strays_of_a_lost_job_are_gone_before_its_gpu_is_given_away(machine: Machine) -> None:
    machine.configure(gpus=("H100",))
    key = machine.launch(machine.attempt("setsid sleep 1000 & echo ready; exec sleep 1000", gpus=1))
    machine.until_printed(key, b"ready")
    machine.until(key, Phase.RUNNING)
    os.kill(machine.supervisor(key), signal.SIGKILL)
    machine.until(key, Phase.ENDED)
    next_one = machine.launch(machine.attempt("true", gpus=1))
    assert machine.processes(key) == []
    assert machine.until(next_one, Phase.ENDED).outcome is Outcome.SUCCEEDED


def test_a_restart_of_the_machine_is_told_apart(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    machine.until(key, Phase.RUNNING)
    os.kill(machine.supervisor(key), signal.SIGKILL)
    machine.until(key, Phase.ENDED)
    started = machine.path(key) / "started"
    started.write_text(json.dumps({**json.loads(started.read_text()), "boot_id": "of another life"}))
    ended = machine.observe(key)
    assert (ended.outcome, ended.reason.code) == (Outcome.LOST, Code.MACHINE_RESTARTED)
    assert ended.reason.text.startswith("This machine restarted at 2")


def test_a_lost_job_is_not_started_again(machine: Machine) -> None:
    attempt = machine.attempt(COUNTED)
    key = machine.launch(attempt)
    wait_for(lambda: times_begun(machine))
    os.kill(machine.supervisor(key), signal.SIGKILL)
    machine.until(key, Phase.ENDED)
    machine.launch(attempt)
    assert machine.observe(key).outcome is Outcome.LOST
    assert times_begun(machine) == 1


def test_a_running_attempt_is_not_removed(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    with pytest.raises(ClusterError, match="still runs"):
        machine.cluster.remove(key)
    assert machine.until(key, Phase.RUNNING).phase is Phase.RUNNING


def test_a_disk_that_fails_says_nothing_about_a_job(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    machine.until(key, Phase.RUNNING)
    another = machine.attempt()

    def full(folder: str, name: str, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_whole", full)
        with pytest.raises(ClusterError, match="cannot be read or written"):
            machine.cluster.stop(key)
        with pytest.raises(ClusterError, match="cannot be read or written"):
            machine.cluster.launch(another)
    assert machine.observe(key).phase is Phase.RUNNING
    assert machine.cluster.observe(another.key) is None
    assert machine.run(another).outcome is Outcome.SUCCEEDED


def test_the_attempts_of_another_installation_are_left_alone(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    other = LocalCluster(machine.settings, "other-instance")
    assert other.owned() == frozenset()
    with pytest.raises(ClusterError, match="another installation"):
        other.stop(key)
    with pytest.raises(ClusterError, match="another installation"):
        other.remove(key)
    assert machine.until(key, Phase.RUNNING).phase is Phase.RUNNING


def test_a_portal_on_a_copy_of_the_data_kills_nothing_of_the_original(machine: Machine) -> None:
    key = machine.launch(machine.attempt("echo ready; exec sleep 1000"))
    machine.until_printed(key, b"ready")
    machine.until(key, Phase.RUNNING)
    copy = machine.folder / "copy"
    ignore = shutil.ignore_patterns("control")  # a FIFO cannot be copied
    shutil.copytree(machine.settings.root, copy, ignore=ignore)
    other = LocalCluster(replace(machine.settings, root=copy), INSTANCE)
    observation = other.observe(key)
    assert observation and observation.outcome is Outcome.LOST
    other.remove(key)
    assert len(machine.processes(key)) == 1
    assert machine.observe(key).phase is Phase.RUNNING


def test_what_a_crash_left_of_a_removal_is_taken_away(machine: Machine) -> None:
    rest = machine.settings.root / ".removed-testjobb-a1-1"
    rest.mkdir(parents=True)
    (rest / "rank-0.log").write_text("x")
    machine.cluster.start(lambda: None)
    machine.cluster.close()
    assert not rest.exists()


def test_a_supervisor_that_comes_late_does_nothing(machine: Machine) -> None:
    key = machine.launch(machine.attempt("echo $$ >> began"))
    ended = machine.until(key, Phase.ENDED)
    wait_for(lambda: holder(str(machine.path(key))) is None)
    spawn_supervisor(machine.path(key))
    assert machine.observe(key) == ended
    (machine.path(key) / "exit").unlink()  # as if the first one had been killed
    spawn_supervisor(machine.path(key))
    assert machine.until(key, Phase.ENDED).outcome is Outcome.LOST
    assert times_begun(machine) == 1


def test_a_supervisor_that_finds_the_wish_to_stop_starts_nothing(machine: Machine) -> None:
    machine.worker_killed_at("local.before_spawn", LAUNCH)
    key = machine.attempt().key
    AttemptFolder(machine.settings.root, key).ask_to_stop(INSTANCE)
    spawn_supervisor(machine.path(key))
    assert machine.until(key, Phase.ENDED).reason.text == "It was stopped before it started."
    assert times_begun(machine) == 0


def test_ranks_die_with_their_supervisor(machine: Machine) -> None:
    key = machine.launch(machine.attempt(COUNTED, nodes=2))
    machine.until(key, Phase.RUNNING)
    os.kill(machine.supervisor(key), signal.SIGKILL)
    wait_for(lambda: not machine.processes(key))


def test_one_job_is_placed_at_a_time(machine: Machine) -> None:
    machine.settings.root.mkdir()
    placed = threading.Event()
    attempt = machine.attempt(("sleep", "1000"))

    def launch() -> None:
        machine.launch(attempt)
        placed.set()

    with open(machine.settings.root / PLACING, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another worker is at it
        thread = threading.Thread(target=launch)
        thread.start()
        assert not placed.wait(0.3)
        assert not machine.path(attempt.key).exists()
    thread.join()
    assert placed.is_set()
