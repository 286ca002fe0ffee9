"""How long the web waits for callers. A thread that waits for one caller serves nobody else, so each has an end.

A proxy that buffers whole requests spares the web such waiting; not every portal has one.
"""

from __future__ import annotations

import errno
import math
import socket
from functools import partial
from selectors import EVENT_READ
from time import monotonic
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

# seconds
HEAD = 10.0  # for the head of a request, from its first byte on
BODY = 60.0  # for its body; 4 MiB at most
PAUSE = 10.0  # between two parts of either
ANSWER = 30.0  # until a part of the answer is taken, which is a quarter of a MiB of a log that is downloaded
UNREAD = 5.0  # to let a caller end a body that was refused: until then it reads no answer
UNREAD_BYTES = 64 << 20


class PatientSocket(socket.socket):
    """A caller's connection. One that waits too long seems to have hung up; with a timeout of others' it is theirs."""

    read_until = math.inf

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if self.gettimeout() is not None:
            return super().recv(size, flags)
        left = min(PAUSE, self.read_until - monotonic())
        if left <= 0:
            return b""
        self.settimeout(left)
        try:
            return super().recv(size, flags)
        except TimeoutError:
            return b""
        finally:
            self.settimeout(None)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        if self.gettimeout() is not None:
            return super().sendall(data, flags)
        self.settimeout(ANSWER)
        try:
            return super().sendall(data, flags)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the caller does not take the answer") from None
        finally:
            self.settimeout(None)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread, in which no caller keeps a thread for ever, and one that sends nothing keeps none."""

    def enqueue_req(self, conn: Any) -> None:
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        # a new one: browsers open some that they may need later. gunicorn would wait for it in a thread at first
        conn.sock = PatientSocket(fileno=conn.sock.detach())
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: Any) -> Any:
        conn.sock.read_until = monotonic() + HEAD
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.sock.read_until = monotonic() + BODY
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        ended = conn.parser.finish_body(deadline=monotonic() + UNREAD, max_bytes=UNREAD_BYTES)
        return bool(keepalive and ended)

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:  # they have sent nothing, and a stop does not wait for them either
            conn.timeout = min(conn.timeout, deadline)
