"""PostgreSQL's own programs, pg_dump and pg_restore, on the portal's database. No password is ever an argument."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import IO

from sqlalchemy import make_url

from app.config import Config
from app.installation.service import NotReady

OURS = ("options", "application_name", "connect_timeout")  # of the portal's connections, no business of a dump


def dump(config: Config, snapshot: str, server: int, take: Callable[[bytes], object]) -> None:
    """The whole database as of a snapshot, in pg_dump's own format, in blocks. Raises NotReady.

    The rows of Alembic's table are left out: until a restore puts the revision back, at its very end, nothing starts.
    """
    _check("pg_dump", server)
    arguments = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
    with _started(config, "pg_dump", [*arguments, "--exclude-table-data=alembic_version"], out=True) as process:
        assert process.stdout is not None
        while block := process.stdout.read(1 << 20):
            take(block)
        _end(process, "pg_dump")


def restore(config: Config, server: int, clean: bool, fill: Callable[[IO[bytes]], None]) -> None:
    """Everything in one transaction: all of it is there at the end, or nothing. Raises NotReady."""
    _check("pg_restore", server)
    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    if clean:
        arguments += ["--clean", "--if-exists"]
    database = make_url(config.database).database or ""
    with _started(config, "pg_restore", [*arguments, f"--dbname={database}"], out=False) as process:
        assert process.stdin is not None
        try:
            fill(process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it says why itself
        except BaseException:
            process.kill()
            raise
        _end(process, "pg_restore")


def _started(config: Config, name: str, arguments: list[str], out: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(shutil.which(name)), *arguments],
        env=_environment(config),
        stdin=subprocess.DEVNULL if out else subprocess.PIPE,
        stdout=subprocess.PIPE if out else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _end(process: subprocess.Popen[bytes], name: str) -> None:
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr is not None else ""
    if process.wait():
        raise NotReady(f"{name} failed: {said.splitlines()[0] if said else f'status {process.returncode}'}")


def _environment(config: Config) -> dict[str, str]:
    """How libpq is told where to connect: each of its parameters has a variable."""
    from psycopg import pq

    url = make_url(config.database)
    _, named = url.get_dialect()().create_connect_args(url)
    variables = {
        option.keyword.decode(): option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar
    }
    given = {variables[name]: str(value) for name, value in named.items() if name in variables and name not in OURS}
    return {**os.environ, **given, "PGAPPNAME": "simpletrain backup", "PGOPTIONS": "-c statement_timeout=0"}


def _check(name: str, server: int) -> None:
    """Raises NotReady where the program is missing, or older than the server, which it would refuse by itself."""
    found = shutil.which(name)
    if found is None:
        raise NotReady(f"{name} is not installed. Install the client programs of PostgreSQL {server}, and try again.")
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\) (\d+)", told)
    if version is None or int(version[1]) < server:
        raise NotReady(
            f"{name} is of version {version[1] if version else '?'}, the server of {server}. Install the client "
            f"programs of PostgreSQL {server} or newer, and put them first in PATH."
        )
