"""A full disk under SQLite: writes get 503, pages stay up, nothing is kept by halves, and no restart is needed."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app import create_app
from app.accounts.models import ApiToken, UserSession
from app.config import Config
from app.database import db, now, sqlite_module, transaction
from app.jobs.models import Job
from tests.conftest import KEY, Portal
from tests.crash.disk import Disk
from tests.crash.portals import Served, wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture
def on_disk(disk: Disk, fresh: Callable[..., Served], furnished: Path) -> Iterator[Served]:
    """A portal whose DATA_DIR is on the small disk; what jobs wait for, and what processes say, is not."""
    served = fresh(SECRET_KEY=KEY)
    served.data = disk.folder / "data"
    shutil.copytree(furnished, served.data)
    app = create_app(Config.from_env(served.environment))
    served.portal = Portal(app, app.config["PORTAL"])
    served.token = served.portal.token("bob")
    yield served
    served.clean_up()
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


def names_of(served: Served) -> set[str]:
    with served.portal.app.app_context():
        return {name for (name,) in db.session.query(Job.name)}


def test_on_a_full_disk_writes_get_503_reads_go_on_and_nothing_needs_a_restart(on_disk: Served, disk: Disk) -> None:
    served = on_disk
    served.serve()
    page = served.sign_in(_link(served))
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
    acknowledged: list[str] = []

    def refused() -> Any:
        name = f"job-{len(acknowledged)}"
        answer = served.request("POST", "/api/jobs", {"preset": "plain", "name": name, "command": "true"})
        if answer.status == 201:
            acknowledged.append(name)
            disk.fill()  # it found room in a file that was there already
            return None
        return answer

    answer = wait_for(refused, "a refusal")
    assert answer.status == 503, answer.body
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["title"] == "The portal's disk is full"
    for _ in range(20):
        answer = served.request("POST", "/api/jobs", {"preset": "plain", "name": "never", "command": "true"})
        assert answer.status == 503, answer.body
        for path in ("/api/me", "/api/jobs", "/api/jobs/printer", "/api/jobs/printer/logs", "/api/clusters"):
            assert served.request("GET", path).status == 200, path
        for path in ("/orgs/lab/jobs", "/orgs/lab/jobs/printer", "/orgs/lab/new-job", "/healthz", "/readyz"):
            with page.open(f"http://127.0.0.1:{served.port}{path}") as told:
                assert told.status == 200, path
    assert served.request("DELETE", "/api/jobs/printer").status == 503
    served.open_gate("ender")  # it ends, and how cannot be written down
    disk.fill()
    wait_for(lambda: len(served.job_processes()) < 4, "the end of the job's own processes")
    began = time.monotonic()
    while time.monotonic() < began + 8:  # seconds in which everybody runs against the wall; what this test is about
        disk.fill()
        time.sleep(0.2)
    assert (served.child("worker"), served.child("web")) == (worker, web), served.said()
    assert "never" not in names_of(served)

    disk.free()
    launched = wait_for(lambda: _launched(served, "later"), "a launch")
    assert launched.status == 201
    assert served.until("later", "succeeded")["exit_code"] == 0
    for name in acknowledged:
        served.until(name, "succeeded")
    ended = served.until("ender", "failed")
    assert (ended["exit_code"], ended["reason"]["code"]) == (7, "exit_code")
    assert served.log("ender") == (b"begun\n", "")
    wait_for(lambda: b"line 399" in served.printed("printer") or _has_all(served), "the last line")
    printed = served.printed("printer")
    served.open_gate("printer")
    served.until("printer", "succeeded")
    assert served.log("printer") == (printed, ""), "what the job could write is there byte for byte"
    assert printed.startswith(b"line 0\nline 1\n")
    assert (served.child("worker"), served.child("web")) == (worker, web), "nothing was started again"
    assert names_of(served) == {"printer", "ender", "later", *acknowledged}
    connection = sqlite_module().connect(str(served.data / "portal.db"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def _link(served: Served) -> str:
    said = served.command("users", "link", "bob@example.org")
    assert said.returncode == 0, said.stderr
    link = re.search(r"http://\S+", said.stdout)
    assert link is not None, said.stdout
    return link[0]


def _launched(served: Served, name: str) -> Any:
    answer = served.request("POST", "/api/jobs", {"preset": "plain", "name": name, "command": "true"})
    return answer if answer.status == 201 else None


def _has_all(served: Served) -> bool:
    """The job has come to its gate: it prints no more."""
    size = len(served.printed("printer"))
    time.sleep(0.5)  # many times as long as from one line to the next
    return len(served.printed("printer")) == size


def test_a_job_that_starts_while_the_disk_fills_is_never_without_its_supervisor(on_disk: Served, disk: Disk) -> None:
    """Whatever could be written when it started: it ends right, or never began."""
    served = on_disk
    served.serve()
    for number in range(4):
        served.launch(f"job-{number}", served.counted(f"job-{number}", "sleep 1; exit 3"))
        if number == 1:
            disk.fill()
            break
    began = time.monotonic()
    while time.monotonic() < began + 5:
        disk.fill()
        time.sleep(0.1)
    disk.free()
    for number in range(2):
        job = served.until(f"job-{number}", "failed")
        begun = served.times_begun(f"job-{number}")
        assert (job["exit_code"], begun) == (3, 1) or (job["reason"]["code"] == "could_not_start" and begun == 0), job
    wait_for(lambda: not served.shims() and not served.job_processes(), "the end of all processes")
    assert os.path.exists(served.data / "portal.db")
