"""Runs migrations on the application's own engine. Alembic calls this."""

from __future__ import annotations

from typing import Literal

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
    with db.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_item=write_type,
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    raise RuntimeError("migrations run against a database, not into a file")
run()
