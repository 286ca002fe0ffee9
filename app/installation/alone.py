"""Has the installation for one command alone, and makes sure that no half of a restore is ever started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.config import Config
from app.database import db, sqlite_file, sqlite_module
from app.installation.service import NotReady, Taken, locked
from app.postgresql import Line, LineLost, Lock

BUSY = 2.0  # seconds that others have to let go of a SQLite database


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """Keep every process of the portal out. Raises NotReady while one runs."""
    folder = config.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as held:
            for name in ("serve.lock", "worker.lock", "prepare.lock"):
                held.enter_context(locked(folder / name))
            if config.sqlite:
                _nobody_has_the_file(config)
            else:
                _nobody_is_connected()
                held.enter_context(_worker_place(config))
            yield
    except Taken as error:
        raise NotReady(f"The portal runs on {folder.absolute()}. Stop it first.") from error
    except OSError as error:
        raise NotReady(f"DATA_DIR: {folder.absolute()} cannot be used ({error.strerror}).") from error


def _nobody_has_the_file(config: Config) -> None:
    """Leaves no write-ahead log behind: the file alone is the whole database then."""
    db.session.remove()
    db.engine.dispose()
    path = sqlite_file(config.database)
    if path is None or not path.exists():
        return
    module = sqlite_module()
    connection = module.connect(str(path), timeout=BUSY)
    try:
        # only the last connection may leave the mode in which all processes of the portal work
        connection.execute("PRAGMA journal_mode = DELETE")
    except module.OperationalError as error:
        raise NotReady(f"The portal, or another program, has {path} open ({error}). Stop it first.") from error
    except module.DatabaseError as error:
        raise NotReady(f"{path} is no database that can be read ({error}). Move it away.") from error
    finally:
        connection.close()


def _nobody_is_connected() -> None:
    db.session.remove()
    db.engine.dispose()
    try:
        with db.engine.connect() as connection:
            found = connection.execute(
                text(
                    "SELECT coalesce(nullif(application_name, ''), 'a program without a name') || "
                    "coalesce(' at ' || host(client_addr), '') "
                    "FROM pg_stat_activity WHERE datname = current_database() "
                    "AND usename = current_user AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            ).scalars()
            others = sorted(set(found))
    except DBAPIError as error:
        raise NotReady(f"The database does not answer: {first_line(error)}.") from error
    if others:
        raise NotReady(f"The database is in use, by {', '.join(others)}. Stop the portal on every host first.")


@contextmanager
def _worker_place(config: Config) -> Iterator[None]:
    try:
        with contextlib.closing(Line(config)) as line:
            if not line.lock(Lock.WORKER):
                raise Taken("another host's worker")
            yield
    except LineLost as error:
        raise NotReady(f"The database does not answer: {error}.") from error


def first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


def sync_folder(folder: Path) -> None:
    """After this a power cut undoes no rename in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """A file that only its owner may read: all of it or nothing, and for good."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def connect(path: Path) -> Any:
    """A SQLite file outside the pool, in the driver's own words. Every statement is its own transaction."""
    return sqlite_module().connect(str(path), isolation_level=None)
