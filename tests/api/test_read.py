"""Listing, reading and stopping jobs by the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from app.jobs.models import Wish
from app.jobs.states import State
from tests.api.conftest import in_two_orgs, problem, wrong
from tests.conftest import Api, Portal
from tests.jobs.conftest import World

FIELDS = {
    "name",
    "org",
    "user",
    "state",
    "reason",
    "preset",
    "preset_version",
    "gpus",
    "nodes",
    "command",
    "env",
    "cluster",
    "max_runtime",
    "attempt",
    "created_at",
    "started_at",
    "finished_at",
    "exit_code",
    "timeline",
}


def listed(api: Api, query: str = "") -> dict[str, Any]:
    answer = api.get(f"/api/jobs?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json  # type: ignore[assignment]
    return found


def names(page: dict[str, Any]) -> list[str]:
    return [job["name"] for job in page["jobs"]]


def test_an_org_without_jobs_has_an_empty_list(bob: Api) -> None:
    assert listed(bob) == {"jobs": [], "next": None}


def test_pages_follow_each_other_newest_first_while_new_jobs_arrive(portal: Portal, bob: Api) -> None:
    for number in range(7):
        portal.launch(f"job-{number}")
    page = listed(bob, "limit=3")
    assert names(page) == ["job-6", "job-5", "job-4"]
    portal.launch("newcomer")
    page = listed(bob, f"limit=3&cursor={page['next']}")
    assert names(page) == ["job-3", "job-2", "job-1"]
    page = listed(bob, f"limit=3&cursor={page['next']}")
    assert names(page) == ["job-0"]
    assert page["next"] is None


def test_a_last_page_that_is_full_has_no_next(portal: Portal, bob: Api) -> None:
    for number in range(3):
        portal.launch(f"job-{number}")
    assert listed(bob, "limit=3")["next"] is None


def test_cursors_that_were_not_made_for_this_list_are_refused(portal: Portal, bob: Api, world: World) -> None:
    in_two_orgs(portal)
    for number in range(3):
        portal.launch(f"theirs-{number}", "mallory")
        portal.launch(f"job-{number}")
    theirs = listed(bob, "org=rivals&limit=1")["next"]
    world.print(world.begin("job-1"), b"x")
    of_log = bob.get("/api/jobs/job-1/logs?org=lab").headers["Log-Cursor"]
    ours = listed(bob, "org=lab&limit=1")["next"]
    # with other filters it would leave jobs out, and nobody would see it
    for query in ("mine=1", "state=active", "q=job", "q=1"):
        assert set(wrong(bob.get(f"/api/jobs?org=lab&{query}&cursor={ours}"))) == {"cursor"}
    narrow = listed(bob, "org=lab&limit=1&q=job&mine=1")["next"]
    assert names(listed(bob, f"org=lab&mine=true&q=job&cursor={narrow}")) == ["job-1", "job-0"]
    assert set(wrong(portal.api("alice").get(f"/api/jobs?mine=1&q=job&cursor={narrow}"))) == {"cursor"}
    for cursor in (theirs, of_log, "1", "x.y.z", ours[:-1], ours + "A", "é", "%00"):
        assert set(wrong(bob.get(f"/api/jobs?org=lab&cursor={cursor}"))) == {"cursor"}, cursor
    assert names(listed(bob, f"org=lab&cursor={ours}")) == ["job-1", "job-0"]


def test_filters_narrow_the_list(portal: Portal, bob: Api, world: World) -> None:
    portal.launch("lr-1")
    portal.launch("lr-2", "alice")
    portal.launch("other")
    world.begin("other")
    world.finish("lr-1", State.FAILED)
    assert names(listed(bob, "state=queued")) == ["lr-2"]
    assert names(listed(bob, "state=active")) == ["other", "lr-2"]
    assert names(listed(bob, "state=failed")) == ["lr-1"]
    assert names(listed(bob, "mine=1")) == ["other", "lr-1"]
    assert names(listed(bob, "mine=true&q=lr")) == ["lr-1"]
    assert names(listed(bob, "mine=0&q=LR-")) == ["lr-2", "lr-1"]
    assert names(listed(bob, "state=&mine=&q=")) == ["other", "lr-2", "lr-1"]
    assert [(job["user"], job["cluster"]) for job in listed(bob, "q=lr-")["jobs"]] == [
        ("alice@example.org", "this-machine"),
        ("bob@example.org", "this-machine"),
    ]
    assert names(listed(bob, "q=%25")) == []
    assert names(listed(bob, "q=_")) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=nonsense", "state"),
        ("mine=perhaps", "mine"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("q=" + "x" * 64, "q"),
        ("q=a%00b", "q"),
        ("page=2", "page"),
    ],
)
def test_a_wrong_filter_is_told(bob: Api, query: str, field: str) -> None:
    assert set(wrong(bob.get(f"/api/jobs?{query}"))) == {field}


def test_a_list_holds_no_jobs_of_others(portal: Portal, bob: Api) -> None:
    portal.launch("theirs", "mallory")
    assert names(listed(bob)) == []
    problem(bob.get("/api/jobs?org=rivals"), 404, "not-found")


def test_a_job_has_every_field_of_the_contract(portal: Portal, bob: Api, world: World) -> None:
    portal.launch("job", "alice", command=("a", "b"), env={"A": "1"})
    world.begin("job")
    world.finish("job", State.FAILED, "It ended with exit code 3.", exit_code=3, reason_raw="raw")
    job: dict[str, Any] = bob.get("/api/jobs/job").json  # type: ignore[assignment]
    assert set(job) == FIELDS
    assert job["user"] == "alice@example.org"
    assert job["reason"] == {"code": "failed", "text": "It ended with exit code 3.", "raw": "raw"}
    assert (job["state"], job["exit_code"], job["attempt"]) == ("failed", 3, 1)
    for name in ("created_at", "started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", job[name])
        assert datetime.fromisoformat(job[name]).tzinfo == UTC


def test_a_viewer_reads_and_stops_nothing(portal: Portal) -> None:
    portal.launch("job")
    vera = portal.api("vera")
    assert vera.get("/api/jobs/job").status_code == 200
    problem(vera.delete("/api/jobs/job"), 403, "forbidden")
    assert portal.job("job").wish == Wish.RUN


# stopping


def test_a_stop_before_the_worker_began_cancels_at_once_and_repeating_is_harmless(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    answer = bob.delete("/api/jobs/job")
    assert answer.status_code == 202
    assert answer.json["state"] == "cancelled"  # type: ignore[index]
    first = portal.job("job")
    assert bob.delete("/api/jobs/job").status_code == 202
    assert portal.job("job").version == first.version
    assert [event["text"] for event in answer.json["timeline"]] == ["Launched", "Cancelled"]  # type: ignore[index]


def test_a_stop_of_a_running_job_is_a_wish(portal: Portal, bob: Api, world: World) -> None:
    portal.launch("job")
    world.begin("job")
    answer = bob.delete("/api/jobs/job")
    assert (answer.status_code, answer.json["state"]) == (202, "stopping")  # type: ignore[index]
    assert portal.job("job").wish == Wish.STOP


def test_a_stop_of_a_finished_job_leaves_its_state(portal: Portal, bob: Api, world: World) -> None:
    portal.launch("job")
    world.begin("job")
    world.finish("job")
    answer = bob.delete("/api/jobs/job")
    assert (answer.status_code, answer.json["state"]) == (202, "succeeded")  # type: ignore[index]
    assert bob.get("/api/jobs/job").status_code == 200


def test_a_member_may_not_stop_what_another_launched(portal: Portal, bob: Api) -> None:
    portal.launch("job", "alice")
    problem(bob.delete("/api/jobs/job"), 403, "forbidden")
    portal.launch("bobs")
    assert portal.api("alice").delete("/api/jobs/bobs").status_code == 202
