"""Making an installation ready, and refusing one that is not, with a sentence for the operator."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import alembic.command
import alembic.util
import pytest
from sqlalchemy import event, inspect, text

from app import create_app
from app.config import REPOSITORY, Config
from app.database import db
from app.installation import keys, sealing
from app.installation import service as installation
from tests.conftest import KEY, Portal, make_portal, on_sqlite


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def new(config: Config) -> Portal:
    """A portal of these settings that nothing was prepared for."""
    return Portal(create_app(config), config)


def fails(portal: Portal) -> str:
    """What `prepare` says, and that an operator's command says the same and does nothing else."""
    with portal.app.app_context():
        with pytest.raises(installation.NotReady) as refused:
            installation.prepare()
        db.session.remove()
    said = portal.command("clusters", "list")
    assert said.exit_code == 1
    assert said.stdout == ""
    assert str(refused.value) in said.stderr
    with portal.app.app_context():
        db.engine.dispose()
    return str(refused.value)


def close(portal: Portal) -> None:
    with portal.app.app_context():
        db.engine.dispose()


# keys


def test_keys_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "var")
    old = os.umask(0)
    try:
        portal = make_portal(config)
    finally:
        os.umask(old)
    made = sorted((config.data_dir / "keys").iterdir())
    assert keys.key_file(config) in made
    assert sealing.key_file(config) in made
    assert len(made) == 2  # and nothing half-written beside them
    for file in made:
        assert mode(file) == 0o600
        assert mode(file.parent) == 0o700
    assert mode(config.data_dir) == 0o700
    assert mode(config.data_dir / "portal.db") == 0o600
    key = keys.read(config)
    assert len(key) >= 43
    before = [file.read_bytes() for file in made]
    with portal.app.app_context():
        installation.prepare()
        installation.verify()
    assert [file.read_bytes() for file in made] == before
    assert key not in (config.data_dir / "portal.db").read_bytes().decode("latin-1")
    close(portal)


def test_two_installations_have_different_keys(tmp_path: Path) -> None:
    configs = [Config(data_dir=tmp_path / name) for name in "ab"]
    for config in configs:
        close(make_portal(config))
    assert keys.read(configs[0]) != keys.read(configs[1])
    assert sealing.read(configs[0]) != sealing.read(configs[1])


def test_processes_that_start_at_once_end_up_with_the_same_key(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from app.config import Config; from app.installation import keys, sealing\n"
        "config = Config(data_dir=Path(sys.argv[1]))\n"
        "sys.stdin.read()\n"  # until everybody is ready
        "print(keys.make(config), sealing.make(config)[0].hex())\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "var")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    said = set()
    for process in started:
        assert process.stdout is not None
        said.add(process.stdout.read())
        process.stdout.close()
        assert process.wait(30) == 0
    assert len(said) == 1
    assert len(said.pop().split()) == 2


def test_processes_that_prepare_at_once_make_one_installation(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "var")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "migrate"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    portal = new(Config(data_dir=tmp_path / "var"))
    with portal.app.app_context():
        installation.verify()
    close(portal)


def test_the_made_key_signs_sessions_that_a_restart_still_knows(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "var")
    portal = make_portal(config)
    portal.command("users", "create", "alice@example.org")
    browser = portal.browser("alice")
    restarted = new(config)
    again = restarted.browser()
    for cookie in (browser.client._cookies or {}).values():
        again.client.set_cookie(cookie.key, cookie.value)
    assert again.get("/account").status_code == 200
    close(portal)
    close(restarted)


# what is refused


@pytest.fixture
def made(tmp_path: Path) -> Config:
    """The folder of a portal that was served before, with keys of its own."""
    config = Config(data_dir=tmp_path / "var")
    close(make_portal(config))
    return config


def test_a_database_without_its_key_is_refused_and_given_no_new_one(made: Config) -> None:
    keys.key_file(made).unlink()
    text = fails(new(made))
    assert str(keys.key_file(made)) in text
    assert "is gone" in text
    assert "backup" in text
    assert not keys.key_file(made).exists()


def test_a_database_with_another_key_is_refused(made: Config) -> None:
    before = (made.data_dir / "portal.db").read_bytes()
    keys.key_file(made).write_text("another key, as long as it should be: 0123456789\n")
    text = fails(new(made))
    assert "SECRET_KEY is not the key that this database began with" in text
    assert str(keys.key_file(made)) in text
    assert (made.data_dir / "portal.db").read_bytes() == before


def test_a_secret_key_that_is_not_the_databases_is_refused(config: Config) -> None:
    text = fails(new(dataclasses.replace(config, secret_key=KEY[::-1])))
    assert "Bring back the old SECRET_KEY" in text


@pytest.mark.parametrize("name", ["session.key", "seal.keys"])
def test_an_empty_key_file_is_refused_and_never_taken_for_a_key(tmp_path: Path, name: str) -> None:
    config = Config(data_dir=tmp_path / "var")
    (config.data_dir / "keys").mkdir(parents=True)
    (config.data_dir / "keys" / name).touch()
    assert "key file" in fails(new(config))
    assert (config.data_dir / "keys" / name).read_bytes() == b""


def test_seal_keys_that_are_none_are_refused(made: Config) -> None:
    sealing.key_file(made).write_text("not base64 of 32 bytes\n")
    assert "SEAL_KEYS" in fails(new(made))


def test_a_newer_schema_is_refused_and_left_alone(made: Config) -> None:
    with sqlite3.connect(made.data_dir / "portal.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    text = fails(new(made))
    assert "newer SimpleTrain (its schema is 9999)" in text
    portal = new(made)
    with portal.app.app_context():
        with pytest.raises(installation.NotReady, match="newer"):
            installation.verify()
        assert installation._revision() == "9999"
    close(portal)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    with sqlite3.connect(tmp_path / "portal.db") as connection:
        connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()
    assert "tables that SimpleTrain did not make" in fails(new(config))
    with sqlite3.connect(tmp_path / "portal.db") as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("users",)]
    assert not keys.key_file(config).exists()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "portal.db").write_bytes(b"this is a letter to somebody" * 100)
    text = fails(new(Config(data_dir=tmp_path)))
    assert "The database cannot be used: file is not a database" in text


