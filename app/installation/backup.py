"""Makes a backup while the portal runs: one file, whole or not there at all, and the keys in a file apart.

What local jobs have in DATA_DIR/local is not in it: those are running processes of this machine.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from app.cluster.faults import fault
from app.config import REPOSITORY, Config
from app.database import db, now, sqlite_file, sqlite_module
from app.installation import archive, keys, programs, sealing
from app.installation.alone import connect, first_line, sync_folder
from app.installation.archive import Manifest
from app.installation.service import NotReady


def make(config: Config, path: Path) -> Manifest:
    """Write a backup of the database as it is now. What was acknowledged before this is in it. Raises NotReady."""
    try:
        with _scratch(path) as scratch:
            content = scratch / "content"
            manifest = _of_sqlite(config, content) if config.sqlite else _of_postgresql(config, content)
            fault("backup.before_archive")
            manifest = _with_checksum(manifest, content)
            archive.write(scratch / "archive", manifest, content)
            fault("backup.before_rename")
            (scratch / "archive").replace(path)
            sync_folder(path.absolute().parent)
        return manifest
    except OSError as error:
        raise NotReady(f"The backup {path} cannot be written ({error.strerror}).") from error
    except DBAPIError as error:
        raise NotReady(f"The database does not answer: {first_line(error)}.") from error


def keep_keys(config: Config, path: Path) -> None:
    """Write the keys that a backup needs into a file of their own. It never replaces one. Raises NotReady."""
    opening = sealing.read(config)
    secret = keys.read(config)
    if not secret or not opening:
        raise NotReady("There are no keys yet: they are made when the portal is started, or by `migrate`.")
    with db.engine.connect() as connection:
        uuid = connection.execute(text("SELECT uuid FROM installation")).scalar_one()
    told = {
        "installation": uuid,
        "made_at": now().isoformat(),
        "secret_key": secret,
        "seal_keys": [base64.b64encode(key).decode() for key in opening],
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(told, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.absolute().parent)
    except FileExistsError:
        raise NotReady(f"{path} is there already. An older backup may need what is in it: take another name.") from None
    except OSError as error:
        raise NotReady(f"The keys cannot be written to {path} ({error.strerror}).") from error


def version() -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside the file, on the same disk. What a killed backup left there is taken away first."""
    parent = path.absolute().parent
    prefix = f".{path.name}.unfinished-"
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            holder = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its backup still runs
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(holder)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    holder = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield scratch
    finally:
        os.close(holder)
        shutil.rmtree(scratch, ignore_errors=True)


def _of_sqlite(config: Config, content: Path) -> Manifest:
    source = sqlite_file(config.database)
    if source is None or not source.exists():
        raise NotReady(f"There is no database {source} to back up.")
    module = sqlite_module()
    try:
        with contextlib.closing(connect(source)) as connection:
            connection.execute("PRAGMA busy_timeout = 10000")
            # one read transaction: it keeps nobody from writing, and the copy has no free pages
            connection.execute("VACUUM INTO ?", (str(content),))
        fault("backup.after_copy")
        with contextlib.closing(connect(content)) as connection:

            def ask(question: str) -> Any:
                return connection.execute(question).fetchone()

            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            names = sorted(name for name in names if not name.startswith("sqlite_"))
            counts = {name: ask(f'SELECT count(*) FROM "{name}"')[0] for name in names}  # noqa: S608 - our own tables
            return _manifest("sqlite", module.sqlite_version, "portal.db", ask, counts)
    except module.Error as error:
        raise NotReady(f"The database cannot be copied: {error}.") from error


def _of_postgresql(config: Config, content: Path) -> Manifest:
    with db.engine.connect() as connection, connection.begin():
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        server = server_major(connection)

        def ask(question: str) -> Any:
            return connection.execute(text(question)).first()

        names = sorted(inspect(connection).get_table_names())
        if "installation" not in names:
            raise NotReady("The database is empty: there is nothing to back up.")
        counts = {name: ask(f'SELECT count(*) FROM "{name}"')[0] for name in names}  # noqa: S608 - our own tables
        manifest = _manifest("postgresql", str(server), "portal.dump", ask, counts)
        with open(content, "wb") as file:
            programs.dump(config, snapshot, server, file.write)
        fault("backup.after_copy")
    return manifest


def server_major(connection: Connection) -> int:
    return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def _manifest(database: str, server: str, file: str, ask: Any, counts: dict[str, int]) -> Manifest:
    if not counts.get("installation"):
        raise NotReady("The database is empty: there is nothing to back up.")
    uuid, key_check, seal_public = ask("SELECT uuid, key_check, seal_public FROM installation")
    return Manifest(
        version=version(),
        made_at=now().isoformat(timespec="seconds"),
        database=database,
        server=server,
        revision=ask("SELECT version_num FROM alembic_version")[0],
        installation=uuid,
        key_check=bytes(key_check).hex(),
        seal_public=bytes(seal_public).hex(),
        credentials=ask("SELECT count(*) FROM clusters WHERE credential IS NOT NULL")[0],
        counts=counts,
        file=file,
    )


def _with_checksum(manifest: Manifest, content: Path) -> Manifest:
    with open(content, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return replace(manifest, size=content.stat().st_size, sha256=digest.hexdigest())
