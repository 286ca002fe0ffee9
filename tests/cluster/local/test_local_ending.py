"""How a job ended, and that nothing of it lives on."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from app.cluster.local.watch import Watch
from app.cluster.protocol import Code, Outcome, Phase
from tests.cluster.local.machine import Machine

# A grandchild that a group kill does not reach; the shell goes on when it is there.
SETSID = "setsid sh -c 'echo here; touch here; exec sleep 1000' & until [ -e here ]; do sleep 0.01; done; "


def test_success_has_code_0_and_times(machine: Machine) -> None:
    ended = machine.run(machine.attempt("true"))
    assert (ended.phase, ended.outcome, ended.exit_code) == (Phase.ENDED, Outcome.SUCCEEDED, 0)
    assert ended.started_at and ended.finished_at and ended.started_at <= ended.finished_at
    assert [rank.exit_code for rank in ended.ranks] == [0]


@pytest.mark.parametrize(
    ("command", "code", "reason", "text"),
    [
        ("exit 3", 3, Code.EXIT_CODE, "It ended with exit code 3."),
        ("no-such-command 2>&-", 127, Code.EXIT_CODE, "It ended with exit code 127 (a command was not found)."),
        ("kill -SEGV $$", 139, Code.SIGNAL, "It crashed with a bad memory access (signal 11, SIGSEGV)."),
        ("kill -TERM $$", 143, Code.SIGNAL, "It was ended (signal 15, SIGTERM)."),
        (
            "kill -KILL $$",
            137,
            Code.SIGNAL,
            "It was killed from outside (signal 9); often that is the system running out of memory.",
        ),
    ],
)
def test_failure_says_why(machine: Machine, command: str, code: int, reason: Code, text: str) -> None:
    ended = machine.run(machine.attempt(command))
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILED, code)
    assert (ended.reason.code, ended.reason.text) == (reason, text)


def test_a_missing_command_could_not_start(machine: Machine) -> None:
    attempt = machine.attempt(("no-such-command", "x"), nodes=2)
    ended = machine.run(attempt)
    assert (ended.outcome, ended.reason.code) == (Outcome.FAILED, Code.COULD_NOT_START)
    assert ended.reason.text == "The command no-such-command was not found."
    assert ended.started_at is None
    assert machine.output(attempt.key) == b""


def test_a_missing_working_directory_could_not_start(machine: Machine) -> None:
    machine.configure(workdir=machine.folder / "gone")
    ended = machine.run(machine.attempt())
    assert ended.reason.code is Code.COULD_NOT_START
    assert ended.reason.text == f"The folder {machine.folder}/gone cannot be entered: No such file or directory."


def test_a_command_that_cannot_be_passed_on_could_not_start(machine: Machine) -> None:
    ended = machine.run(machine.attempt(("echo", "a\0b")))
    assert (ended.outcome, ended.reason.code) == (Outcome.FAILED, Code.COULD_NOT_START)


def test_a_grandchild_in_its_own_session_does_not_outlive_the_job(machine: Machine) -> None:
    attempt = machine.attempt(SETSID + "exit 0")
    ended = machine.run(attempt)
    assert ended.outcome is Outcome.SUCCEEDED
    assert machine.output(attempt.key) == b"here\n"
    assert machine.processes(attempt.key) == []
    assert [note.text for note in ended.notes] == ["A process that it left behind was killed."]


def test_the_time_limit_ends_it(machine: Machine) -> None:
    attempt = machine.attempt(SETSID + "exec sleep 1000", max_runtime=1)
    ended = machine.run(attempt)
    assert (ended.outcome, ended.reason.code) == (Outcome.FAILED, Code.TIME_LIMIT)
    assert ended.reason.text == "Stopped at its time limit of 1 s."
    assert ended.started_at and ended.finished_at
    assert 1.0 <= (ended.finished_at - ended.started_at).total_seconds() < 5.0
    assert machine.processes(attempt.key) == []


def test_signals_to_the_supervisor_do_not_stop_a_job(machine: Machine) -> None:
    attempt = machine.attempt("read line < go; echo $line")
    os.mkfifo(machine.folder / "go")
    key = machine.launch(attempt)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(machine.supervisor(key), number)
    (machine.folder / "go").write_text("went on\n")
    assert machine.until(key, Phase.ENDED).outcome is Outcome.SUCCEEDED
    assert machine.output(key) == b"went on\n"


def test_a_job_gets_the_usual_signals(machine: Machine) -> None:
    """The supervisor ignores some, and Python others: an ignored signal would be inherited."""
    attempt = machine.attempt(("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"))
    machine.run(attempt)
    masks = [int(line.split()[1], 16) for line in machine.output(attempt.key).splitlines()]
    own = 0b11 << 31  # 32 and 33 are the C library's: whoever started the tests may have left them ignored
    assert [mask & ~own for mask in masks] == [0, 0]


def test_changed_is_called_when_it_ends(machine: Machine) -> None:
    called = threading.Event()
    machine.cluster.start(called.set)
    try:
        key = machine.launch(machine.attempt("sleep 0.3"))
        while machine.observe(key).phase is not Phase.ENDED:
            assert called.wait(10)
            called.clear()
        assert machine.observe(key).outcome is Outcome.SUCCEEDED
    finally:
        machine.cluster.close()


def test_nothing_wakes_up_while_nothing_is_active(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)
    look = Watch._look

    def counted(watch: Watch) -> bool:
        looked.release()
        return look(watch)

    monkeypatch.setattr(Watch, "_look", counted)
    machine.cluster.start(lambda: None)
    try:
        assert not looked.acquire(timeout=1)
        machine.run(machine.attempt())
        assert looked.acquire(timeout=10)
    finally:
        machine.cluster.close()
