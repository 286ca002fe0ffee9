#!/usr/bin/env python3
"""Trains a small neural network to read handwritten digits, with nothing but Python's standard library.

    python train.py [--epochs N] [--lr X] [--hidden N] [--batch-size N] [--seed N]

Inputs are 64 pixels, outputs are 10 probabilities, between them is one hidden layer. With NNODES > 1 the nodes train
one network together: each works on its share of every batch, and they add up their gradients over TCP, with rank 0 at
MASTER_ADDR:MASTER_PORT in the middle. All nodes then take the same step, so all keep the same weights.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import platform
import random
import signal
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import add, mul
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

DATA = Path(__file__).resolve().parent / "digits.csv.gz"
PIXELS, DIGITS = 64, 10
TEST_SHARE = 0.2
MOMENTUM = 0.9
BAR_STEPS = 5  # how often the progress bar is drawn in an epoch
PATIENCE = 300.0  # seconds that a node waits for another one
BOLD_GREEN, PLAIN = "\033[1;32m", "\033[0m"

Rows = list[list[float]]


class Image(NamedTuple):
    pixels: list[float]  # 0 to 1, row by row, and then a constant 1: its weight is the bias
    digit: int


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)  # at once, so that whoever follows the log sees it now


def load(path: Path) -> list[Image]:
    with gzip.open(path, "rt", encoding="ascii") as lines:
        table = [[int(value) for value in line.split(",")] for line in lines]
    return [Image([value / 16 for value in row[:PIXELS]] + [1.0], row[PIXELS]) for row in table]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    result: float = sum(map(mul, a, b))
    return result


def softmax(scores: list[float]) -> list[float]:
    highest = max(scores)  # subtracted, so that exp() cannot overflow
    powers = [math.exp(score - highest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


class Network:
    """pixels -> hidden, ReLU -> softmax. A row of weights is one neuron; the last weight of a row is its bias."""

    def __init__(self, hidden: int, rng: random.Random) -> None:
        self.hidden = hidden
        # He's initialisation: it keeps the size of the signal from layer to layer
        self.rows: Rows = [[rng.gauss(0, math.sqrt(2 / PIXELS)) for _ in range(PIXELS)] + [0.0] for _ in range(hidden)]
        self.rows += [[rng.gauss(0, math.sqrt(2 / hidden)) for _ in range(hidden)] + [0.0] for _ in range(DIGITS)]
        self.velocity = self.zeros()

    def zeros(self) -> Rows:
        return [[0.0] * len(row) for row in self.rows]

    def forward(self, pixels: list[float]) -> tuple[list[float], list[float]]:
        """The hidden layer's activations (with the constant 1) and the probability of each digit."""
        active = [max(0.0, dot(row, pixels)) for row in self.rows[: self.hidden]] + [1.0]
        return active, softmax([dot(row, active) for row in self.rows[self.hidden :]])

    def backward(self, image: Image, gradient: Rows) -> float:
        """Add one image's gradient to `gradient`; the image's loss."""
        active, probabilities = self.forward(image.pixels)
        errors = [p - (digit == image.digit) for digit, p in enumerate(probabilities)]
        back = [0.0] * self.hidden  # the errors, carried back to the hidden layer
        for index, error in enumerate(errors, start=self.hidden):
            gradient[index] = [g + error * a for g, a in zip(gradient[index], active, strict=True)]
            back = [b + error * w for b, w in zip(back, self.rows[index], strict=False)]  # all weights but the bias
        for index, error in enumerate(back):
            if active[index] > 0:  # ReLU passes nothing back to a neuron that was off
                gradient[index] = [g + error * p for g, p in zip(gradient[index], image.pixels, strict=True)]
        return -math.log(max(probabilities[image.digit], 1e-12))

    def step(self, gradient: Rows, rate: float) -> None:
        """Stochastic gradient descent with momentum."""
        for index, slope in enumerate(gradient):
            speed = [MOMENTUM * v - rate * g for v, g in zip(self.velocity[index], slope, strict=True)]
            self.velocity[index] = speed
            self.rows[index] = [w + v for w, v in zip(self.rows[index], speed, strict=True)]


