"""Several ranks: they find each other, end together, and the first that failed is named."""

from __future__ import annotations

import pytest

from app.cluster.protocol import Code, Outcome, Phase
from tests.cluster.local.machine import Machine

RENDEZVOUS = """
import os, socket, time
rank, nodes = int(os.environ["NODE_RANK"]), int(os.environ["NNODES"])
assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(rank), str(nodes))
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(address) as server:
        others = [server.accept()[0] for _ in range(nodes - 1)]
        met = sorted(other.recv(1)[0] for other in others)
        for other in others:
            other.sendall(bytes(met))
else:
    while True:
        try:
            connection = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    connection.sendall(bytes([rank]))
    met = sorted(connection.recv(100))
print(f"rank {rank} met {met}")
"""


@pytest.mark.parametrize("nodes", [2, 4])
def test_ranks_meet_at_the_master_port(machine: Machine, nodes: int) -> None:
    attempt = machine.attempt(("python", "-c", RENDEZVOUS), nodes=nodes)
    ended = machine.run(attempt)
    outputs = [machine.output(attempt.key, rank).decode() for rank in range(nodes)]
    assert outputs == [f"rank {rank} met {list(range(1, nodes))}\n" for rank in range(nodes)]
    assert (ended.outcome, ended.exit_code) == (Outcome.SUCCEEDED, 0)
    assert [rank.exit_code for rank in ended.ranks] == [0] * nodes


def test_the_first_rank_that_fails_ends_the_others_and_is_named(machine: Machine) -> None:
    waits = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done"
    attempt = machine.attempt(f"[ $NODE_RANK != 2 ] || {{ sleep 0.3; exit 7; }}; {waits}", nodes=4)
    ended = machine.run(attempt)
    assert (ended.outcome, ended.exit_code, ended.reason.code) == (Outcome.FAILED, 7, Code.EXIT_CODE)
    assert ended.reason.text == "Rank 2 ended first, with exit code 7; the other 3 were stopped."
    assert all(machine.output(attempt.key, rank).endswith(b"asked\n") for rank in (0, 1, 3))
    assert machine.processes(attempt.key) == []


def test_it_runs_on_while_one_rank_is_done(machine: Machine) -> None:
    attempt = machine.attempt("[ $NODE_RANK = 0 ] || { sleep 0.5; echo late; }", nodes=2)
    ended = machine.run(attempt)
    assert ended.outcome is Outcome.SUCCEEDED
    assert machine.output(attempt.key, 1) == b"late\n"


def test_a_stop_reaches_every_rank(machine: Machine) -> None:
    key = machine.launch(machine.attempt(("sleep", "1000"), nodes=3))
    running = machine.until(key, Phase.RUNNING)
    assert [rank.rank for rank in running.ranks] == [0, 1, 2]
    assert len(machine.processes(key)) == 3
    machine.cluster.stop(key)
    ended = machine.until(key, Phase.ENDED)
    assert ended.outcome is Outcome.STOPPED
    assert [rank.exit_code for rank in ended.ranks] == [143] * 3
    assert machine.processes(key) == []
