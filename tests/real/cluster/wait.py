"""Wait for something with an end to the patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.real.cluster.errors import ClusterError, Refused

T = TypeVar("T")


def eventually(what: str, question: Callable[[], T], seconds: float = 60, pause: float = 0.05) -> T:
    """Ask until the answer is true in Python's sense, and return it. An OSError is a no; so is a refusal."""
    end = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            answer = question()
        except (OSError, Refused) as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() > end:
            raise ClusterError(f"Not within {seconds:.0f} s: {what}. Last seen: {last!r}")
        time.sleep(pause)
