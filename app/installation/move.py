"""Moves a portal from SQLite to PostgreSQL: everything in one transaction there, compared before it is committed.

However it fails or is killed, the target is as empty as before, and the source is only read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, func, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from app.cluster.faults import fault
from app.config import Config
from app.database import Base, db, postgresql_arguments
from app.installation import service
from app.installation.alone import alone, first_line
from app.installation.service import NotReady
from app.postgresql import Line, LineLost, Lock

ROWS = 1000  # rows that are sent together
LARGE_ROWS = 50  # of a table with bytes in it: a piece of a log has up to 256 KiB
TOLD = 100_000  # rows between signs of life
REVISIONS = "alembic_version"


@dataclass(frozen=True, slots=True)
class Moved:
    tables: int
    rows: int
    replaced: int  # texts that had a NUL in them
    shown: str  # the target's address without its password


def move(config: Config, url: str, say: Callable[[str], object]) -> Moved:
    """Raises NotReady, with nothing left on the target."""
    if not config.sqlite:
        raise NotReady("DATABASE_URL names PostgreSQL already: there is nothing to move from.")
    target = replace(config, database_url=url)
    try:
        if target.sqlite or make_url(target.database).get_backend_name() != "postgresql":
            raise ArgumentError
    except ArgumentError:
        raise NotReady("The target must look like postgresql://user:password@host/name.") from None
    service.verify()
    try:
        # a portal that is started on the target meanwhile waits, and finds everything there
        with alone(config), closing(Line(target)) as line:
            line.lock(Lock.SCHEMA, wait=True)
            return _move(target, say)
    except LineLost as error:
        raise NotReady(f"The target does not answer: {error}.") from error
    except DBAPIError as error:
        raise NotReady(f"Nothing was moved: {first_line(error)}.") from error
    finally:
        db.session.remove()
        db.engine.dispose()


def _move(target: Config, say: Callable[[str], object]) -> Moved:
    engine = create_engine(target.database, connect_args=postgresql_arguments(target))
    try:
        with db.engine.connect() as source, _open(engine) as out, out.begin():
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                out.execute(text(f"SET LOCAL {name} = 0"))
            tables = _tables(source)
            _make_schema(out, tables)
            fault("move.after_schema")
            rows = replaced = 0
            for table in tables:
                count, dirty = _copy(source, out, table, say)
                say(f"{table.name}: {count:,}")
                rows, replaced = rows + count, replaced + dirty
            fault("move.before_commit")
        service.tidy(engine)
    finally:
        engine.dispose()
    shown = make_url(target.database).set(drivername="postgresql").render_as_string(hide_password=True)
    return Moved(len(tables), rows, replaced, shown)


def _open(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except DBAPIError as error:
        raise NotReady(f"The target does not answer: {first_line(error)}.") from error


def _tables(source: Connection) -> list[Table]:
    """All tables, each behind those that it points at. What this version does not know is not left behind silently."""
    known = {table.name for table in Base.metadata.sorted_tables}
    if strange := set(inspect(source).get_table_names()) - known - {REVISIONS}:
        raise NotReady(f"The database has tables that SimpleTrain did not make: {', '.join(sorted(strange))}.")
    return list(Base.metadata.sorted_tables)


def _make_schema(out: Connection, tables: list[Table]) -> None:
    found = set(inspect(out).get_table_names())
    if found:
        wrong = found != {table.name for table in tables} | {REVISIONS} or any(
            out.execute(select(1).select_from(table).limit(1)).first() for table in tables
        )
        revision = None if wrong else out.execute(text(f"SELECT version_num FROM {REVISIONS}")).scalar()  # noqa: S608
        if revision != service.newest_revision():
            raise NotReady(f"There are tables in the target ({', '.join(sorted(found)[:3])}…). Give it an empty one.")
        return
    service.migrate_on(out)


def _copy(source: Connection, out: Connection, table: Table, say: Callable[[str], object]) -> tuple[int, int]:
    """Copy one table and compare what arrived; how many rows, and texts that had to be changed."""
    order = list(table.primary_key.columns)
    large = any(column.type.python_type is bytes for column in table.columns)
    size = LARGE_ROWS if large else ROWS
    query = select(table).order_by(*order).execution_options(yield_per=size, stream_results=True)
    sent, count, replaced = hashlib.sha256(), 0, 0
    rows = iter(source.execute(query).mappings())
    while batch := [dict(row) for row in islice(rows, size)]:
        for row in batch:
            replaced += _clean(row)
            _add(sent, row)
        out.execute(table.insert(), batch)
        count += len(batch)
        if count % TOLD == 0:
            say(f"{table.name}: {count:,} so far")
    _set_sequence(out, table)
    came, arrived = hashlib.sha256(), 0
    for arrival in out.execute(query).mappings():
        _add(came, arrival)
        arrived += 1
    if (arrived, came.digest()) != (count, sent.digest()):
        raise NotReady(f"{table.name} is not the same on the other side ({count} rows here, {arrived} there).")
    return count, replaced


def _clean(row: dict[str, Any]) -> int:
    """PostgreSQL keeps no NUL in a text."""
    dirty = [name for name, value in row.items() if isinstance(value, str) and "\0" in value]
    for name in dirty:
        row[name] = row[name].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return len(dirty)


def _add(digest: Any, row: Any) -> None:
    for value in row.values():
        digest.update(value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass"))
        digest.update(b"\x1f")


def _set_sequence(out: Connection, table: Table) -> None:
    """New rows are numbered behind the moved ones."""
    for column in table.primary_key.columns:
        sequence = out.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
        if sequence is not None:
            following = out.execute(select(func.coalesce(func.max(column), 0) + 1)).scalar_one()
            out.execute(select(func.setval(sequence, following, False)))
