"""Makes an installation ready and refuses one that is not: folder, key, schema, first-run data."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import alembic.command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app, url_for
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.config import REPOSITORY, Config, ConfigError
from app.database import db, now, sqlite_file, transaction
from app.installation import keys, sealing
from app.installation.models import Installation, WorkerEpoch
from app.postgresql import Line, LineLost, Lock

WORKER_SILENT = timedelta(seconds=60)


class NotReady(Exception):
    """The portal cannot start like this. The message is a sentence for the operator."""


def config() -> Config:
    found: Config = current_app.config["PORTAL"]
    return found


# identity


def identity() -> str:
    """The id of this installation, which never changes. Read once for each process."""
    known: str | None = current_app.extensions.get("installation")
    if known is None:
        known = db.session.get_one(Installation, 1).uuid
        current_app.extensions["installation"] = known
    return known


def base_url() -> str:
    """Where people find the portal: as it was last served, which operator's commands cannot know otherwise."""
    if config().base_url:
        return config().url
    return db.session.get_one(Installation, 1).base_url or config().url


def seal(secret: bytes) -> bytes:
    """Seal a secret for the worker; nobody else can open it. Call inside the transaction that keeps it.

    A change of keys waits for that transaction, and so misses nothing that was sealed with the key before.
    """
    row = db.session.get_one(Installation, 1, with_for_update={"read": True})
    return sealing.seal(row.seal_public, secret)


def newest_seal_key_is_new() -> bool:
    """Whether the newest key at hand is not yet the one that secrets are sealed with."""
    opening = sealing.read(config())
    return bool(opening) and sealing.public_key(opening[0]) != db.session.get_one(Installation, 1).seal_public


def seal_with_newest_key() -> None:
    """From now on. Call inside a transaction; whatever was sealed before it is committed then."""
    newest = sealing.read(config())[0]
    db.session.get_one(Installation, 1, with_for_update=True).seal_public = sealing.public_key(newest)


def is_sealed_with_newest_key(sealed: bytes) -> bool:
    """Raises NotReady where none of the keys opens it."""
    unseal(sealed)
    try:
        sealing.unseal(sealing.read(config())[:1], sealed)
    except sealing.CannotOpen:
        return False
    return True


def accept_session_key(key: str) -> None:
    """Let the database belong to another SECRET_KEY. Call inside a transaction."""
    db.session.get_one(Installation, 1).key_check = keys.check_value(key)


def belongs_to(key: str) -> bool:
    """Whether the database belongs to a SECRET_KEY. Raises NotReady where there is no database of this version."""
    return _row().key_check == keys.check_value(key)


def unseal(sealed: bytes) -> bytes:
    """Open what `seal` sealed. Raises NotReady where the key is missing: only the worker and the operator have it."""
    try:
        return sealing.unseal(sealing.read(config()), sealed)
    except sealing.CannotOpen as error:
        raise NotReady(f"{error} Bring back {sealing.key_file(config())}, or SEAL_KEYS.") from error


def record_base_url() -> None:
    with transaction():
        db.session.get_one(Installation, 1).base_url = config().url


def link(secret: str) -> str:
    with current_app.test_request_context(base_url=base_url()):
        return url_for("accounts.use_link", secret=secret, _external=True)


def worker_silent_since() -> str | None:
    """A sentence while no worker works, which everybody should see; None while one does."""
    row = db.session.get(WorkerEpoch, 1)
    if row is None or row.seen_at is None:
        return "The worker has not started yet: jobs wait until it does."
    if row.seen_at < now() - WORKER_SILENT:
        return "The worker is not running: jobs neither start nor stop, and no log goes on, until it is back."
    return None


def worker_seen_at() -> datetime | None:
    """When a worker last said that it lives."""
    return db.session.scalar(select(WorkerEpoch.seen_at).where(WorkerEpoch.id == 1))


# readiness


def verify() -> None:
    """Raises NotReady unless the key, the database and its schema fit together. Changes nothing."""
    _refuse_half_a_restore()
    row, key = _row(), keys.read(config())  # where there is no database yet, its key is not what is missing
    if not key:
        raise NotReady(_no_key())
    _check_key(row.key_check, key)


def _row() -> Installation:
    """Raises NotReady unless there is a database of this version."""
    try:
        revision = _revision()
        if revision != newest_revision():
            _refuse_newer(revision)
            raise NotReady("The database has not been brought up to this version. Run: flask --app wsgi migrate")
        row = db.session.get(Installation, 1)
        _refuse_to_forget()
    except SQLAlchemyError as error:
        raise NotReady(f"The database does not answer: {_first_line(error)}.") from error
    finally:
        db.session.rollback()
    if row is None:
        raise NotReady("The database is empty. Run: flask --app wsgi migrate")
    return row


def unfinished_restore(config: Config) -> Path:
    """A file that is there while a restore is not whole."""
    return config.data_dir / "restore.unfinished"


def _refuse_half_a_restore() -> None:
    if unfinished_restore(config()).exists():
        raise NotReady("A restore began here and has not ended. Run it again: flask --app wsgi restore FILE")


def knows_revision(revision: str | None) -> bool:
    """Whether this version can work with a schema, or bring it up."""
    return revision in {each.revision for each in _script().walk_revisions()}


def migrate_on(connection: Connection) -> None:
    """Make the schema of this version in an empty database, inside the transaction that the connection has open."""
    settings = _alembic()
    settings.attributes["connection"] = connection
    alembic.command.upgrade(settings, "head")


