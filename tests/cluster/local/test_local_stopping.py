"""A stop is never lost, gives time, and leaves nothing."""

from __future__ import annotations

import time

from app.cluster.local.folder import AttemptFolder
from app.cluster.protocol import AttemptKey, Code, Outcome, Phase
from tests.cluster.local.machine import INSTANCE, Machine

# The shell's `sleep` gets the signal too, so the shell may print "Terminated" before it runs the trap.
SAVES = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo ready; while true; do sleep 0.05; done"
IGNORES = "trap '' TERM; echo ready; while true; do sleep 0.05; done"


def test_a_job_has_time_to_save(machine: Machine) -> None:
    key = machine.launch(machine.attempt(SAVES))
    machine.until_printed(key, b"ready")
    machine.cluster.stop(key)
    ended = machine.until(key, Phase.ENDED)
    assert (ended.outcome, ended.reason.text) == (Outcome.STOPPED, "It was stopped.")
    assert machine.output(key).endswith(b"saved\n")


def test_a_child_has_time_to_save_when_its_shell_has_gone(machine: Machine) -> None:
    key = machine.launch(machine.attempt(f'sh -c "{SAVES}" & wait'))
    machine.until_printed(key, b"ready")
    machine.cluster.stop(key)
    machine.until(key, Phase.ENDED)
    assert machine.output(key).endswith(b"saved\n")


def test_one_that_ignores_term_is_killed_after_the_grace(machine: Machine) -> None:
    machine.configure(grace=0.5)
    key = machine.launch(machine.attempt(IGNORES))
    machine.until_printed(key, b"ready")
    began = time.monotonic()
    machine.cluster.stop(key)
    ended = machine.until(key, Phase.ENDED)
    assert 0.5 <= time.monotonic() - began < 5
    assert (ended.outcome, ended.exit_code) == (Outcome.STOPPED, 137)
    assert ended.reason.text == "It was stopped. It did not end by itself within 0.5 s and was killed."
    assert machine.processes(key) == []


def test_it_says_that_it_is_stopping(machine: Machine) -> None:
    key = machine.launch(machine.attempt(IGNORES))
    machine.until_printed(key, b"ready")
    machine.until(key, Phase.RUNNING)
    machine.cluster.stop(key)
    stopping = machine.observe(key)
    assert (stopping.phase, stopping.reason.code) == (Phase.RUNNING, Code.STOPPING)


def test_a_stop_takes_effect_at_once(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    machine.until(key, Phase.RUNNING)
    began = time.monotonic()
    machine.cluster.stop(key)
    machine.until(key, Phase.ENDED)
    assert time.monotonic() - began < 0.8  # the supervisor's own look comes once a second


def test_stopping_again_changes_nothing(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000")))
    for _ in range(3):
        machine.cluster.stop(key)
    ended = machine.until(key, Phase.ENDED)
    machine.cluster.stop(key)
    assert machine.observe(key) == ended


def test_one_that_ended_first_is_not_stopped(machine: Machine) -> None:
    key = machine.launch(machine.attempt("true"))
    ended = machine.until(key, Phase.ENDED)
    machine.cluster.stop(key)
    assert machine.observe(key) == ended
    assert ended.outcome is Outcome.SUCCEEDED


def test_what_was_stopped_before_it_existed_never_starts(machine: Machine) -> None:
    attempt = machine.attempt("echo it ran > proof")
    machine.cluster.stop(attempt.key)
    machine.launch(attempt)
    ended = machine.observe(attempt.key)
    assert (ended.outcome, ended.reason.text) == (Outcome.STOPPED, "It was stopped before it started.")
    assert machine.cluster.owned() == {attempt.key}
    assert not (machine.folder / "proof").exists()


def test_a_wish_that_was_only_written_down_counts(machine: Machine) -> None:
    """The worker died between the file `stop` and everything else, before any supervisor began."""
    attempt = machine.attempt("echo it ran > proof")
    AttemptFolder(machine.settings.root, attempt.key).ask_to_stop(INSTANCE)
    machine.launch(attempt)
    assert machine.observe(attempt.key).outcome is Outcome.STOPPED
    assert not (machine.folder / "proof").exists()


def test_stopping_what_is_not_there_is_harmless(machine: Machine) -> None:
    key = AttemptKey("neverwas", 1)
    machine.cluster.stop(key)
    machine.cluster.remove(key)
    machine.cluster.remove(key)
    assert machine.cluster.observe(key) is None
    assert machine.cluster.owned() == frozenset()
