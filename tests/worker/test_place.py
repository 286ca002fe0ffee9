"""One worker at a time, also on several hosts; a lost connection costs seconds and no wish."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import OperationalError

from app.accounts import secrets
from app.config import Config
from app.database import db
from app.installation.service import Taken
from app.postgresql import LineLost
from app.worker.place import take
from tests.conftest import KEY, Portal, make_portal, on_postgresql
from tests.postgresql import Postgresql
from tests.worker.stub import make_worker


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"


def elsewhere(config: Config, folder: Path) -> Config:
    """The same portal, on another host: with the database in common and nothing else."""
    folder.mkdir()
    return dataclasses.replace(config, data_dir=folder)


def test_a_second_worker_on_the_same_folder_finds_the_place_taken(config: Config) -> None:
    with take(config), pytest.raises(Taken), take(config):
        pass
    with take(config):
        pass


@on_postgresql
def test_a_worker_on_another_host_finds_it_taken_too(config: Config, tmp_path: Path) -> None:
    other = elsewhere(config, tmp_path / "other")
    with take(config), pytest.raises(Taken), take(other):
        pass
    with take(other):
        pass


def name_of(config: Config) -> str:
    return str(make_url(config.database).database)


def cut_all(server: Postgresql, config: Config) -> int:
    """End every connection to a database, as a failover or an operator does: how many there were."""
    rows = server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{name_of(config)}' AND pid <> pg_backend_pid()"
    )
    return len(rows)


@on_postgresql
def test_a_wish_that_was_told_while_the_line_was_cut_is_seen(portal: Portal, postgresql: Postgresql) -> None:
    with take(portal.config) as place:
        place.wait(0)
        assert cut_all(postgresql, portal.config) >= 1
        portal.launch("one")
        eventually(lambda: place.wait(0.1), "whoever lost the line looks by itself")
        eventually(lambda: place._line is not None or place.wait(0.05) is None, "a new line")
        place.wait(0)
        assert not place.wait(0), "and then rests again"
        portal.launch("two")
        eventually(lambda: place.wait(0.1), "a ring over the new line")


@on_postgresql
def test_a_cut_line_gives_the_place_to_whoever_comes_first(
    portal: Portal, postgresql: Postgresql, tmp_path: Path
) -> None:
    """And the one that lost it can write no more, though it does not know yet."""
    worker = make_worker(portal)
    job = worker.launch("one")
    with take(portal.config) as place:
        cut_all(postgresql, portal.config)
        with take(elsewhere(portal.config, tmp_path / "other")):
            successor = make_worker(portal, worker.cluster)
            eventually(lambda: place.wait(0.1) and place._line is None, "it noticed, and finds the lock taken")
            with pytest.raises(Exception, match="was followed by"):
                worker.look()
            successor.look()
            assert portal.job(job.name).state == "starting"
            assert worker.cluster.asked("launch") == 1


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[tuple[Postgresql, Portal]]:
    """A server that may be stopped, with a new portal on it."""
    with Postgresql() as server:
        portal = make_portal(
            Config(data_dir=tmp_path / "own", secret_key=KEY, database_url=server.url(server.create()))
        )
        yield server, portal
        with portal.app.app_context():
            db.session.remove()
            db.engine.dispose()


def test_a_stopped_server_answers_503_and_after_its_start_everything_goes_on(
    own_server: tuple[Postgresql, Portal], tmp_path: Path
) -> None:
    server, other = own_server
    client = other.app.test_client()
    bearer = {"Authorization": f"Bearer st_{secrets.public_id()}_{secrets.random_secret()}"}
    assert client.get("/readyz").status_code == 200
    with take(other.config) as place:
        server.stop(signal.SIGQUIT)  # as in a crash
        for path in ("/readyz", "/sign-in", "/orgs/lab/jobs"):
            answer = client.get(path)
            assert answer.status_code == 503, path
            assert int(answer.headers["Retry-After"]) > 0
        answer = client.get("/api/me", headers=bearer)
        assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
        assert client.get("/healthz").status_code == 200
        place.wait(0)
        with pytest.raises(LineLost), take(elsewhere(other.config, tmp_path / "other")):
            pass
        server.start()
        assert client.get("/readyz").status_code == 200, "no restart is needed"
        assert client.get("/api/me", headers=bearer).status_code == 401
        eventually(lambda: not place.wait(0.05) and place._line is not None, "the worker's line")


@on_postgresql
def test_connections_that_were_cut_are_replaced_before_anybody_notices(portal: Portal, postgresql: Postgresql) -> None:
    api = portal.api("bob")
    for _ in range(3):
        assert api.get("/api/me").status_code == 200
        assert cut_all(postgresql, portal.config) >= 1
    assert api.post("/api/jobs", json={"preset": "plain", "command": "true"}).status_code == 201


@on_postgresql
def test_a_launch_whose_commit_is_cut_is_never_called_saved_or_lost(portal: Portal, postgresql: Postgresql) -> None:
    """Only looking tells. With its idempotency key it can be sent again: there is one job in the end."""
    api = portal.api("bob")
    asked = {"preset": "plain", "command": "true"}
    headers = {"Idempotency-Key": "once"}

    cuts: list[int] = []

    def cut(connection: object) -> None:
        if not cuts:
            cuts.append(0)
            cuts.append(cut_all(postgresql, portal.config))

    with portal.app.app_context():
        api.get("/api/me")  # notes its last use now, and not in the transaction that is cut
        event.listen(db.engine, "commit", cut)
    answer = api.post("/api/jobs", json=asked, headers=headers)
    assert cuts[1] >= 1
    assert answer.status_code == 503
    assert "not known" in answer.get_json()["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    again = api.post("/api/jobs", json=asked, headers=headers)
    assert again.status_code in (200, 201)
    assert len(api.get("/api/jobs").get_json()["jobs"]) == 1


@on_postgresql
def test_a_statement_that_takes_too_long_is_ended_by_the_server(make: Callable[..., Portal]) -> None:
    portal = make(database_timeout=1)
    with portal.app.app_context(), pytest.raises(OperationalError, match="statement timeout"):
        db.session.execute(text("SELECT pg_sleep(60)"))


@on_postgresql
def test_a_row_that_somebody_holds_for_ever_ends_in_503_and_not_in_a_thread_that_hangs(
    make: Callable[..., Portal], postgresql: Postgresql
) -> None:
    portal = make(database_timeout=1)
    job = portal.launch("one")
    api = portal.api("bob")
    with psycopg.connect(postgresql.dsn(name_of(portal.config))) as holder:
        holder.execute("SELECT id FROM jobs WHERE id = %s FOR UPDATE", (job.id,))
        answer = api.delete("/api/jobs/one")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
    assert api.delete("/api/jobs/one").status_code == 202
