"""Brings a backup back, on this host or a new one. Until all of it is there, nothing starts on it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from app.cluster.faults import fault
from app.config import Config
from app.database import db, now, sqlite_file, sqlite_module
from app.installation import archive, keys, programs, sealing, service
from app.installation.alone import alone, connect, first_line, sync_folder, write_whole
from app.installation.archive import BadArchive, Manifest
from app.installation.backup import server_major
from app.installation.service import NotReady, knows_revision, newest_revision, unfinished_restore

VOID = ("user_sessions", "sign_in_links")  # whoever holds a copy of an old one must not get in with it


@dataclass(frozen=True, slots=True)
class Keys:
    secret_key: str
    seal_keys: list[bytes]


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: Manifest
    older: bool  # its schema is: `migrate` brings it up


def restore(config: Config, path: Path, keys_path: Path | None, force: bool) -> Restored:
    """Raises NotReady, with nothing changed, where the backup, its keys or this place do not fit each other."""
    try:
        return _restore(config, path, keys_path, force)
    except BadArchive as error:
        raise NotReady(str(error)) from error
    except DBAPIError as error:
        raise NotReady(f"The database does not answer: {first_line(error)}.") from error
    except OSError as error:
        raise NotReady(f"The backup cannot be restored ({error.strerror}: {error.filename}).") from error


def _restore(config: Config, path: Path, keys_path: Path | None, force: bool) -> Restored:
    manifest = archive.read_manifest(path)
    kind = "sqlite" if config.sqlite else "postgresql"
    if manifest.database != kind:
        raise NotReady(
            f"This is a backup of {manifest.database}, and DATABASE_URL names {kind}. Restore it into its own kind; "
            "`database move-to` moves a restored one."
        )
    if not knows_revision(manifest.revision):
        raise NotReady(
            f"The backup was made by a newer SimpleTrain ({manifest.version}, schema {manifest.revision}). Restore it "
            "with that version."
        )
    given = _read_keys(keys_path, manifest) if keys_path is not None else None
    _check_keys(config, manifest, given)
    archive.read(path, lambda _block: None)  # damaged ones are refused before anything is touched
    with alone(config):
        _check_target(config, force)
        mark = unfinished_restore(config)
        write_whole(mark, b"A restore began here and has not ended. Run it again.\n")
        fault("restore.after_mark")
        if given is not None:
            _put_keys(config, given)
        fault("restore.after_keys")
        if config.sqlite:
            _into_sqlite(config, path, manifest)
        else:
            _into_postgresql(config, path, manifest)
        fault("restore.before_end")
        mark.unlink()
        sync_folder(config.data_dir)
    return Restored(manifest, older=manifest.revision != newest_revision())


# keys


def _read_keys(path: Path, manifest: Manifest) -> Keys:
    try:
        told = json.loads(path.read_text(encoding="ascii"))
        found = Keys(told["secret_key"], [base64.b64decode(key, validate=True) for key in told["seal_keys"]])
        if not found.secret_key or not found.seal_keys or any(len(key) != 32 for key in found.seal_keys):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotReady(f"{path} is no file of keys that `backup --keys` wrote.") from error
    if told.get("installation") != manifest.installation:
        raise NotReady(f"The keys in {path} belong to another installation than the backup.")
    return found


def _check_keys(config: Config, manifest: Manifest, given: Keys | None) -> None:
    """The keys that the portal will have here: settings first, then the file that was given, then DATA_DIR/keys."""
    secret = config.secret_key or (given.secret_key if given else keys.read(config))
    if not secret:
        raise NotReady("The backup's keys are missing: give them with --keys FILE, or set SECRET_KEY and SEAL_KEYS.")
    if keys.check_value(secret).hex() != manifest.key_check:
        raise NotReady("The SECRET_KEY here is not the one that the backup was made with. Bring that one back.")
    opening = sealing.read(config) if config.seal_keys or given is None else given.seal_keys
    if manifest.credentials and manifest.seal_public not in {sealing.public_key(key).hex() for key in opening}:
        raise NotReady(
            f"None of the SEAL_KEYS here opens the {manifest.credentials} stored credentials of the backup. Bring the "
            "key back: give it with --keys FILE, or set SEAL_KEYS."
        )


def _put_keys(config: Config, given: Keys) -> None:
    """Into DATA_DIR/keys, unless the settings have them. What was there goes aside, and is never deleted."""
    wanted = []
    if not config.secret_key:
        wanted.append((keys.key_file(config), f"{given.secret_key}\n"))
    if not config.seal_keys:
        lines = [base64.b64encode(key).decode() for key in given.seal_keys]
        wanted.append((sealing.key_file(config), "\n".join(lines) + "\n"))
    for path, content in wanted:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="ascii") != content:
            path.rename(path.with_name(f"{path.name}.before-{now():%Y%m%dT%H%M%S}"))
        write_whole(path, content.encode("ascii"))


# the place


def _check_target(config: Config, force: bool) -> None:
    if not config.sqlite:
        _check_owner()
    if force:
        return
    path = sqlite_file(config.database)
    if path is not None and not path.exists():
        return
    with db.engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        full = [
            name
            for name in sorted(tables)
            if connection.execute(text(f'SELECT 1 FROM "{name}" LIMIT 1')).first() is not None  # noqa: S608 - a table
        ]
    db.engine.dispose()
    if full:
        where = str(path) if path is not None else "the database of DATABASE_URL"
        raise NotReady(
            f"There is data in {where} ({', '.join(full[:3])}…). --force replaces all of it; back it up before."
        )


def _check_owner() -> None:
    """Nobody has meant another program's tables when they said that everything may be replaced."""
    with db.engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
    db.engine.dispose()
    if tables and not {"alembic_version", "installation", "jobs"} <= tables:
        raise NotReady(
            f"The database of DATABASE_URL holds tables that are not SimpleTrain's ({', '.join(sorted(tables)[:3])}). "
            "Give the portal a database of its own."
        )


