"""A wish rings at the worker's door; a lost ring costs time and nothing else."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import wake
from app.worker.place import Place, take
from tests.conftest import Portal, on_postgresql, on_sqlite


@pytest.fixture
def place(portal: Portal) -> Iterator[Place]:
    with take(portal.config) as taken:
        yield taken


def until_rung(place: Place) -> None:
    """A notification crosses a socket: it is waited for."""
    deadline = time.monotonic() + 20
    while not place.wait(0.1):
        assert time.monotonic() < deadline, "nobody rang"


def test_a_launch_and_a_stop_ring(portal: Portal, place: Place) -> None:
    place.wait(0)
    assert not place.wait(0)
    portal.launch("one")
    until_rung(place)
    assert not place.wait(0), "once"
    portal.api("bob").delete("/api/jobs/one")
    until_rung(place)


@on_sqlite
def test_a_refused_launch_does_not_ring_the_bell(portal: Portal) -> None:
    alarm = wake.Alarm(wake.pipe_of(portal.config.data_dir))
    try:
        answer = portal.api("bob").post("/api/jobs", json={"preset": "no-such-preset"})
        assert answer.status_code == 422
        assert not alarm.wait(0)
    finally:
        alarm.close()


@on_postgresql
def test_a_refused_launch_notifies_nobody(portal: Portal, place: Place) -> None:
    answer = portal.api("bob").post("/api/jobs", json={"preset": "no-such-preset"})
    assert answer.status_code == 422
    assert not place.wait(0.2)


def test_without_a_worker_a_launch_is_acknowledged_all_the_same(portal: Portal) -> None:
    portal.launch("never-had-one")
    wake.Alarm(wake.pipe_of(portal.config.data_dir)).close()
    portal.launch("had-one")
    assert portal.job("had-one").state == "queued"


@on_sqlite
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.EMFILE, errno.ENXIO])
def test_a_door_that_cannot_be_reached_is_no_reason_to_deny_a_launch(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = os.open

    def fail(path: object, *arguments: object) -> int:
        if str(path).endswith("worker.wake"):
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(os, "open", fail)
    answer = portal.api("bob").post("/api/jobs", json={"preset": "plain", "command": "true", "name": "one"})
    assert answer.status_code == 201


@on_sqlite
def test_a_worker_that_dies_while_it_is_rung_is_no_reason_to_deny_a_launch(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = wake.Alarm(wake.pipe_of(portal.config.data_dir))
    written = os.write

    def die_first(file: int, data: bytes) -> int:
        alarm.close()
        return written(file, data)

    monkeypatch.setattr(os, "write", die_first)
    answer = portal.api("bob").post("/api/jobs", json={"preset": "plain", "command": "true", "name": "one"})
    assert answer.status_code == 201


def test_rings_without_end_do_not_block_who_rings(tmp_path: Path) -> None:
    def ring() -> None:
        for _ in range(40_000):
            wake.wake(tmp_path / "pipe")

    alarm = wake.Alarm(tmp_path / "pipe")
    try:
        ringers = [threading.Thread(target=ring) for _ in range(2)]
        for ringer in ringers:
            ringer.start()
        for ringer in ringers:
            ringer.join()
        assert alarm.wait(0)
        assert not alarm.wait(0), "however many, they are one"
    finally:
        alarm.close()
