"""One worker at a time. The kernel says who lives, the database says whose turn it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import scoped_session

from app.database import now, transaction
from app.installation.models import WorkerEpoch


class Replaced(Exception):
    """Another worker has taken over: this one must not write any more."""


class Turn:
    """This worker's turn, from the moment when it held the lock. Each turn has a number of its own, the epoch."""

    def __init__(self) -> None:
        with transaction() as session:
            row = session.get_one(WorkerEpoch, 1, with_for_update=True)
            row.epoch += 1
            row.host = socket.gethostname()
            row.seen_at = now()
            self.epoch = row.epoch

    @contextmanager
    def transaction(self) -> Iterator[scoped_session[Any]]:
        """A transaction that only the worker whose turn it is can commit. Raises Replaced.

        The row is read with a lock: a plain comparison inside a later UPDATE would let an old worker write after a
        takeover under READ COMMITTED.
        """
        with transaction() as session:
            found = session.execute(
                select(WorkerEpoch.epoch).where(WorkerEpoch.id == 1).with_for_update(read=True)
            ).scalar_one()
            if found != self.epoch:
                raise Replaced(f"epoch {self.epoch} was followed by {found}")
            yield session

    def alive(self) -> None:
        """Tell the pages that a worker works."""
        with self.transaction() as session:
            session.execute(update(WorkerEpoch).where(WorkerEpoch.id == 1).values(seen_at=now()))
