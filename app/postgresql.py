"""What only PostgreSQL offers: locks that end with a connection, and notifications. psycopg is loaded where used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from sqlalchemy import make_url

from app.config import Config
from app.database import postgresql_arguments

CHANNEL = "simpletrain_worker"  # on which a committed wish is told
_FAMILY = 0x51A7  # sets our advisory locks apart from those of others in the same database


class Lock(IntEnum):
    """What is held by one at a time in a whole database."""

    WORKER = 1
    SCHEMA = 2


class LineLost(Exception):
    """The server does not answer, or has ended the connection."""


@contextmanager
def _lost() -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise LineLost(str(error).strip().partition("\n")[0]) from error


class Line:
    """One connection outside the pool, for what belongs to a connection and ends with it, however it ends.

    Through a pooler that shares connections between transactions it cannot work: DATABASE_URL names the server itself.
    Every method raises LineLost where the server does not answer.
    """

    def __init__(self, config: Config) -> None:
        import psycopg

        url = make_url(config.database)
        arguments, named = url.get_dialect()().create_connect_args(url)
        with _lost():
            self._connection: psycopg.Connection[Any] = psycopg.connect(
                *arguments, **{**named, **postgresql_arguments(config)}, autocommit=True
            )

    def lock(self, which: Lock, wait: bool = False) -> bool:
        """Take a lock; whether it is held now. It is freed by `close`, or by the end of the process."""
        with _lost():
            if wait:
                self._connection.execute("SET lock_timeout = 0")
                self._connection.execute("SET statement_timeout = 0")
                self._connection.execute("SELECT pg_advisory_lock(%s, %s)", (_FAMILY, int(which)))
                return True
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_FAMILY, int(which))).fetchone()
            return bool(row and row[0])

    def listen(self) -> None:
        with _lost():
            self._connection.execute(f"LISTEN {CHANNEL}")

    def heard(self) -> bool:
        """Whether something was told since the last call. Does not wait."""
        with _lost():
            return bool(list(self._connection.notifies(timeout=0)))

    def fileno(self) -> int:
        """Readable when something was told, or when the connection was lost."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()