class Group:
    """The nodes of this job, which add up their numbers. A single node is a group too: it has nobody to talk to."""

    HELLO = struct.Struct("!8sI")  # who connects says that it belongs here, and its rank
    MAGIC = b"digits/1"

    def __init__(self, rank: int, size: int, address: str, port: int) -> None:
        self.rank, self.size = rank, size
        self.peers: dict[int, socket.socket] = {}  # rank 0 has all the others, the others have rank 0
        if size > 1 and rank == 0:
            self._gather("127.0.0.1" if address in ("127.0.0.1", "localhost") else "", port)
        elif size > 1:
            self._join(address, port)
        for peer in self.peers.values():
            peer.settimeout(PATIENCE)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # every message is waited for

    def _gather(self, host: str, port: int) -> None:
        with socket.create_server((host, port)) as server:
            server.settimeout(PATIENCE)
            while len(self.peers) < self.size - 1:
                peer, _ = server.accept()
                peer.settimeout(5)
                try:
                    magic, rank = self.HELLO.unpack(self._receive(peer, self.HELLO.size))
                except OSError:  # a health check or a port scan, which says nothing
                    magic, rank = b"", 0
                if magic == self.MAGIC and 0 < rank < self.size and rank not in self.peers:
                    self.peers[rank] = peer
                else:
                    peer.close()

    def _join(self, address: str, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.peers:
            try:
                self.peers[0] = socket.create_connection((address, port), timeout=5)
            except OSError:  # rank 0 is not up yet, or its name is not known yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.peers[0].sendall(self.HELLO.pack(self.MAGIC, self.rank))

    @staticmethod
    def _receive(peer: socket.socket, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not (piece := peer.recv(size - len(data))):
                raise ConnectionError("another node has closed its connection")
            data += piece
        return bytes(data)

    def total(self, rows: Rows) -> Rows:
        """Element by element the sum over all nodes, on each node the same to the last bit."""
        if self.size == 1:
            return rows
        sums = array("d", [value for row in rows for value in row])
        size = len(sums) * sums.itemsize
        if self.rank == 0:
            for _, peer in sorted(self.peers.items()):
                sums = array("d", map(add, sums, array("d", self._receive(peer, size))))
        for peer in self.peers.values():
            peer.sendall(sums.tobytes())
        if self.rank > 0:
            sums = array("d", self._receive(self.peers[0], size))
        values = iter(sums)
        return [[next(values) for _ in row] for row in rows]


def train_epoch(
    network: Network, images: list[Image], batch_size: int, rate: float, group: Group, progress: Callable[[float], None]
) -> float:
    """One pass over all images; the mean loss. Each node takes every size-th image of a batch."""
    loss_sum = 0.0
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        gradient = network.zeros()
        loss = sum(network.backward(image, gradient) for image in batch[group.rank :: group.size])
        *gradient, [loss] = group.total([*gradient, [loss]])
        network.step(gradient, rate / len(batch))
        loss_sum += loss
        progress((start + len(batch)) / len(images))
    return loss_sum / len(images)


def confusion(network: Network, images: list[Image], group: Group) -> Rows:
    """How often (column) each digit (row) was read as which; the nodes share the work."""
    counts = [[0.0] * DIGITS for _ in range(DIGITS)]
    for image in images[group.rank :: group.size]:
        _, probabilities = network.forward(image.pixels)
        counts[image.digit][probabilities.index(max(probabilities))] += 1
    return group.total(counts)


def accuracy(counts: Rows) -> float:
    return sum(counts[digit][digit] for digit in range(DIGITS)) / sum(map(sum, counts))


def progress_bar() -> Callable[[float], None]:
    """Draws over itself with a carriage return, a handful of times, and ends its line when done."""
    drawn = 0

    def draw(done: float) -> None:
        nonlocal drawn
        if int(done * BAR_STEPS) > drawn:
            drawn = int(done * BAR_STEPS)
            filled = 20 * drawn // BAR_STEPS
            say(f"\r  [{'#' * filled:.<20}] {100 * drawn // BAR_STEPS:3d} %", end="\n" if drawn == BAR_STEPS else "")

    return draw


def summarise(counts: Rows) -> None:
    mistakes = [(int(n), d, r) for d, row in enumerate(counts) for r, n in enumerate(row) if n and d != r]
    say(f"{sum(n for n, _, _ in mistakes)} of {int(sum(map(sum, counts)))} test images were read wrong.")
    for n, digit, read in sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))[:5]:
        say(f"  {digit} was read as {read}: {n} time{'s' if n > 1 else ''}")


class Stopped(BaseException):
    """Someone asked us to end. Not an Exception: no handler of errors may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # once is enough
    raise Stopped(number)


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def positive_real(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise ValueError
    return value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small neural network to read handwritten digits.")
    parser.add_argument("--epochs", type=positive, default=20, help="passes over the training images")
    parser.add_argument("--lr", type=positive_real, default=0.02, help="learning rate")
    parser.add_argument("--hidden", type=positive, default=160, help="neurons in the hidden layer")
    parser.add_argument("--batch-size", type=positive, default=16, help="images per step, over all nodes")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same result")
    return parser.parse_args()


def train(options: argparse.Namespace) -> Iterator[int]:
    """Do all of it; yields each epoch's number when that epoch is done, before its line is printed."""
    rank, nodes = int(os.environ.get("NODE_RANK", "0")), int(os.environ.get("NNODES", "1"))
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    rng = random.Random(options.seed)  # the same on every node: same split, same order, same first weights
    images = load(DATA)
    rng.shuffle(images)
    tests = round(len(images) * TEST_SHARE)
    test, training = images[:tests], images[tests:]

    say(f"Training a {PIXELS}-{options.hidden}-{DIGITS} network to read handwritten digits, in plain Python.")
    say(f"python={platform.python_version()} data={DATA.name} train={len(training)} test={len(test)}")
    say(f"epochs={options.epochs} lr={options.lr} batch_size={options.batch_size} seed={options.seed}")
    if nodes > 1:
        say(f"rank={rank} nodes={nodes} meeting at {address}:{port}")
    group = Group(rank, nodes, address, port)

    network = Network(options.hidden, rng)
    started = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        epoch_started = time.monotonic()
        rng.shuffle(training)
        loss = train_epoch(network, training, options.batch_size, options.lr, group, progress_bar())
        counts = confusion(network, test, group)
        took = time.monotonic() - epoch_started
        yield epoch
        say(f"epoch={epoch}/{options.epochs} loss={loss:.4f} acc={accuracy(counts):.4f} time={took:.1f}s")

    summarise(counts)
    took = time.monotonic() - started
    say(f"{BOLD_GREEN}Done in {took:.1f} s: {accuracy(counts):.2%} of the test images were read right.{PLAIN}")


def main() -> int:
    options, epoch = arguments(), 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        for finished in train(options):
            epoch = finished
    except Stopped as stopped:
        say(f"\n{stopped} came: stopping. The last finished epoch is {epoch}/{options.epochs}.")
        return 128 + stopped.number
    except OSError as error:
        say(f"\nThis failed, and training ends: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
