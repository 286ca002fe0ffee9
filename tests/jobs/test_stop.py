"""Stopping jobs: who may, and what becomes of them."""

from __future__ import annotations

import pytest

from app.jobs.models import Wish
from app.jobs.states import State
from tests.conftest import Portal
from tests.jobs.conftest import World

PAGE = "/orgs/lab/jobs/job"


def test_the_question_before_a_stop_leads_to_it(portal: Portal, world: World) -> None:
    portal.launch("job")
    world.begin("job")
    bob = portal.browser("bob")
    bob.get(PAGE)
    link = bob.page.find("a", {"data-dialog": "stop"})
    assert link is not None
    bob.get(str(link["href"]))
    assert "Stop job?" in bob.text()
    assert portal.job("job").wish == Wish.RUN
    answer = bob.post(f"{PAGE}/stop", bob.form("/stop"))
    assert (answer.status_code, answer.location) == (303, PAGE)
    job = portal.job("job")
    assert (job.wish, job.state, job.reason_text) == (Wish.STOP, State.STOPPING, "It was asked to stop.")
    bob.get(PAGE)
    assert "Asked to stop by you" in bob.text()
    assert bob.page.find("a", {"data-dialog": "stop"}) is None
    assert bob.get(f"{PAGE}/stop").status_code == 302  # there is nothing to ask any more


def test_a_job_that_the_worker_did_not_begin_is_cancelled_at_once(portal: Portal) -> None:
    portal.launch("job")
    portal.browser("bob").post(f"{PAGE}/stop")
    job = portal.job("job")
    assert (job.state, job.settled, job.reason_code) == (State.CANCELLED, True, "stopped")
    assert job.reason_text == "It was stopped before it began."
    assert job.finished_at is not None


def test_a_queued_job_that_the_worker_began_with_waits_for_the_worker(portal: Portal, world: World) -> None:
    portal.launch("job")
    world.begin("job", State.QUEUED)
    portal.browser("bob").post(f"{PAGE}/stop")
    job = portal.job("job")
    assert (job.state, job.wish) == (State.QUEUED, Wish.STOP)


def test_repeating_a_stop_changes_nothing(portal: Portal, world: World) -> None:
    portal.launch("job")
    world.begin("job")
    alice, bob = portal.browser("alice"), portal.browser("bob")
    bob.post(f"{PAGE}/stop")
    first = portal.job("job")
    assert alice.post(f"{PAGE}/stop").status_code == 303
    assert bob.post(f"{PAGE}/stop").status_code == 303
    second = portal.job("job")
    assert (second.version, second.stop_asked_by, second.stop_asked_at) == (
        first.version,
        first.stop_asked_by,
        first.stop_asked_at,
    )


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.LOST, State.CANCELLED])
def test_a_final_state_stays(portal: Portal, world: World, state: State) -> None:
    portal.launch("job")
    world.begin("job")
    world.finish("job", state, "It ended.")
    before = portal.job("job")
    assert portal.browser("bob").post(f"{PAGE}/stop").status_code == 303
    after = portal.job("job")
    assert (after.state, after.version, after.reason_text, after.wish) == (state, before.version, "It ended.", "run")


@pytest.mark.parametrize(
    ("person", "of", "may"),
    [
        ("bob", "bob", True),
        ("bob", "alice", False),
        ("alice", "bob", True),
        ("alice", "alice", True),
        ("vera", "bob", False),
    ],
)
def test_a_member_stops_own_jobs_and_an_owner_any(portal: Portal, person: str, of: str, may: bool) -> None:
    portal.launch("job", of)
    browser = portal.browser(person)
    browser.get(PAGE)
    assert (browser.page.find("a", {"data-dialog": "stop"}) is not None) is may
    assert browser.post(f"{PAGE}/stop").status_code == (303 if may else 403)
    assert portal.job("job").state == (State.CANCELLED if may else State.QUEUED)


def test_a_stop_needs_the_token_of_the_session(portal: Portal) -> None:
    portal.launch("job")
    assert portal.browser("bob").post(f"{PAGE}/stop", {"csrf_token": "x"}).status_code == 400
    assert portal.job("job").wish == Wish.RUN


def test_a_stop_of_a_job_of_another_org_finds_none(portal: Portal) -> None:
    portal.launch("job", "mallory")
    assert portal.browser("alice").post(PAGE.replace("jobs/job", "jobs/job/stop")).status_code == 404
    assert portal.browser("alice").post("/orgs/rivals/jobs/job/stop").status_code == 404
    assert portal.job("job").wish == Wish.RUN