def tidy(engine: Engine) -> None:
    """Have PostgreSQL go over tables that were just filled, without which a search takes half a second at first.

    It would do so by itself after a while: a failure here is none of what was filled.
    """
    with (
        contextlib.suppress(DBAPIError),
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        connection.execute(text("SET statement_timeout = 0"))
        for name in inspect(connection).get_table_names():
            connection.execute(text(f'VACUUM (ANALYZE) "{name}"'))


def newest_revision() -> str | None:
    return _script().get_current_head()


def ready() -> None:
    """For whatever starts: make the installation ready, or in production look whether it is. Raises NotReady.

    There the schema is changed once, before the rollout, by `migrate`, and never by the process that starts first.
    """
    if config().production:
        verify()
    else:
        prepare()


def _refuse_to_forget() -> None:
    """An acknowledged launch must survive a crash of the database server too."""
    if not config().sqlite and db.session.scalar(text("SHOW synchronous_commit")) == "off":
        raise NotReady(
            "The database acknowledges what it may lose: synchronous_commit is off. Run: "
            "ALTER DATABASE … SET synchronous_commit = on"
        )


def prepare() -> tuple[str | None, str | None]:
    """Make everything ready that can be made: folder, key, schema. Repeatable; one at a time. Raises NotReady.

    Gives back the schema that was there, None for an empty database, and the one that is there now.
    """
    folder = config().data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder / "prepare.lock", wait=True), _schema_lock():
            return _prepare(), newest_revision()
    except LineLost as error:
        raise NotReady(f"The database does not answer: {error}.") from error
    except PermissionError as error:
        raise NotReady(f"DATA_DIR: nothing can be written in {folder.absolute()} ({error.strerror}).") from error
    except DBAPIError as error:
        raise NotReady(f"The database cannot be used: {_first_line(error)}.") from error
    except ConfigError as error:
        raise NotReady(str(error)) from error
    except OSError as error:
        raise NotReady(f"DATA_DIR: {folder.absolute()} cannot be used ({error.strerror}).") from error


@contextmanager
def _schema_lock() -> Iterator[None]:
    """Several hosts may have one database: there a lock of the database keeps them apart."""
    if config().sqlite:
        yield
        return
    with closing(Line(config())) as line:
        line.lock(Lock.SCHEMA, wait=True)
        yield


def _prepare() -> str | None:
    _refuse_half_a_restore()
    key = keys.read(config())
    revision = _revision()
    _refuse_newer(revision)
    check = None
    if revision is not None:
        # this column alone: others may be missing from a schema that is only about to be brought up to date
        check = db.session.scalar(select(Installation.key_check).where(Installation.id == 1))
    if check is not None:
        if not key:
            raise NotReady(_no_key())
        _check_key(check, key)
    db.session.rollback()
    if not key:
        key = keys.make(config())
    opening = sealing.read(config())
    if not opening and check is None:
        opening = sealing.make(config())
    if not key or (check is None and not opening):
        folder = keys.key_file(config()).parent.absolute()
        raise NotReady(f"A key file in {folder} is empty. Bring it back, or remove it.")
    current_app.secret_key = key
    path = sqlite_file(config().database)
    if path is not None and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # its WAL takes the same mode
    if revision != _script().get_current_head():
        alembic.command.upgrade(_alembic(), "head")
        db.session.remove()
    if check is None:
        with transaction():
            db.session.add(
                Installation(
                    uuid=str(uuid.uuid4()),
                    key_check=keys.check_value(key),
                    seal_public=sealing.public_key(opening[0]),
                    base_url=config().url,
                )
            )
            db.session.add(WorkerEpoch())
    return revision


def _revision() -> str | None:
    """The schema version of the database; None for an empty one."""
    path = sqlite_file(config().database)
    if path is not None and not path.exists():
        return None
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and not knows_revision(revision):
        raise NotReady(
            f"The database was made by a newer SimpleTrain (its schema is {revision}). Start that version, or restore "
            "a backup that fits this one."
        )
    if revision is None and _has_tables():
        raise NotReady("The database holds tables that SimpleTrain did not make. Give it one of its own.")


def _has_tables() -> bool:
    path = sqlite_file(config().database)
    if path is not None and not path.exists():
        return False
    # a migration that was killed leaves Alembic's own table, and it empty
    return bool(set(inspect(db.engine).get_table_names()) - {"alembic_version"})


def _check_key(check: bytes, key: str) -> None:
    if check != keys.check_value(key):
        if keys.being_made(config()) and check == keys.check_value(keys.being_made(config())):
            raise NotReady("A change of the session key was interrupted. Run: flask --app wsgi keys rotate-session")
        raise NotReady(
            "SECRET_KEY is not the key that this database began with. Bring back "
            + ("the old SECRET_KEY" if config().secret_key else str(keys.key_file(config()).absolute()))
            + ": with another key nobody stays signed in, and stored secrets cannot be read."
        )


def _no_key() -> str:
    return (
        f"The key of this database is missing: {keys.key_file(config()).absolute()} is gone and SECRET_KEY is not set. "
        "Bring it back from your backup; a new one is never made for a database that has data."
    )


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _alembic() -> AlembicConfig:
    migrate: AlembicConfig = current_app.extensions["migrate"].migrate.get_config(str(REPOSITORY / "migrations"))
    return migrate


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def operator_email() -> str:
    """The address of the account that a first run makes for the person at the keyboard."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        name = f"user{os.getuid()}"
    return f"{name}@localhost"


class Taken(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold a file lock, which the kernel frees when the process ends, however it ends. Raises Taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Taken(str(path)) from None
        yield descriptor
    finally:
        os.close(descriptor)
