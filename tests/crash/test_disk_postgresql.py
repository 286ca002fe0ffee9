"""A full disk under a real PostgreSQL: under its tables, then under all that it has, where it falls."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import update

from app import create_app
from app.accounts.models import ApiToken, UserSession
from app.config import Config
from app.database import db, now, transaction
from tests.conftest import KEY, Portal, furnish_anew
from tests.crash.disk import Disk
from tests.crash.portals import Answer, Served, wait_for
from tests.postgresql import Postgresql

TABLES = 32 << 20  # bytes
ALL = 128 << 20  # bytes; an empty server has 40 MiB
WALL = 8  # seconds in which everybody runs against the wall; what these tests are about


class Launches:
    """Launches, one after the other, and what became of them."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.acknowledged: set[str] = set()
        self.unsure: set[str] = set()  # the connection was lost while it was committed, and the answer said so
        self.refused: list[Answer] = []
        self._tried = 0

    def launch(self) -> Answer:
        """It fits into a page that is there already, or is refused."""
        self._tried += 1
        name = f"job-{self._tried}"
        answer = self.served.request("POST", "/api/jobs", {"preset": "plain", "name": name, "command": "true"})
        if answer.status == 201:
            self.acknowledged.add(name)
        else:
            assert answer.status == 503, answer.body
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Content-Type"] == "application/problem+json"
            self.refused.append(answer)
            if answer.json["type"].endswith("/unsure"):
                self.unsure.add(name)
        return answer

    def names(self) -> set[str]:
        """The jobs that there are."""
        return {job["name"] for job in self.served.request("GET", "/api/jobs?limit=200").json["jobs"]}


def on(url: str, data: Path, served: Served) -> None:
    """Let a portal that was never started be the one in a furnished folder."""
    shutil.copytree(data, served.data)
    served.settings["DATABASE_URL"] = url
    app = create_app(Config.from_env(served.environment))
    served.portal = Portal(app, app.config["PORTAL"])
    served.token = served.portal.token("bob")


def let_go(served: Served) -> None:
    served.clean_up()
    with served.portal.app.app_context():
        db.session.remove()
        db.engine.dispose()


def signed_in(served: Served) -> Any:
    said = served.command("users", "link", "bob@example.org")
    link = re.search(r"http://\S+", said.stdout)
    assert link is not None, said.stderr
    return served.sign_in(link[0])


# under the tables


@pytest.fixture
def disk(postgresql: Postgresql) -> Iterator[Disk]:
    """A disk that the server may write to."""
    made = Disk(postgresql.folder / "disk", TABLES)
    postgresql.own(made.folder)
    yield made
    made.close()


@pytest.fixture
def on_disk(
    disk: Disk, postgresql: Postgresql, furnished_postgresql: tuple[Path, str], fresh: Callable[..., Served]
) -> Iterator[Served]:
    """A portal whose database lies in a tablespace on the small disk; the server's journal does not."""
    data, template = furnished_postgresql
    postgresql.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
    name = postgresql.create(template, "small")
    served = fresh(SECRET_KEY=KEY)
    on(postgresql.url(name), data, served)
    yield served
    let_go(served)
    postgresql.drop(name)
    postgresql.execute("DROP TABLESPACE small")


