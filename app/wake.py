"""Tells the worker that a new wish was committed, so that it need not wait for its next look.

On PostgreSQL a notification does, which the server sends with the commit itself, to a worker on any host. On SQLite a
named pipe in DATA_DIR carries it: unlike a socket it has no limit on the length of its path, a writer learns at
once that nobody reads, and a full pipe means that the worker has not woken yet. Losing a wake-up only costs time: the
worker also looks by itself.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Any, Protocol

from flask import Flask, current_app
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from app.database import db
from app.postgresql import CHANNEL

_MARK = "wake the worker"


def pipe_of(data_dir: Path) -> Path:
    return data_dir / "worker.wake"


def after_commit() -> None:
    """Wake the worker when the transaction that is open now has been committed."""
    session = db.session()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"NOTIFY {CHANNEL}"))
    else:
        session.info[_MARK] = current_app.extensions[_MARK]


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


class Ear(Protocol):
    """Another way in which the worker may be told."""

    def fileno(self) -> int: ...
    def heard(self) -> bool: ...


class Alarm:
    """The worker's end of the pipe, and of a line to PostgreSQL where there is one."""

    def __init__(self, pipe: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(pipe, 0o600)
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # keeps the pipe from ending; rings from inside

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"w")

    def wait(self, seconds: float, ear: Ear | None = None) -> bool:
        """Whether somebody rang; at the latest after so many seconds. Raises what `ear` raises when it is lost."""
        ready: tuple[list[Any], Any, Any] = select.select(
            [self._reader, *([ear] if ear is not None else [])], [], [], seconds
        )
        rung = False
        if self._reader in ready[0]:
            rung = True
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._reader, 4096)) == 4096:
                    pass
        if ear is not None and ear in ready[0]:
            rung = ear.heard() or rung
        return rung

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
