"""Backups of a portal that works, and kills in the middle: a backup is whole, and no half of a restore ever starts."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.config import Config
from app.database import db, sqlite_module
from app.installation import programs
from app.installation.service import NotReady
from tests.conftest import KEY, on_postgresql, on_sqlite
from tests.crash.portals import Served, in_thread, wait_for
from tests.postgresql import Postgresql

Fresh = Callable[..., Served]


def killed_at(served: Served, point: str, *arguments: str) -> None:
    """Run a command that dies at a named point."""
    process = served.begin(*arguments, SIMPLETRAIN_FAULT=point)
    assert process.ended() == -signal.SIGKILL, process.said()


def backup(served: Served, file: Path) -> None:
    made = served.command("backup", str(file))
    assert made.returncode == 0, made.stderr


@pytest.fixture
def new_host(fresh: Fresh, database: str, request: pytest.FixtureRequest) -> Fresh:
    """A place where no portal ever was, with an empty database of the same kind."""

    def make() -> Served:
        if database == "sqlite":
            return fresh()
        server = request.getfixturevalue("postgresql")
        return fresh(DATABASE_URL=server.url(server.create()))

    return make


MIDDLE = "when the new database is nearly there"


def _point(served: Served, point: str) -> str:
    if point != MIDDLE:
        return point
    return "restore.after_programs" if "DATABASE_URL" in served.settings else "restore.before_replace"


def whole(served: Served) -> bool:
    if "DATABASE_URL" in served.settings:
        return True  # the server sees to that
    connection = sqlite_module().connect(str(served.data / "portal.db"))
    try:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        return found == [("ok",)] and not connection.execute("PRAGMA foreign_key_check").fetchall()
    finally:
        connection.close()


def test_a_backup_under_load_has_every_job_that_was_acknowledged_before_it_began(
    served: Served, new_host: Fresh, tmp_path: Path
) -> None:
    lines = 3000
    printed = b"".join(b"line %d\n" % number for number in range(1, lines + 1))
    served.launch("done", f"seq -f 'line %g' {lines}")
    served.until("done", "succeeded")
    assert served.log("done") == (printed, "")
    served.launch("talks", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done")
    served.until("talks", "running")
    acknowledged: list[str] = []
    over = threading.Event()

    def client(who: int) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            name = f"job-{who}-{number}"
            served.launch(name, "true")
            acknowledged.append(name)
            over.wait(0.2)  # more would only keep a small machine busy with starting processes

    clients = [in_thread(lambda who=who: client(who)) for who in range(3)]  # type: ignore[misc]  # bound
    sets: list[tuple[Path, set[str]]] = []
    try:
        for number in range(3):
            wait_for(lambda number=number: len(acknowledged) > 8 * (number + 1), "some launches")  # type: ignore[misc]
            before = set(acknowledged)
            file = tmp_path / f"backup-{number}"
            backup(served, file)
            assert len(acknowledged) > len(before), "launches went on meanwhile"
            sets.append((file, before))
    finally:
        over.set()
        for each in clients:
            each.join()
    served.stop("talks")
    served.until("talks", "cancelled")
    made = served.command("backup", "--keys", str(tmp_path / "keys"))
    assert made.returncode == 0, made.stderr
    served.kill_all()

    for file, before in (sets[0], sets[-1]):
        there = new_host()
        brought = there.command("restore", str(file), "--keys", str(tmp_path / "keys"))
        assert brought.returncode == 0, brought.stderr
        assert whole(there)
        there.token = served.token
        there.serve(SECRET_KEY=KEY)
        assert before | {"done", "talks"} <= names_of(there)
        assert there.log("done") == (printed, "")
        there.launch("after", "true")
        there.until("after", "succeeded")
        there.kill_all()


def names_of(served: Served) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        page = served.request("GET", f"/api/jobs?limit=200{f'&cursor={cursor}' if cursor else ''}").json
        found |= {job["name"] for job in page["jobs"]}
        if page["next"] is None:
            return found
        cursor = page["next"]


@pytest.mark.parametrize("point", ["backup.after_copy", "backup.before_archive", "backup.before_rename"])
def test_a_killed_backup_leaves_nothing_under_its_name_and_the_next_one_cleans_up(
    furnish: Callable[..., Served], tmp_path: Path, point: str
) -> None:
    portal = furnish()
    file = tmp_path / "here" / "backup"
    file.parent.mkdir()
    killed_at(portal, point, "backup", str(file))
    assert not file.exists()
    left = os.listdir(file.parent)
    assert len(left) == 1 and left[0].startswith(".backup.unfinished-")
    backup(portal, file)
    assert os.listdir(file.parent) == ["backup"]
    first = file.read_bytes()
    killed_at(portal, point, "backup", str(file))
    assert file.read_bytes() == first, "the last good one stays"


@pytest.mark.parametrize("point", ["restore.after_mark", "restore.after_keys", MIDDLE, "restore.before_end"])
def test_a_killed_restore_leaves_nothing_that_starts_and_the_next_one_succeeds(
    furnish: Callable[..., Served], new_host: Fresh, tmp_path: Path, point: str
) -> None:
    portal = furnish()
    file, keys = tmp_path / "backup", tmp_path / "keys"
    made = portal.command("backup", str(file), "--keys", str(keys))
    assert made.returncode == 0, made.stderr
    there = new_host()
    killed_at(there, _point(there, point), "restore", str(file), "--keys", str(keys))
    for command in ("serve", "migrate", "web", "worker"):
        process = there.begin(command, SECRET_KEY=KEY)
        assert process.ended() == 1, process.said()
        assert "Traceback" not in process.said()
        assert "A restore began here and has not ended. Run it again" in process.said()
    again = there.command("restore", str(file), "--keys", str(keys), "--force")
    assert again.returncode == 0, again.stderr
    assert whole(there)
    there.token = portal.token
    there.serve()
    assert there.request("GET", "/api/me").status == 200


@on_sqlite
@pytest.mark.parametrize("point", ["restore.before_replace", "restore.before_end"])
def test_a_killed_restore_over_an_old_portal_leaves_the_old_database_or_the_new_one_whole(
    furnish: Callable[..., Served], tmp_path: Path, point: str
) -> None:
    portal = furnish()
    file = tmp_path / "backup"
    backup(portal, file)
    portal.inside = portal.portal.app.test_client()
    portal.launch("later", "true")
    with portal.portal.app.app_context():
        db.session.remove()
        db.engine.dispose()
    killed_at(portal, point, "restore", str(file), "--force")
    assert whole(portal)
    names = {name for (name,) in _rows(portal.data / "portal.db", "SELECT name FROM jobs")}
    assert names == ({"later"} if point == "restore.before_replace" else set())
    process = portal.begin("serve")
    assert process.ended() == 1 and "A restore began here" in process.said()


@on_postgresql
def test_a_killed_way_back_from_a_newer_schema_is_run_again(
    furnish: Callable[..., Served], tmp_path: Path, postgresql: Postgresql
) -> None:
    portal = furnish()
    file = tmp_path / "backup"
    backup(portal, file)
    with portal.portal.app.app_context():
        db.session.remove()
        db.engine.dispose()
    name = str(make_url(portal.settings["DATABASE_URL"]).database)
    postgresql.execute("UPDATE alembic_version SET version_num = '9999'", name)
    killed_at(portal, "restore.after_drop", "restore", str(file), "--force")
    process = portal.begin("serve")
    assert process.ended() == 1 and "A restore began here" in process.said()
    again = portal.command("restore", str(file), "--force")
    assert again.returncode == 0, again.stderr
    portal.serve()
    assert portal.request("GET", "/api/me").status == 200


def _rows(path: Path, question: str) -> list[tuple[str]]:
    connection = sqlite_module().connect(str(path))
    try:
        found: list[tuple[str]] = connection.execute(question).fetchall()
        return found
    finally:
        connection.close()


def test_a_restore_is_refused_while_the_portal_serves_and_it_goes_on(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    backup(served, file)
    refused = served.command("restore", str(file), "--force")
    assert refused.returncode == 1
    assert f"The portal runs on {served.data}. Stop it first." in refused.stderr
    served.launch("one", "true")
    served.until("one", "succeeded")


def test_no_password_is_an_argument_of_any_program(tmp_path: Path) -> None:
    """What stands in a list of processes, anybody on the machine can read."""
    tools = tmp_path / "bin"
    tools.mkdir()
    seen = tmp_path / "seen"
    for name in ("pg_dump", "pg_restore"):
        (tools / name).write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "{name} (PostgreSQL) 99.1"; exit 0; }}\n'
            f'echo "$@" >> {seen}; echo "$PGHOST $PGUSER $PGPASSWORD" >> {seen}.environment; exit 1\n'
        )
        (tools / name).chmod(0o755)
    config = Config(data_dir=tmp_path, database_url="postgresql://me:hunter2-secret@db.example/portal?sslmode=require")
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{path}"
    try:
        with pytest.raises(NotReady, match="pg_dump failed"):
            programs.dump(config, "snapshot-1", 15, lambda _block: None)
        with pytest.raises(NotReady, match="pg_restore failed"):
            programs.restore(config, 15, clean=True, fill=lambda _pipe: None)
    finally:
        os.environ["PATH"] = path
    assert "hunter2-secret" not in seen.read_text() and "--dbname=portal" in seen.read_text()
    assert "db.example me hunter2-secret" in Path(f"{seen}.environment").read_text()
