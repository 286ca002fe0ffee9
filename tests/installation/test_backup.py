"""A backup is whole or not there, holds no key, and comes back on a new host only where its keys are."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import alembic.command
import pytest
from sqlalchemy import inspect, select, text

from app import create_app
from app.accounts.models import ApiToken, SignInLink, UserSession
from app.clusters import service as clusters
from app.config import Config
from app.database import db, now, sqlite_module, transaction
from app.installation import keys, sealing
from app.installation import service as installation
from app.jobs.models import Job
from app.jobs.states import State
from app.logs import service as logs
from app.logs.models import LogChunk
from tests.conftest import KEY, Portal, on_postgresql, on_sqlite
from tests.postgresql import Postgresql
from tests.retention.conftest import history

CANARY = "a credential that only its key opens: 77ab1e"
New = Callable[..., Portal]
Again = Callable[[Portal], Portal]
PRINTED = b"".join(b"line %d\xff\x00\n" % number for number in range(20_000))


@pytest.fixture
def full(portal: Portal) -> Portal:
    """A portal with jobs, a log, a stored credential and people who are signed in."""
    for number in range(3):
        portal.launch(f"job-{number}")
    portal.browser("bob")
    with portal.app.app_context(), transaction():
        clusters.add_kubernetes("berlin", {"namespace": "lab", "gpus": {}}, CANARY, [])
        history(db.session.query(Job).filter_by(name="job-0").one(), now(), State.SUCCEEDED, True, PRINTED)
    return portal


@pytest.fixture
def again() -> Iterator[Again]:
    """The same settings, as a process that starts now has them."""
    made: list[Portal] = []

    def start(portal: Portal) -> Portal:
        made.append(Portal(create_app(portal.config), portal.config))
        return made[-1]

    yield start
    for each in made:
        close(each)


def close(portal: Portal) -> None:
    with portal.app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def new_host(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[New]:
    """A place where no portal ever was: new_host(seal_keys=…)."""
    made: list[Portal] = []

    def make(**settings: str) -> Portal:
        url = ""
        if database == "postgresql":
            server: Postgresql = request.getfixturevalue("postgresql")
            url = server.url(server.create())
        config = Config(data_dir=tmp_path / f"new-{len(made)}", database_url=url, **settings)  # type: ignore[arg-type]
        made.append(Portal(create_app(config), config))
        return made[-1]

    yield make
    for each in made:
        close(each)


def backup(portal: Portal, tmp_path: Path, with_keys: bool = True) -> tuple[Path, Path]:
    file, keys_file = tmp_path / "portal.backup", tmp_path / "portal.keys"
    said = portal.command("backup", str(file), *(("--keys", str(keys_file)) if with_keys else ()))
    assert said.exit_code == 0, said.output
    return file, keys_file


def refused(portal: Portal, *arguments: object) -> str:
    said = portal.command("restore", *map(str, arguments))
    assert said.exit_code == 1, said.output
    assert said.stderr.startswith("Error: ") and "Traceback" not in said.stderr, said.stderr
    return said.stderr.removeprefix("Error: ").strip()


def nothing_is_there(portal: Portal) -> bool:
    if portal.config.sqlite:
        return not (portal.config.data_dir / "portal.db").exists()
    with portal.app.app_context():
        count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        return bool(db.session.scalar(text(count)) == 0)


# making one


def test_a_backup_is_one_file_for_its_owner_alone_without_any_key(full: Portal, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    for path in (file, keys_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["portal.backup", "portal.keys"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no scratch is left"
    content = file.read_bytes()
    seal = sealing.read(full.config)[0]
    for secret in (KEY.encode(), seal, base64.b64encode(seal), CANARY.encode()):
        assert secret not in content
    told = json.loads(keys_file.read_text())
    assert told["secret_key"] == KEY and told["seal_keys"] == [base64.b64encode(seal).decode()]


def test_the_manifest_says_what_is_in_it(full: Portal, tmp_path: Path) -> None:
    file, _ = backup(full, tmp_path)
    with tarfile.open(file) as tar:
        assert tar.getnames()[0] == "manifest.json"
        member = tar.extractfile("manifest.json")
        assert member is not None
        told = json.loads(member.read())
    assert told["installation"] == full.read(installation.identity)
    assert told["revision"] == full.read(installation.newest_revision)
    assert told["counts"]["jobs"] == 3 and told["counts"]["users"] == 4 and told["counts"]["log_chunks"] >= 1
    assert told["credentials"] == 1
    assert len(told["sha256"]) == 64


def test_a_second_backup_replaces_the_first_but_a_file_of_keys_is_never_replaced(full: Portal, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    first = file.read_bytes()
    full.launch("later")
    assert full.command("backup", str(file)).exit_code == 0
    assert file.read_bytes() != first
    before = keys_file.read_text()
    said = full.command("backup", "--keys", str(keys_file))
    assert said.exit_code == 1 and "is there already" in said.stderr
    assert keys_file.read_text() == before


def test_a_backup_that_cannot_be_written_says_so_and_leaves_the_last_one(full: Portal, tmp_path: Path) -> None:
    said = full.command("backup", str(tmp_path / "nowhere" / "file"))
    assert said.exit_code == 1 and "cannot be written (No such file or directory)" in said.stderr


@on_postgresql
def test_the_tables_of_another_program_are_never_replaced(full: Portal, new_host: New, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    there = new_host()
    with there.app.app_context(), db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE payroll AS SELECT 1 AS id"))
    close(there)
    said = there.command("restore", str(file), "--keys", str(keys_file), "--force")
    assert said.exit_code == 1
    assert "holds tables that are not SimpleTrain's (payroll). Give the portal a database of its own." in said.stderr
    with there.app.app_context():
        assert inspect(db.engine).get_table_names() == ["payroll"]
    close(there)


@on_postgresql
def test_a_missing_or_old_pg_dump_is_told_in_a_sentence(
    full: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    said = full.command("backup", str(tmp_path / "file"))
    assert said.exit_code == 1 and "pg_dump is not installed. Install the client programs of PostgreSQL" in said.stderr
    (tools / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    (tools / "pg_dump").chmod(0o755)
    said = full.command("backup", str(tmp_path / "file"))
    assert said.exit_code == 1 and "pg_dump is of version 9, the server of" in said.stderr
    assert not (tmp_path / "file").exists()


# bringing it back


def test_it_comes_back_on_a_new_host_with_everything_but_the_sessions(
    full: Portal, again: Again, new_host: New, tmp_path: Path
) -> None:
    file, keys_file = backup(full, tmp_path)
    token = full.token("bob")
    file, _ = backup(full, tmp_path, with_keys=False)  # the token is in this one
    there = new_host()
    said = there.command("restore", str(file), "--keys", str(keys_file))
    assert said.exit_code == 0, said.stderr
    assert "3 jobs are back, as of 20" in said.output
    there = again(there)
    said = there.command("clusters", "list")
    assert said.exit_code == 0, said.stderr
    assert there.read(installation.identity) == full.read(installation.identity)
    assert there.read(lambda: installation.unseal(clusters.by_name("berlin").credential)) == CANARY.encode()  # type: ignore[union-attr, arg-type]
    for kind in (UserSession, SignInLink):
        assert there.read(lambda kind=kind: db.session.query(kind).count()) == 0  # type: ignore[misc]  # bound
    assert there.read(lambda: db.session.query(ApiToken).count()) == 1
    answer = there.app.test_client().get("/api/jobs/job-0/logs", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.data) == (200, PRINTED)
    for name in ("job-0", "job-1", "job-2"):
        old, new = full.job(name), there.job(name)
        for column in Job.__table__.columns:
            assert getattr(old, column.name) == getattr(new, column.name)
    there.launch("after")  # new rows are numbered behind the old ones
    for path in (keys.key_file(there.config), sealing.key_file(there.config)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_database_that_has_data_is_replaced_only_by_force(full: Portal, again: Again, tmp_path: Path) -> None:
    file, _ = backup(full, tmp_path)
    full.launch("later")
    assert "There is data in" in refused(full, file)
    assert full.job("later").name == "later"
    said = full.command("restore", str(file), "--force")
    assert said.exit_code == 0, said.stderr
    back = again(full)
    assert back.read(lambda: sorted(db.session.scalars(select(Job.name)))) == ["job-0", "job-1", "job-2"]
    back.launch("later")
    close(back)


def test_a_wrong_or_missing_key_is_refused_before_anything_is_touched(
    full: Portal, new_host: New, tmp_path: Path
) -> None:
    file, keys_file = backup(full, tmp_path)
    bare = new_host()
    assert "keys are missing" in refused(bare, file)
    other = new_host(secret_key="another key of 32 characters and more: 0987654321")
    assert "is not the one that the backup was made with" in refused(other, file)
    half = new_host(secret_key=KEY)
    assert "None of the SEAL_KEYS here opens the 1 stored credentials" in refused(half, file)
    told = json.loads(keys_file.read_text())
    keys_file.write_text(json.dumps({**told, "installation": "another"}))
    assert "belong to another installation" in refused(bare, file, "--keys", keys_file)
    keys_file.write_text("nothing")
    assert "is no file of keys" in refused(bare, file, "--keys", keys_file)
    for each in (bare, other, half):
        assert nothing_is_there(each)
        assert not keys.key_file(each.config).exists()


def test_a_damaged_backup_is_refused_before_anything_is_touched(full: Portal, new_host: New, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    whole = file.read_bytes()
    there = new_host()
    damaged = {
        "half": whole[: len(whole) // 2],
        "a byte": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
        "empty": b"",
        "something else": b"hello\n" * 5000,
    }
    for name, content in damaged.items():
        file.write_bytes(content)
        assert str(file) in refused(there, file, "--keys", keys_file), name
    assert "cannot be read" in refused(there, tmp_path / "missing", "--keys", keys_file)
    assert nothing_is_there(there)


def rewritten(file: Path, **changes: object) -> None:
    """The same backup with another manifest."""
    with tarfile.open(file) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]  # type: ignore[union-attr]
    told = {**json.loads(members[0][1]), **changes}
    members[0] = (members[0][0], json.dumps(told).encode())
    with tarfile.open(file, "w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_backup_of_a_newer_version_is_refused_and_says_which(full: Portal, new_host: New, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    there = new_host()
    rewritten(file, revision="9999", version="7.0")
    assert "made by a newer SimpleTrain (7.0, schema 9999)" in refused(there, file, "--keys", keys_file)
    rewritten(file, format=2)
    assert "made by a newer SimpleTrain" in refused(there, file, "--keys", keys_file)
    assert nothing_is_there(there)


def test_a_backup_that_lost_rows_is_refused_and_nothing_starts_on_it(
    full: Portal, again: Again, new_host: New, tmp_path: Path
) -> None:
    file, keys_file = backup(full, tmp_path)
    with tarfile.open(file) as tar:
        told = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    rewritten(file, counts={**told["counts"], "jobs": 4})
    there = new_host()
    assert "is not whole: jobs have other numbers of rows" in refused(there, file, "--keys", keys_file)
    for command in (("clusters", "list"), ("migrate",), ("serve",)):
        said = again(there).command(*command)
        assert said.exit_code == 1 and "A restore began here and has not ended" in said.stderr, said.stderr


@on_sqlite
def test_a_backup_goes_back_into_its_own_kind_of_database(full: Portal, tmp_path: Path, postgresql: Postgresql) -> None:
    file, _ = backup(full, tmp_path)
    config = dataclasses.replace(full.config, database_url=postgresql.url(postgresql.create()))
    assert "This is a backup of sqlite, and DATABASE_URL names postgresql" in refused(
        Portal(create_app(config), config), file
    )


@pytest.mark.parametrize("lock", ["serve.lock", "worker.lock"])
def test_it_is_refused_while_the_portal_runs(full: Portal, tmp_path: Path, lock: str) -> None:
    file, _ = backup(full, tmp_path)
    with installation.locked(full.config.data_dir / lock):
        assert refused(full, file, "--force").startswith(f"The portal runs on {full.config.data_dir}")


def test_it_is_refused_while_a_web_process_alone_has_the_database_open(
    full: Portal, again: Again, tmp_path: Path
) -> None:
    file, _ = backup(full, tmp_path)
    other = again(full)
    other.read(lambda: db.session.query(Job).count())  # its connection stays open in the pool
    told = refused(full, file, "--force")
    assert ("open (database is locked)" if full.config.sqlite else "The database is in use, by simpletrain") in told
    close(other)
    assert full.command("restore", str(file), "--force").exit_code == 0


def test_keys_that_were_there_go_aside_and_are_not_lost(
    full: Portal, again: Again, new_host: New, tmp_path: Path
) -> None:
    file, keys_file = backup(full, tmp_path)
    there = new_host()
    assert there.command("migrate").exit_code == 0  # made keys of its own
    old = keys.key_file(there.config).read_text()
    assert "There is data in" in refused(there, file, "--keys", keys_file)
    assert keys.key_file(there.config).read_text() == old
    said = there.command("restore", str(file), "--keys", str(keys_file), "--force")
    assert said.exit_code == 0, said.stderr
    (aside,) = keys.key_file(there.config).parent.glob("session.key.before-*")
    assert aside.read_text() == old
    assert again(there).command("clusters", "list").exit_code == 0


# upgrade, and the way back


def test_a_backup_of_an_older_schema_comes_back_and_migrate_brings_it_up(
    full: Portal, again: Again, new_host: New, tmp_path: Path
) -> None:
    """Also the way back: what an older version wrote is what it gets back."""
    with full.app.app_context():
        settings = full.app.extensions["migrate"].migrate.get_config(str(Path("migrations").absolute()))
        scripts = installation._script()
        head = scripts.get_revision("head")
        assert isinstance(head.down_revision, str)
        alembic.command.downgrade(settings, head.down_revision)
        db.session.remove()
    file, keys_file = backup(full, tmp_path)
    there = new_host()
    said = there.command("restore", str(file), "--keys", str(keys_file))
    assert said.exit_code == 0, said.stderr
    assert "The backup is of an older version. Run: flask --app wsgi migrate" in said.output
    there = again(there)
    with there.app.app_context(), pytest.raises(installation.NotReady, match="Run: flask --app wsgi migrate"):
        installation.verify()
    said = there.command("migrate")
    assert said.exit_code == 0, said.stderr
    assert f"The schema was {head.down_revision} and is {head.revision} now" in said.output
    assert there.command("migrate").output == "The database is up to date.\n"
    assert there.read(lambda: sorted(db.session.scalars(select(Job.name)))) == ["job-0", "job-1", "job-2"]

    def log() -> bytes:
        attempt_id = db.session.scalar(select(LogChunk.attempt_id).limit(1))
        return b"".join(piece.data for piece in logs.pieces(attempt_id or 0, 0))

    assert there.read(log) == PRINTED
    assert there.job("job-0").log_bytes > 0, "what a migration fills in"


def test_what_a_newer_version_made_is_in_nobodys_way(full: Portal, again: Again, tmp_path: Path) -> None:
    """The way back after an upgrade that added a table, and a reference between tables that were there before."""
    file, _ = backup(full, tmp_path)
    with full.app.app_context(), db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE newer (id integer PRIMARY KEY, job_id integer REFERENCES jobs (id))"))
        connection.execute(text("ALTER TABLE orgs ADD COLUMN newest_job integer REFERENCES jobs (id)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    close(full)
    with full.app.app_context(), pytest.raises(installation.NotReady, match="made by a newer SimpleTrain"):
        installation.verify()
    said = full.command("restore", str(file), "--force")
    assert said.exit_code == 0, said.stderr
    back = again(full)
    with back.app.app_context():
        installation.verify()
        assert "newer" not in inspect(db.engine).get_table_names()
    assert back.read(lambda: sorted(db.session.scalars(select(Job.name)))) == ["job-0", "job-1", "job-2"]
    assert back.command("migrate").exit_code == 0
    back.launch("later")


@on_sqlite
def test_a_restored_database_is_sound(full: Portal, new_host: New, tmp_path: Path) -> None:
    file, keys_file = backup(full, tmp_path)
    there = new_host()
    assert there.command("restore", str(file), "--keys", str(keys_file)).exit_code == 0
    path = there.config.data_dir / "portal.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = sqlite_module().connect(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert not [name for name in os.listdir(there.config.data_dir) if "restored" in name or "unfinished" in name]
