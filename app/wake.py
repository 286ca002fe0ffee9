"""Tells the worker that a new wish was committed, so that it need not wait for its next look.

A named pipe in DATA_DIR carries it: unlike a socket it has no limit on the length of its path, a writer learns at
once that nobody reads, and a full pipe means that the worker has not woken yet. Losing a wake-up only costs time: the
worker also looks at the database's change counter.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Any

from flask import Flask, current_app
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.database import db

_MARK = "wake the worker"


def pipe_of(data_dir: Path) -> Path:
    return data_dir / "worker.wake"


def after_commit() -> None:
    """Wake the worker when the transaction that is open now has been committed."""
    db.session().info[_MARK] = current_app.extensions[_MARK]


def install(app: Flask) -> None:
    app.extensions[_MARK] = pipe_of(app.config["PORTAL"].data_dir)


@event.listens_for(db.session, "after_commit")
def _committed(session: Session) -> None:
    pipe = session.info.pop(_MARK, None)
    if pipe is not None:
        wake(pipe)


@event.listens_for(db.session, "after_rollback")
def _undone(session: Session) -> None:
    session.info.pop(_MARK, None)


def wake(pipe: Path) -> None:
    """Never fails: what it is called for is committed already, and no trouble here may deny that."""
    with contextlib.suppress(OSError):  # no pipe, nobody who listens, one who dies just now, a full pipe
        writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(writer, b"w")
        finally:
            os.close(writer)


class Alarm:
    """The worker's end of the pipe."""

    def __init__(self, pipe: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(pipe, 0o600)
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # keeps the pipe from ending; rings from inside

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"w")

    def wait(self, seconds: float) -> bool:
        """Whether somebody rang; at the latest after so many seconds."""
        ready: tuple[list[Any], Any, Any] = select.select([self._reader], [], [], seconds)
        if not ready[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reader, 4096)) == 4096:
                pass
        return True

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
