"""From SQLite to PostgreSQL: the same portal answers there, or nothing is there at all."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from app import create_app
from app.accounts import service as accounts
from app.accounts.models import SignInFailure
from app.clusters import service as clusters
from app.config import REPOSITORY, Config
from app.database import Base, db, now, transaction
from app.installation import service as installation
from app.jobs.models import Job, JobEvent
from app.jobs.states import State
from app.logs import service as logs
from app.logs.models import LogStream
from app.orgs import service as orgs
from tests.conftest import KEY, Portal, on_sqlite
from tests.postgresql import Postgresql
from tests.retention.conftest import history, noise

pytestmark = on_sqlite

PRINTED = noise(2 << 20) + b"\x00\xff\n" + b"".join(b"line %d\n" % number for number in range(50_000))


@pytest.fixture
def full(portal: Portal) -> Portal:
    """A portal in which no table is empty."""
    for number in range(25):
        portal.launch(f"job-{number}")
    token = portal.api("bob")
    assert token.get("/api/me").status_code == 200
    portal.browser("bob")
    with portal.app.app_context(), transaction():
        lab = orgs.by_slug("lab")
        clusters.add_kubernetes("berlin", {"namespace": "lab", "gpus": {"H100": 8}}, "a credential", [lab.id])
        for number, state in enumerate(State):
            job = db.session.query(Job).filter_by(name=f"job-{number}").one()
            history(job, now() - timedelta(days=number, microseconds=number), state, state.final, PRINTED, 2)
        stream = db.session.query(LogStream).first()
        assert stream is not None
        logs.append(stream, b"", "c", None, "Ünïcödé is missing here", True, 1 << 30)
        db.session.add(SignInFailure(email_hash=b"\x00\xff" * 16, address="10.0.0.1"))
        # what PostgreSQL cannot keep
        db.session.execute(update(JobEvent).where(JobEvent.id == 1).values(detail="a\0b"))
    empty = [
        table.name
        for table in Base.metadata.sorted_tables
        if not portal.read(lambda table=table: db.session.scalar(select(func.count()).select_from(table)))  # type: ignore[misc]  # bound
    ]
    assert not empty, "a table that is new here needs a row in this fixture"
    close(portal)
    return portal


@pytest.fixture
def target(postgresql: Postgresql) -> Iterator[str]:
    """The address of an empty database."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def on(config: Config) -> Iterator[Callable[[str], Portal]]:
    """The same portal on another database."""
    made: list[Portal] = []

    def open_(url: str) -> Portal:
        there = dataclasses.replace(config, database_url=url)
        made.append(Portal(create_app(there), there))
        return made[-1]

    yield open_
    for each in made:
        close(each)


def close(portal: Portal) -> None:
    with portal.app.app_context():
        db.session.remove()
        db.engine.dispose()


def everything(portal: Portal) -> dict[str, list[tuple[object, ...]]]:
    def read() -> dict[str, list[tuple[object, ...]]]:
        found = {}
        for table in Base.metadata.sorted_tables:
            rows = db.session.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [tuple(row) for row in rows]
        return found

    told: dict[str, list[tuple[object, ...]]] = portal.read(read)
    return told


def test_the_same_portal_answers_on_the_other_database(full: Portal, target: str, on: Callable[[str], Portal]) -> None:
    bob = full.api("bob")
    paths = ["/api/jobs?limit=200", "/api/jobs/job-3", "/api/presets", "/api/clusters", "/api/me"]
    before = {path: bob.get(path).get_json() for path in paths}
    log = bob.get("/api/jobs/job-4/logs?rank=1").data
    rows = everything(full)
    said = full.command("database", "move-to", target)
    assert said.exit_code == 0, said.stderr
    assert "log_chunks: " in said.output and "moved and compared." in said.output
    assert "NUL characters, which PostgreSQL cannot keep, were replaced in 1 text." in said.output
    assert "Now set DATABASE_URL to postgresql://" in said.output
    there = on(target)
    told = everything(there)
    for name, wanted in rows.items():
        kept = [tuple("a\N{REPLACEMENT CHARACTER}b" if v == "a\0b" else v for v in row) for row in wanted]
        assert told[name] == kept, name
    with there.app.app_context():
        installation.verify()
    client = there.app.test_client()
    headers = {"Authorization": f"Bearer {bob.token}"}
    for path, answer in before.items():
        now_told = client.get(path, headers=headers).get_json()
        assert now_told == answer or path == "/api/me", path
    assert client.get("/api/jobs/job-4/logs?rank=1", headers=headers).data == log != b""
    newest = max(full.read(lambda: db.session.scalars(select(Job.id)).all()))
    assert there.launch("after").id == newest + 1, "numbers go on"
    browser = there.browser("bob")
    assert browser.get("/orgs/lab/jobs/job-4").status_code == 200
    assert everything(full) == rows, "the source is only read"


