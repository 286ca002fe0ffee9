"""Runs migrations on the application's own engine. Alembic calls this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from flask import current_app

from app.database import Moment, db


def write_type(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Types of the application as plain ones: an applied migration must not change when the application does."""
    if kind == "type" and isinstance(item, Moment):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"
    return False


def run() -> None:
    given: sa.Connection | None = context.config.attributes.get("connection")
    if given is not None:  # another transaction's, which it is part of
        migrate(given)
        return
    with db.engine.connect() as connection, _references_left_alone(connection):
        migrate(connection)


@contextmanager
def _references_left_alone(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by copying it and dropping the old one, and would drop what refers to its rows as well."""
    if connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA foreign_keys = OFF")  # has no effect inside a transaction
    try:
        yield
    finally:
        broken = raw.execute("PRAGMA foreign_key_check").fetchall()
        raw.execute("PRAGMA foreign_keys = ON")
    if broken:
        raise RuntimeError(f"rows refer to what is not there: {broken[:5]}")


def migrate(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        render_item=write_type,
        **current_app.extensions["migrate"].configure_args,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # work may take long; waiting for others' locks may not, since everybody else waits behind it
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        context.run_migrations()


if context.is_offline_mode():
    raise RuntimeError("migrations run against a database, not into a file")
run()
