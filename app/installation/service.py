"""Makes an installation ready and refuses one that is not: folder, key, schema, first-run data."""

from __future__ import annotations

import fcntl
import getpass
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import alembic.command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app, url_for
from sqlalchemy import inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.config import REPOSITORY, Config, ConfigError
from app.database import db, now, sqlite_file, transaction
from app.installation import keys, sealing
from app.installation.models import Installation, WorkerEpoch

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
    """Seal a secret for the worker; nobody else can open it."""
    return sealing.seal(db.session.get_one(Installation, 1).seal_public, secret)


def new_seal_key() -> None:
    """Seal with the newest key from now on: one made now, or the first of SEAL_KEYS where it is set."""
    opening = sealing.read(config()) if config().seal_keys else sealing.add(config())
    with transaction():
        db.session.get_one(Installation, 1).seal_public = sealing.public_key(opening[0])


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


# readiness


def verify() -> None:
    """Raises NotReady unless the key, the database and its schema fit together. Changes nothing."""
    key = keys.read(config())
    if not key:
        raise NotReady(_no_key())
    try:
        revision = _revision()
        head = _script().get_current_head()
        if revision != head:
            _refuse_newer(revision)
            raise NotReady("The database has not been brought up to this version. Run: flask --app wsgi migrate")
        row = db.session.get(Installation, 1)
    except SQLAlchemyError as error:
        raise NotReady(f"The database does not answer: {_first_line(error)}.") from error
    finally:
        db.session.rollback()
    if row is None:
        raise NotReady("The database is empty. Run: flask --app wsgi migrate")
    _check_key(row.key_check, key)


def prepare() -> None:
    """Make everything ready that can be made: folder, key, schema, first-run data. Repeatable; one at a time."""
    folder = config().data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder / "prepare.lock", wait=True):
            _prepare()
    except PermissionError as error:
        raise NotReady(f"DATA_DIR: nothing can be written in {folder.absolute()} ({error.strerror}).") from error
    except DBAPIError as error:
        raise NotReady(f"The database cannot be used: {_first_line(error)}.") from error
    except ConfigError as error:
        raise NotReady(str(error)) from error
    except OSError as error:
        raise NotReady(f"DATA_DIR: {folder.absolute()} cannot be used ({error.strerror}).") from error


def _prepare() -> None:
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


def _revision() -> str | None:
    """The schema version of the database; None for an empty one."""
    path = sqlite_file(config().database)
    if path is not None and not path.exists():
        return None
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(revision: str | None) -> None:
    known = {each.revision for each in _script().walk_revisions()}
    if revision is not None and revision not in known:
        raise NotReady(
            f"The database was made by a newer SimpleTrain (its schema is {revision}). Start that version, or restore "
            "a backup that fits this one."
        )
    if revision is None and sqlite_file(config().database) is not None and _revisionless_tables():
        raise NotReady("The database holds tables that SimpleTrain did not make. Give it one of its own.")


def _revisionless_tables() -> bool:
    path = sqlite_file(config().database)
    return path is not None and path.exists() and bool(inspect(db.engine).get_table_names())


def _check_key(check: bytes, key: str) -> None:
    if check != keys.check_value(key):
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