def test_the_schema_is_the_one_that_migrations_make(full: Portal, target: str, on: Callable[[str], Portal]) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    assert full.command("database", "move-to", target).exit_code == 0
    there = on(target)
    with there.app.app_context(), db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == installation.newest_revision()
        assert compare_metadata(context, Base.metadata) == []


def test_the_first_search_there_is_as_quick_as_any_later_one(full: Portal, target: str, postgresql: Postgresql) -> None:
    """PostgreSQL has gone over what was copied, and does not have to come round to it first."""
    assert full.command("database", "move-to", target).exit_code == 0
    name = target.partition("@/")[2].partition("?")[0]
    asked = "SELECT last_vacuum, last_analyze FROM pg_stat_user_tables WHERE relname = 'jobs'"
    assert None not in postgresql.execute(asked, name)[0]


def refused(portal: Portal, target: str) -> str:
    said = portal.command("database", "move-to", target)
    assert said.exit_code == 1, said.output
    assert said.stderr.startswith("Error: ") and "Traceback" not in said.stderr
    return said.stderr.removeprefix("Error: ").strip()


def is_empty(postgresql: Postgresql, url: str) -> bool:
    name = url.partition("@/")[2].partition("?")[0]
    return postgresql.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [(0,)]


def test_a_target_with_data_is_refused_and_keeps_it(
    full: Portal, target: str, on: Callable[[str], Portal], postgresql: Postgresql
) -> None:
    assert on(target).command("migrate").exit_code == 0  # a portal of its own
    assert "There are tables in the target" in refused(full, target)
    name = postgresql.create()
    postgresql.execute("CREATE TABLE theirs (id int)", name)
    assert "There are tables in the target (theirs…). Give it an empty one." in refused(full, postgresql.url(name))
    assert postgresql.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [(1,)]


@pytest.mark.parametrize("lock", ["serve.lock", "worker.lock"])
def test_it_is_refused_while_the_portal_runs(full: Portal, target: str, lock: str, postgresql: Postgresql) -> None:
    with installation.locked(full.config.data_dir / lock):
        assert refused(full, target).startswith(f"The portal runs on {full.config.data_dir}")
    assert is_empty(postgresql, target)


def test_what_is_no_postgresql_is_refused(full: Portal, tmp_path: Path) -> None:
    for url in ("mysql://somewhere/else", f"sqlite:///{tmp_path}/other.db", "nonsense"):
        assert "must look like postgresql://user:password@host/name" in refused(full, url)
    assert "The target does not answer" in refused(full, f"postgresql:///nothing?host={tmp_path}")


def test_a_text_that_is_too_long_for_the_target_leaves_nothing_there(
    full: Portal, target: str, postgresql: Postgresql
) -> None:
    with full.app.app_context(), transaction():
        db.session.execute(update(accounts.User).where(accounts.User.id == 1).values(name="x" * 500))
    close(full)
    assert refused(full, target).startswith("Nothing was moved: value too long")
    assert is_empty(postgresql, target)


@pytest.mark.parametrize("point", ["move.after_schema", "move.before_commit"])
def test_a_kill_leaves_nothing_and_the_next_one_succeeds(
    full: Portal, target: str, postgresql: Postgresql, point: str, on: Callable[[str], Portal]
) -> None:
    environment = {**os.environ, "DATA_DIR": str(full.config.data_dir), "SECRET_KEY": KEY, "SIMPLETRAIN_FAULT": point}
    killed = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "database", "move-to", target],
        cwd=REPOSITORY,
        env=environment,
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert is_empty(postgresql, target)
    said = full.command("database", "move-to", target)
    assert said.exit_code == 0, said.stderr
    assert len(everything(on(target))["jobs"]) == 25


def test_the_address_can_be_typed_where_nobody_sees_it(full: Portal, target: str) -> None:
    said = full.app.test_cli_runner().invoke(args=["database", "move-to"], input=f"{target}\n")
    assert said.exit_code == 0, said.stderr