def _into_sqlite(config: Config, path: Path, manifest: Manifest) -> None:
    target = sqlite_file(config.database)
    assert target is not None
    fresh = target.with_name(f".{target.name}.restored")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        archive.read(path, file.write)
    module = sqlite_module()
    try:
        with contextlib.closing(connect(fresh)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise NotReady(f"The database in the backup is damaged: {found}. Take another backup.")
            counts = {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - our own tables
                for name in manifest.counts
            }
            _compare(manifest, counts)
            for name in VOID:
                connection.execute(f"DELETE FROM {name}")  # noqa: S608 - our own tables
    except module.DatabaseError as error:
        raise NotReady(f"The database in the backup is damaged: {error}. Take another backup.") from error
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    fault("restore.before_replace")
    # what stood here has no write-ahead log any more (`alone`), so that the file is all there is to replace
    for rest in ("-wal", "-shm"):
        target.with_name(target.name + rest).unlink(missing_ok=True)
    fresh.replace(target)
    sync_folder(target.parent)


def _into_postgresql(config: Config, path: Path, manifest: Manifest) -> None:
    with db.engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        revision = None
        if "alembic_version" in tables:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        server = server_major(connection)
    db.engine.dispose()
    clean = bool(tables)
    if clean and revision != manifest.revision:
        _drop(tables)
        clean = False
        fault("restore.after_drop")

    def fill(pipe: IO[bytes]) -> None:
        archive.read(path, pipe.write)

    programs.restore(config, server, clean, fill)
    fault("restore.after_programs")
    with db.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        counts = {
            name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()  # noqa: S608 - our own tables
            for name in manifest.counts
            if name != "alembic_version"
        }
        _compare(manifest, counts)
        for name in VOID:
            connection.execute(text(f"DELETE FROM {name}"))  # noqa: S608 - our own tables
        # from here on it is a database that can be started
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": manifest.revision})
    service.tidy(db.engine)
    db.engine.dispose()


def _drop(tables: list[str]) -> None:
    """What only another schema has would be in the way of pg_restore, or later of `migrate`: everything goes first."""
    with db.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        names = ", ".join(f'"{name}"' for name in tables)
        connection.execute(text(f"DROP TABLE {names} CASCADE"))
    db.engine.dispose()


def _compare(manifest: Manifest, counts: dict[str, int]) -> None:
    wrong = [name for name, count in counts.items() if manifest.counts[name] != count]
    if wrong:
        raise NotReady(f"The backup is not whole: {', '.join(wrong)} have other numbers of rows than it says.")