def test_with_no_room_for_tables_writes_get_503_reads_go_on_and_nothing_needs_a_restart(
    on_disk: Served, disk: Disk
) -> None:
    served = on_disk
    served.serve()
    page = signed_in(served)
    lines = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.02; done"
    served.launch("printer", served.gated("printer", lines, "true"))
    served.launch("ender", served.gated("ender", "echo begun", "exit 7"))
    for name in ("printer", "ender"):
        served.until(name, "running")
    wait_for(lambda: served.printed("printer").count(b"\n") > 20, "some lines")
    worker, web = served.child("worker"), served.child("web")
    with served.portal.app.app_context(), transaction():  # then every read would like to note that it came
        db.session.execute(update(ApiToken).values(used_at=now() - timedelta(hours=1)))
        db.session.execute(update(UserSession).values(seen_at=now() - timedelta(hours=1)))

    disk.fill()
    launches = Launches(served)
    began = time.monotonic()
    while len(launches.refused) < 20 or time.monotonic() < began + WALL:
        if launches.launch().status == 503:
            assert launches.refused[-1].json["title"] == "The portal's disk is full"
        for path in ("/api/me", "/api/jobs", "/api/jobs/printer", "/api/jobs/printer/logs", "/api/clusters"):
            assert served.request("GET", path).status == 200, path
        for path in ("/orgs/lab/jobs", "/orgs/lab/jobs/printer", "/orgs/lab/new-job", "/healthz", "/readyz"):
            with page.open(f"http://127.0.0.1:{served.port}{path}") as told:
                assert told.status == 200, path
        if len(launches.refused) == 10:
            served.open_gate("ender")  # it ends, and how can perhaps not be written down
        disk.fill()
    assert (served.child("worker"), served.child("web")) == (worker, web), served.said()

    disk.free()
    wait_for(lambda: launches.launch().status == 201, "a launch")
    for name in launches.acknowledged:
        served.until(name, "succeeded")
    ended = served.until("ender", "failed")
    assert (ended["exit_code"], ended["reason"]["code"]) == (7, "exit_code")
    assert served.log("ender") == (b"begun\n", "")
    served.open_gate("printer")
    served.until("printer", "succeeded")
    whole = b"".join(b"line %d\n" % number for number in range(400))
    assert served.log("printer") == (whole, ""), "the disk of the job itself had room"
    assert (served.child("worker"), served.child("web")) == (worker, web), "nothing was started again"
    assert launches.names() == {"printer", "ender", *launches.acknowledged}


# under everything


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Postgresql, Disk]]:
    """A server that has all of its data on a small disk."""
    folder = Path(tempfile.mkdtemp(prefix="simpletrain-postgresql-", dir="/tmp"))
    disk = Disk(folder / "data", ALL)
    try:
        settings = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
        with Postgresql(folder=folder, settings=settings) as server:
            yield server, disk
    finally:
        disk.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_server_that_falls_on_a_full_disk_is_waited_for(
    server: tuple[Postgresql, Disk], fresh: Callable[..., Served], tmp_path: Path
) -> None:
    """PostgreSQL ends itself where its journal cannot go on. The portal says so until somebody starts it again."""
    postgresql, disk = server
    url = postgresql.url(postgresql.create())
    furnish_anew(Config(data_dir=tmp_path / "furnished", secret_key=KEY, database_url=url))
    served = fresh(SECRET_KEY=KEY)
    on(url, tmp_path / "furnished", served)
    served.serve()
    served.launch("ender", served.gated("ender", "echo begun", "exit 7"))
    served.until("ender", "running")
    worker, web = served.child("worker"), served.child("web")
    launches = Launches(served)
    launches.launch()

    disk.fill()

    def fallen() -> bool:
        launches.launch()
        try:
            postgresql.execute("SELECT pg_switch_wal()")  # as archiving does at its time
        except psycopg.Error:
            return postgresql.process is not None and postgresql.process.poll() is not None
        return False

    wait_for(fallen, "the end of the server")
    refused = launches.launch()
    assert refused.status == 503
    assert served.request("GET", "/api/jobs").status == 503
    assert (served.request("GET", "/healthz").status, served.request("GET", "/readyz").status) == (200, 503)
    served.open_gate("ender")
    wait_for(lambda: not served.job_processes(), "the end of the job's own processes")

    disk.free()
    postgresql.start()
    wait_for(lambda: launches.launch().status == 201, "a launch")
    for name in launches.acknowledged:
        served.until(name, "succeeded")
    assert served.until("ender", "failed")["exit_code"] == 7
    assert served.log("ender") == (b"begun\n", "")
    assert (served.child("worker"), served.child("web")) == (worker, web), "nothing was started again"
    known = {"ender", *launches.acknowledged}
    assert known <= launches.names() <= known | launches.unsure
    let_go(served)
