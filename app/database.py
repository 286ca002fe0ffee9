"""How tables are declared and transactions are made, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import select
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, Connection, DateTime, Dialect, Engine, Enum, Integer, MetaData, event
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session
from sqlalchemy.types import TypeDecorator

from app.config import Config, ConfigError

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER key


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base)


class Moment(TypeDecorator[datetime]):
    """A time with its zone, always UTC. SQLite has no zones, so they are taken off and put on at the border."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without its zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def word(kind: type[StrEnum]) -> Enum:
    """A column type for one of few words, kept as the word itself."""
    return Enum(kind, native_enum=False, length=24, values_callable=lambda e: [m.value for m in e])


def now() -> datetime:
    return datetime.now(UTC)


_immediate: ContextVar[bool] = ContextVar("immediate", default=False)


@contextmanager
def transaction() -> Iterator[scoped_session[Any]]:
    """One transaction that writes: committed at the end, undone if anything is raised in it.

    SQLite lets one writer in at a time. A transaction that reads first and writes later may find that another wrote
    in between, and then it fails at once, without waiting; so the writer's place is taken at the beginning. What was
    loaded before is read anew inside.
    """
    if _immediate.get():
        raise RuntimeError("a transaction inside a transaction")
    db.session.rollback()
    token = _immediate.set(True)
    try:
        yield db.session
        _commit(db.session())
    except BaseException:
        db.session.rollback()
        raise
    finally:
        _immediate.reset(token)


class CommitUnsure(Exception):
    """The connection was lost while the database committed: whether it did is not known."""


def _commit(session: Session) -> None:
    session.flush()  # whatever fails up to here is certainly not saved
    try:
        session.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise CommitUnsure(str(error.orig)) from error
        raise


def bind(app: Flask) -> None:
    """Give the application its engine. Raises ConfigError for a URL that names no database that can be used."""
    try:
        db.init_app(app)
        with app.app_context():
            prepare_engine(db.engine)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(f"DATABASE_URL cannot be used: {error}.") from error


def engine_options(config: Config) -> dict[str, Any]:
    if config.sqlite:
        return {"module": sqlite_module(), "connect_args": {"timeout": 10, "check_same_thread": False}}
    return {
        # a thread uses one connection at a time; the rest is for the worker, which has a thread for each cluster
        "pool_size": config.web_threads,
        "max_overflow": 8,
        "pool_timeout": 10,  # seconds
        "pool_pre_ping": True,  # a connection that the server has closed is replaced before it is used
        "pool_recycle": 1800,  # seconds
        "connect_args": postgresql_arguments(config),
    }


def postgresql_arguments(config: Config) -> dict[str, Any]:
    """How every connection to PostgreSQL is opened: nothing on it may wait for ever, at either end.

    A worker's host that vanishes takes its lock along within a minute: the server asks its sleeping connections.
    """
    server = {
        "statement_timeout": f"{config.database_timeout}s",
        "lock_timeout": f"{min(10, config.database_timeout)}s",
        "idle_in_transaction_session_timeout": f"{2 * config.database_timeout}s",
        "tcp_keepalives_idle": "20",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "timezone": "UTC",
    }
    return {
        "connect_timeout": 5,
        "application_name": "simpletrain",
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 40_000,  # milliseconds
        "prepare_threshold": None,  # a pooler in between may give each transaction another server process
    }


def prepare_engine(engine: Engine) -> None:
    """Hook up what each database needs for safe and quick use. Called once for each engine."""
    if engine.dialect.name != "sqlite":
        _ask_only_doubtful_connections(engine.dialect)
        return

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions on its own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # with NORMAL a power cut can undo an acknowledged launch
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA busy_timeout = 10000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _immediate.get() else "BEGIN")


def _ask_only_doubtful_connections(dialect: Dialect) -> None:
    """Spare the question to the server that comes before each use of a pooled connection.

    A server that closes a connection says so: its socket can then be read, as it never can while nothing was asked.
    The question also does not find out sooner that a server fell silent; it would wait as the statement after it does.
    """
    ask = dialect.do_ping

    def do_ping(connection: Any) -> bool:
        line = select.poll()
        line.register(connection, select.POLLIN)
        return not line.poll(0) or ask(connection)

    dialect.do_ping = do_ping  # type: ignore[assignment,method-assign]


def sqlite_module() -> ModuleType:
    """The SQLite that this process uses everywhere: two copies of the library on one file undo each other's locks."""
    try:
        from pysqlite3 import dbapi2 as module
    except ImportError:
        module = sqlite3
    version = tuple(int(part) for part in module.sqlite_version.split("."))
    if version < (3, 51, 3) and version not in {(3, 50, 7), (3, 44, 6)}:
        warnings.warn(
            f"SQLite {module.sqlite_version} has a bug that can corrupt the database when it is written by several "
            "processes (fixed in 3.51.3). Install the package pysqlite3, or use PostgreSQL.",
            stacklevel=2,
        )
    return module  # type: ignore[no-any-return]  # two modules of the same shape, one untyped


def sqlite_file(url: str) -> Path | None:
    """The file behind a SQLite URL; None for another database."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