@pytest.mark.parametrize("below", ["", "var", "var/deeper"])
def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    text = fails(new(Config(data_dir=folder)))
    assert text.startswith("DATA_DIR: ")
    assert str(tmp_path / "file") in text
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as root every folder can be written, so the kernel's answer is put on
    opened = os.open

    def refuse(path: object, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    text = fails(new(Config(data_dir=tmp_path)))
    assert text == f"DATA_DIR: nothing can be written in {tmp_path} (Permission denied)."


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = fails(new(Config(data_dir=tmp_path / "var")))
    assert "No space left on device" in text
    assert list((tmp_path / "var" / "keys").iterdir()) == []  # no half-written key


def test_web_and_worker_refuse_what_is_not_prepared(tmp_path: Path) -> None:
    portal = new(Config(data_dir=tmp_path / "var", secret_key=KEY))
    for command in ("web", "worker"):
        said = portal.command(command)
        assert said.exit_code == 1
        assert "Run: flask --app wsgi migrate" in said.stderr
    assert not (tmp_path / "var").exists()


# the schema


def test_a_web_without_a_portal_speaks_of_no_key_that_was_lost(tmp_path: Path) -> None:
    app = create_app(Config(data_dir=tmp_path))
    with app.app_context(), pytest.raises(installation.NotReady, match="Run: flask --app wsgi migrate"):
        installation.verify()


def test_models_and_migrations_say_the_same(portal: Portal) -> None:
    with portal.app.app_context():
        alembic.command.check(installation._alembic())


@on_sqlite
def test_a_migration_that_copies_a_table_takes_nothing_along_that_refers_to_it(portal: Portal) -> None:
    """As SQLite changes most columns: with references in force, dropping the old jobs would empty the timeline."""
    portal.launch("one")
    enforced: list[int] = []

    def look(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("CREATE"):
            raw = connection.connection.dbapi_connection
            enforced.append(raw.execute("PRAGMA foreign_keys").fetchone()[0])

    with portal.app.app_context():
        alembic.command.downgrade(installation._alembic(), "0002")
        event.listen(db.engine, "before_cursor_execute", look)
        alembic.command.upgrade(installation._alembic(), "head")
        event.remove(db.engine, "before_cursor_execute", look)
        db.session.remove()
        assert enforced
        assert set(enforced) == {0}
        assert db.session.scalar(text("PRAGMA foreign_keys")) == 1, "in force again"
        assert db.session.scalar(text("SELECT count(*) FROM job_events")) == 1


def test_the_schema_goes_down_and_up_again(portal: Portal) -> None:
    with portal.app.app_context():
        before = set(inspect(db.engine).get_table_names())
        assert {"jobs", "users"} <= before
        alembic.command.downgrade(installation._alembic(), "base")
        db.session.remove()
        assert set(inspect(db.engine).get_table_names()) == {"alembic_version"}
        alembic.command.upgrade(installation._alembic(), "head")
        assert set(inspect(db.engine).get_table_names()) == before
        alembic.command.check(installation._alembic())


def test_an_old_schema_is_brought_up_to_date_before_anything_new_is_read(made: Config) -> None:
    """`prepare` reads the key's check value from a table that the waiting migrations may be about to change."""
    portal = new(made)
    statements: list[str] = []
    with portal.app.app_context():
        from sqlalchemy import event

        event.listen(db.engine, "before_cursor_execute", lambda _c, _k, text, *_: statements.append(text))
        installation.prepare()
    close(portal)
    reads = [text for text in statements if "FROM installation" in text]
    assert reads
    assert all("seal_public" not in text and "base_url" not in text for text in reads)


def test_preparing_again_changes_nothing(made: Config) -> None:
    portal = new(made)

    def everything() -> list[str]:
        connection = sqlite3.connect(made.data_dir / "portal.db")
        dumped = list(connection.iterdump())
        connection.close()
        return dumped

    before = everything()
    with portal.app.app_context():
        installation.prepare()
    close(portal)
    assert everything() == before


def test_sealed_secrets_open_with_the_key_alone(made: Config) -> None:
    portal = new(made)
    with portal.app.app_context():
        sealed = installation.seal(b"a kubeconfig")
        assert b"kubeconfig" not in sealed
        assert installation.seal(b"a kubeconfig") != sealed
        assert installation.unseal(sealed) == b"a kubeconfig"
        sealing.key_file(made).unlink()
        with pytest.raises(installation.NotReady, match=r"seal\.keys"):
            installation.unseal(sealed)
        db.session.remove()
        assert installation.seal(b"the web still can")
        db.session.remove()
    close(portal)


def test_a_lock_is_held_by_one_and_freed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with installation.locked(path), pytest.raises(installation.Taken), installation.locked(path):
        pass
    with installation.locked(path):
        pass
