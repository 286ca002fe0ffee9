"""The example that the portal's first run launches: run as a user would, from another folder."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
EPOCH = re.compile(r"^epoch=(\d+)/(\d+) loss=(\d+\.\d{4}) acc=([01]\.\d{4}) time=\d+\.\ds$", re.MULTILINE)
QUICK = ("--hidden", "8", "--epochs", "3")
ENDLESS = ("--hidden", "8", "--epochs", "100000")

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(DIGITS / "train.py"), *options],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def epochs(output: str) -> list[tuple[str, ...]]:
    """Number, of how many, loss and accuracy of each epoch."""
    return [match.groups() for match in EPOCH.finditer(output)]


def wait_for(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(start):
            return
    pytest.fail(f"no line starts with {start!r} in:\n{''.join(seen)}")


@pytest.fixture
def meeting() -> dict[str, str]:
    """The environment of nodes that meet at a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


def test_prints_what_it_does_then_a_line_an_epoch_then_a_summary(launch: Launch) -> None:
    output = finish(launch(*QUICK, "--seed", "7"))

    lines = output.splitlines()
    assert lines[0] == "Training a 64-8-10 network to read handwritten digits, in plain Python."
    assert f"python={sys.version.split()[0]} data=digits.csv.gz train=1438 test=359" in lines
    assert "epochs=3 lr=0.02 batch_size=16 seed=7" in lines
    assert [(number, of) for number, of, _, _ in epochs(output)] == [("1", "3"), ("2", "3"), ("3", "3")]
    assert re.search(r"^\d+ of 359 test images were read wrong\.\n  \d was read as \d: \d+ times?$", output, re.M)
    assert re.fullmatch(r"\x1b\[1;32mDone in .* s: .*% of the test images were read right\.\x1b\[0m", lines[-1])


def test_it_learns(launch: Launch) -> None:
    _, _, losses, accuracies = zip(*epochs(finish(launch("--hidden", "12", "--epochs", "5"))), strict=True)

    assert float(losses[-1]) < 0.5 * float(losses[0])
    assert float(accuracies[-1]) > 0.9
    assert float(accuracies[-1]) > float(accuracies[0])


def test_a_seed_decides_the_result(launch: Launch) -> None:
    first, again, other = (launch(*QUICK, "--seed", seed) for seed in ("1", "1", "2"))

    result = epochs(finish(first))
    assert epochs(finish(again)) == result
    assert epochs(finish(other)) != result


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_stops_it(launch: Launch, number: signal.Signals, name: str) -> None:
    process = launch(*ENDLESS)
    wait_for(process, "epoch=2/")

    process.send_signal(number)

    output, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    printed = max([2, *(int(epoch) for epoch, *_ in epochs(output))])
    told = re.search(rf"^{name} came: stopping\. The last finished epoch is (\d+)/100000\.\n\Z", output, re.M)
    assert told is not None, output
    assert int(told[1]) - printed in (0, 1)  # 1: it was done, and its line was about to be printed


def test_a_bad_option_is_refused(launch: Launch) -> None:
    process = launch("--epochs", "0")

    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "argument --epochs: invalid positive value: '0'" in output


def test_nodes_train_one_network_together(launch: Launch, meeting: dict[str, str]) -> None:
    alone = epochs(finish(launch(*QUICK)))

    nodes = [launch(*QUICK, NNODES="3", NODE_RANK=str(rank), **meeting) for rank in range(3)]
    outputs = [finish(node) for node in nodes]

    for rank, output in enumerate(outputs):
        assert f"\nrank={rank} nodes=3 meeting at 127.0.0.1:" in output
        assert epochs(output) == epochs(outputs[0])
    for (_, _, loss, accuracy), (_, _, loss_alone, accuracy_alone) in zip(epochs(outputs[0]), alone, strict=True):
        assert float(loss) == pytest.approx(float(loss_alone), abs=0.001)  # only the order of the sums differs
        assert float(accuracy) == pytest.approx(float(accuracy_alone), abs=0.01)


def test_a_lost_node_ends_the_others(launch: Launch, meeting: dict[str, str]) -> None:
    nodes = [launch(*ENDLESS, NNODES="3", NODE_RANK=str(rank), **meeting) for rank in range(3)]
    wait_for(nodes[0], "epoch=1/")

    nodes[1].kill()

    for node in (nodes[0], nodes[2]):
        output, _ = node.communicate(timeout=20)
        assert node.returncode == 1
        assert "\nThis failed, and training ends: " in output


def test_a_stranger_is_not_taken_for_a_node(launch: Launch, meeting: dict[str, str]) -> None:
    first = launch(*QUICK, NNODES="2", NODE_RANK="0", **meeting)
    wait_for(first, "rank=0 nodes=2 meeting at")
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        with connected(int(meeting["MASTER_PORT"])) as stranger:
            stranger.sendall(greeting)

    second = launch(*QUICK, NNODES="2", NODE_RANK="1", **meeting)

    assert len(epochs(finish(second))) == 3
    assert len(epochs(finish(first))) == 3


def connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:  # the node says where it meets just before it listens there
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def test_the_data_is_what_its_description_says() -> None:
    described = re.search(r"sha256:\*\* `([0-9a-f]{64})`", (DIGITS / "DATA.md").read_text())

    assert described is not None
    assert hashlib.sha256((DIGITS / "digits.csv.gz").read_bytes()).hexdigest() == described[1]


def test_the_preset_runs_it() -> None:
    preset = yaml.safe_load((DIGITS / "preset.yaml").read_text())

    assert preset["name"] == "digits"
    assert preset["command"] == 'python "$SIMPLETRAIN_EXAMPLES/digits/train.py" --epochs 20'
    assert preset["clusters"] == ["this-machine"]
