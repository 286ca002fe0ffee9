"""Few requests think at a time, however many threads there are to wait for callers.

Threads of one Python process take turns. Each time that one asks the database or writes to a socket it lets go of its
turn, and with sixteen of them ready to run it comes back to the end of a queue, at the price of a switch. With 200
people on a job page a poll took twice the processor time as soon as all threads were busy, and so they stayed busy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

AT_ONCE = 2
PATIENCE = 0.1  # seconds; whoever waited so long goes in: those inside wait for something themselves


class Gate:
    """Goes around an application. What it gives back is sent outside: a slow reader keeps nobody out."""

    def __init__(self, wsgi: WSGIApplication, at_once: int = AT_ONCE, patience: float = PATIENCE) -> None:
        self._wsgi = wsgi
        self._free = threading.Semaphore(at_once)
        self._patience = patience

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        entered = self._free.acquire(timeout=self._patience)
        try:
            return self._wsgi(environ, start_response)
        finally:
            if entered:
                self._free.release()
