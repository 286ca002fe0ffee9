"""What a job prints arrives byte for byte, once, and is known to be complete."""

from __future__ import annotations

from app.cluster.protocol import AttemptKey, Outcome, Phase
from tests.cluster.local.machine import Machine, wait_for


def test_output_is_byte_exact(machine: Machine) -> None:
    printed = b"\xff\xfe bad\x00 utf-8\r10%\r20%\r\n\n\xe2\x82 no newline at the end"
    octal = "".join(f"\\{byte:03o}" for byte in printed)
    attempt = machine.attempt(("printf", octal))
    assert machine.run(attempt).outcome is Outcome.SUCCEEDED
    assert machine.output(attempt.key) == printed


def test_both_streams_are_one_in_order(machine: Machine) -> None:
    attempt = machine.attempt("echo one; echo two >&2; echo three")
    machine.run(attempt)
    assert machine.output(attempt.key) == b"one\ntwo\nthree\n"


def test_an_argv_is_passed_byte_for_byte(machine: Machine) -> None:
    attempt = machine.attempt(("printf", "<%s>", "a b", "$HOME", "", "ü\n", "*"))
    machine.run(attempt)
    assert machine.output(attempt.key) == "<a b><$HOME><><ü\n><*>".encode()


def test_a_cursor_goes_on_where_the_piece_ended(machine: Machine) -> None:
    attempt = machine.attempt("printf 0123456789")
    machine.run(attempt)
    first = machine.cluster.open_log(attempt.key, 0, "").read(4)
    assert first is not None and (first.data, first.complete) == (b"0123", False)
    rest = machine.cluster.open_log(attempt.key, 0, first.cursor).read(100)
    assert rest is not None and (rest.data, rest.complete) == (b"456789", True)
    again = machine.cluster.open_log(attempt.key, 0, rest.cursor).read(100)
    assert again is not None and (again.data, again.complete) == (b"", True)


def test_reading_a_running_job_does_not_wait(machine: Machine) -> None:
    key = machine.launch(machine.attempt("echo first; exec sleep 1000"))
    source = machine.cluster.open_log(key, 0, "")
    first = wait_for(lambda: source.read(100))
    assert (first.data, first.complete) == (b"first\n", False)
    assert source.read(100) is None
    machine.cluster.stop(key)
    machine.until(key, Phase.ENDED)
    last = source.read(100)
    assert last is not None and (last.data, last.complete) == (b"", True)
    source.close()


def test_output_of_an_unknown_attempt_is_complete_and_empty(machine: Machine) -> None:
    piece = machine.cluster.open_log(AttemptKey("neverwas", 1), 0, "").read(100)
    assert piece is not None and (piece.data, piece.complete) == (b"", True)
