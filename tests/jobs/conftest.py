"""The launch form as people fill it in, and clusters beside this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from app.cluster.protocol import Capacity, GpuPool
from app.clusters import service as clusters
from app.clusters.models import ClusterKind, ClusterRow
from app.database import db, now, transaction
from app.jobs.models import Job, JobAttempt
from app.jobs.states import State
from app.logs import service as logs
from app.orgs import service as orgs
from app.presets import service as presets
from tests.conftest import Browser, Portal

Fields = dict[str, Any]


def filled(browser: Browser, preset: str = "plain", **changes: Any) -> Fields:
    """The form as it opens, with some fields changed."""
    browser.get(f"/orgs/lab/new-job?preset={preset}")
    return {**browser.form("/new-job"), **changes}


def sentence(browser: Browser, field: str) -> str:
    """The sentence next to a field, which has to be bound to it."""
    error = browser.page.find(id=f"{field}-error")
    assert error is not None, f"no sentence at {field}: {browser.text()}"
    if field not in ("env", "preset"):  # these are groups of fields
        at = browser.page.find(id=field)
        assert at is not None
        assert at["aria-invalid"] == "true"
        assert at["aria-describedby"] == f"{field}-error"
    return error.get_text(" ", strip=True)


def wrong_fields(browser: Browser) -> set[str]:
    ids = [str(each["id"]) for each in browser.page.find_all("p", class_="error", id=True)]
    return {each.removesuffix("-error") for each in ids} - {"launch"}


class World:
    """What an operator and the worker do to a portal."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal

    def add_cluster(self, name: str, refused: str = "", gpus: int = 0) -> None:
        with self.portal.app.app_context():
            with transaction():
                db.session.add(ClusterRow(name=name, kind=ClusterKind.KUBERNETES, refused=refused))
            row = db.session.scalars(select(ClusterRow).where(ClusterRow.name == name)).one()
            self._capacity(row.id, gpus, None)

    def machine(self, gpus: int = 0, slots: int = 2) -> None:
        """What this machine has."""
        with self.portal.app.app_context():
            row = db.session.scalars(select(ClusterRow).where(ClusterRow.name == "this-machine")).one()
            self._capacity(row.id, gpus, slots)

    def _capacity(self, cluster_id: int, gpus: int, slots: int | None) -> None:
        pools = (GpuPool("H100", gpus, 0, gpus, gpus),) if gpus else ()
        with transaction():
            seen = Capacity(gpus=pools, cpu_slots=slots, cpu_slots_free=slots)
            clusters.record(cluster_id, now(), "", seen)

    def refuse_machine(self, why: str) -> None:
        with self.portal.app.app_context(), transaction():
            clusters.ensure_this_machine(why)

    def import_presets(self, text: str, org: str = "lab") -> None:
        with self.portal.app.app_context(), transaction():
            presets.import_presets(orgs.by_slug(org).id, text)

    def change(self, name: str, change: Callable[[Job], None]) -> None:
        """Change a job's row as the worker does."""
        with self.portal.app.app_context(), transaction():
            change(db.session.scalars(select(Job).where(Job.name == name)).one())

    def begin(self, name: str, state: State = State.RUNNING) -> int:
        """Let the worker begin a job: the attempt's id."""
        with self.portal.app.app_context(), transaction():
            job = db.session.scalars(select(Job).where(Job.name == name)).one()
            job.attempt = 1
            attempt = JobAttempt(job_id=job.id, number=1, launched_at=now())
            db.session.add(attempt)
            if state is not State.QUEUED:
                job.enter(state, now())
                job.reason_code, job.reason_text = state.value, f"It is {state.value}."
            if state is State.RUNNING:
                job.started_at = now()
            db.session.flush()
            return attempt.id

    def print(
        self, attempt_id: int, data: bytes, rank: int = 0, skipped: int | None = 0, complete: bool = False
    ) -> None:
        with self.portal.app.app_context(), transaction():
            logs.append(logs.stream(attempt_id, rank), data, "cursor", skipped, "The disk was full.", complete, 1 << 30)

    def finish(self, name: str, state: State = State.SUCCEEDED, text: str = "It ended well.", **fields: Any) -> None:
        def end(job: Job) -> None:
            job.enter(state, now())
            job.reason_code, job.reason_text = state.value, text
            for field, value in fields.items():
                setattr(job, field, value)

        self.change(name, end)


@pytest.fixture
def world(portal: Portal) -> World:
    return World(portal)
