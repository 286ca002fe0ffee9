"""Few requests think at a time, and nobody is kept out for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from app.gate import Gate

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LONG = 60.0  # seconds


def application(think: Callable[[], object]) -> WSGIApplication:
    def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        think()
        return [b"thought"]

    return wsgi


def ask(gate: Gate) -> list[bytes]:
    def start_response(*_: Any) -> Any:
        raise AssertionError("nothing is sent here")

    return list(gate({}, start_response))


def test_only_so_many_think_at_once() -> None:
    inside: list[int] = []
    most: list[int] = []

    def think() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)  # lets others in, were they let
        inside.pop()

    gate = Gate(application(think), at_once=3, patience=LONG)
    with ThreadPoolExecutor(16) as threads:
        assert set(map(tuple, threads.map(lambda _: ask(gate), range(300)))) == {(b"thought",)}
    assert max(most) == 3


def test_nobody_waits_long_for_those_that_are_stuck() -> None:
    stuck, ready = threading.Event(), threading.Barrier(3)
    firsts = iter((True, True))

    def think() -> None:
        if next(firsts, False):
            ready.wait(LONG)
            stuck.wait(LONG)

    gate = Gate(application(think), at_once=2, patience=0.01)
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(ask, gate) for _ in range(2)]
        ready.wait(LONG)
        try:
            assert [ask(gate) for _ in range(3)] == [[b"thought"]] * 3
            assert not any(each.done() for each in slow)
        finally:
            stuck.set()
    assert ask(gate) == [b"thought"]


def test_whoever_fails_leaves_too() -> None:
    def think() -> None:
        raise ZeroDivisionError

    gate = Gate(application(think), at_once=1, patience=LONG)
    for _ in range(3):
        try:
            ask(gate)
        except ZeroDivisionError:
            continue
        raise AssertionError("it did not fail")
