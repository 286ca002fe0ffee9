"""Launching by the API."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from sqlalchemy import func, select

from app.api.request import BODY_LIMIT
from app.database import db
from app.jobs.models import Job
from tests.api.conftest import in_two_orgs, problem, wrong
from tests.conftest import Api, Portal
from tests.jobs.conftest import World

PLAIN = {"preset": "plain", "command": "true"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def how_many(portal: Portal) -> int:
    count: int = portal.read(lambda: db.session.scalar(select(func.count()).select_from(Job)))
    return count


def test_a_launch_answers_with_the_job_and_its_address(portal: Portal, bob: Api) -> None:
    answer = bob.post("/api/jobs", json={**PLAIN, "name": "first", "env": {"A": "1"}, "nodes": 2, "max_runtime": "90s"})
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/api/jobs/first?org=lab"
    assert answer.content_type == "application/json"
    made: dict[str, Any] = answer.json  # type: ignore[assignment]
    assert RFC3339.fullmatch(made["created_at"])
    (event,) = made["timeline"]
    assert RFC3339.fullmatch(event.pop("at"))
    assert event == {
        "text": "Launched",
        "detail": "for this-machine",
        "state": "queued",
        "user": "bob@example.org",
    }
    del made["created_at"], made["timeline"]
    assert made == {
        "name": "first",
        "org": "lab",
        "user": "bob@example.org",
        "state": "queued",
        "reason": {"code": "submitted", "text": "It was just launched.", "raw": ""},
        "preset": "plain",
        "preset_version": 1,
        "gpus": 0,
        "nodes": 2,
        "command": "true",
        "env": {"A": "1"},
        "cluster": "this-machine",
        "max_runtime": "1m30s",
        "attempt": 0,
        "started_at": None,
        "finished_at": None,
        "exit_code": None,
    }
    assert bob.get(answer.headers["Location"]).json["name"] == "first"  # type: ignore[index]


def test_a_preset_alone_is_enough_where_it_has_a_command(portal: Portal, bob: Api, world: World) -> None:
    world.machine(gpus=1)
    made = bob.post("/api/jobs", json={"preset": "digits"}).json
    assert made is not None
    assert (made["name"], made["command"], made["gpus"]) == ("digits", "python train.py", 1)
    assert made["env"] == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize("command", ["echo 'a' \"$B\"\n\ttrue é", ["printf", "", "%s\n", "a b", "'\"$\\ é\u0001"]])
def test_a_command_comes_back_exactly(portal: Portal, bob: Api, command: object) -> None:
    assert bob.post("/api/jobs", json={**PLAIN, "command": command, "name": "exact"}).status_code == 201
    assert portal.job("exact").spec["command"] == command
    assert bob.get("/api/jobs/exact").json["command"] == command  # type: ignore[index]


def test_null_is_the_same_as_left_out(bob: Api) -> None:
    sent = {**PLAIN, "gpus": None, "nodes": None, "name": None, "env": None, "cluster": None, "max_runtime": None}
    assert bob.post("/api/jobs", json={**sent, "org": None}).status_code == 201


def test_whole_numbers_may_be_written_with_a_point(portal: Portal, bob: Api) -> None:
    body = '{"preset": "plain", "command": "true", "name": "floats", "nodes": 2.0, "gpus": 0.0}'
    assert bob.post("/api/jobs", data=body, content_type="application/json").status_code == 201
    assert portal.job("floats").nodes == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preset": "gone"}, "preset"),
        ({"preset": None}, "preset"),
        ({"preset": 1}, "preset"),
        ({"preset": "\ud800"}, "preset"),
        ({"command": ""}, "command"),
        ({"command": []}, "command"),
        ({"command": [" "]}, "command"),
        ({"command": 7}, "command"),
        ({"command": ["a", 7]}, "command.1"),
        ({"command": "a\0b"}, "command"),
        ({"command": ["a", "b\0"]}, "command"),
        ({"command": "\ud800"}, "command"),
        ({"command": ["a", "\udfff"]}, "command"),
        ({"command": "x" * 140_000}, "command"),
        ({"command": ["x" * 100_000] * 3}, "command"),
        ({"gpus": True}, "gpus"),
        ({"gpus": "1"}, "gpus"),
        ({"gpus": 1.5}, "gpus"),
        ({"gpus": -1}, "gpus"),
        ({"gpus": 9}, "gpus"),
        ({"gpus": 10**30}, "gpus"),
        ({"gpus": 1}, "gpus"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": False}, "nodes"),
        ({"nodes": 5}, "nodes"),
        ({"name": ""}, "name"),
        ({"name": "Upper"}, "name"),
        ({"name": "a\0"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"env": []}, "env"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": None}}, "env.A"),
        ({"env": {"1A": "x"}}, "env"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A": "\0"}}, "env"),
        ({"env": {"A": "\ud800"}}, "env.A"),
        ({"cluster": "nowhere"}, "cluster"),
        ({"cluster": "\ud800"}, "cluster"),
        ({"max_runtime": "soon"}, "max_runtime"),
        ({"max_runtime": "2h"}, "max_runtime"),
        ({"max_runtime": 60}, "max_runtime"),
        ({"gpu_type": "\ud800"}, "gpu_type"),
        ({"strategy": "x"}, "strategy"),
        ({"list": "x"}, "list"),
        ({"Preset": "plain"}, "Preset"),
    ],
)
def test_what_cannot_run_is_refused_with_the_field_and_why(
    portal: Portal, bob: Api, changes: dict[str, Any], field: str
) -> None:
    answer = bob.post("/api/jobs", data=json.dumps({**PLAIN, **changes}), content_type="application/json")
    found = wrong(answer)
    assert set(found) == {field}
    assert all(found.values())
    assert how_many(portal) == 0


def test_a_huge_number_is_a_wrong_number_and_not_a_broken_body(bob: Api) -> None:
    body = '{"preset": "plain", "command": "true", "gpus": ' + "9" * 5000 + "}"
    assert set(wrong(bob.post("/api/jobs", data=body, content_type="application/json"))) == {"gpus"}


def test_all_errors_are_told_at_once(bob: Api) -> None:
    answer = bob.post("/api/jobs", json={"preset": "plain", "command": "", "gpus": 9, "nodes": 0, "name": "X"})
    assert set(wrong(answer)) == {"command", "gpus", "nodes", "name"}


def test_a_taken_name_names_a_free_one(portal: Portal, bob: Api) -> None:
    portal.launch("run")
    answer = bob.post("/api/jobs", json={**PLAIN, "name": "run"})
    assert wrong(answer) == {"name": "The name run is taken in this org. run-2 is free."}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"preset": "plain"',
        b'{"preset": NaN}',
        b'{"preset": Infinity}',
        b'\xff{"preset": "plain"}',
        b'{"preset": "plain",}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_what_is_not_json_is_told_so(bob: Api, body: bytes) -> None:
    problem(bob.post("/api/jobs", data=body, content_type="application/json"), 400, "bad-json")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"7"])
def test_json_that_is_no_object_is_told_so(bob: Api, body: bytes) -> None:
    assert wrong(bob.post("/api/jobs", data=body, content_type="application/json")) == {
        "body": "It must be a JSON object."
    }


def test_a_key_that_stands_twice_is_refused(portal: Portal, bob: Api) -> None:
    for body in (
        '{"preset": "plain", "command": "a", "command": "b"}',
        '{"preset": "plain", "command": "a", "env": {"command": "1", "command": "2"}}',
    ):
        answer = bob.post("/api/jobs", data=body, content_type="application/json")
        assert wrong(answer) == {"command": "This field stands in the object twice."}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_another_kind_of_body_is_refused(bob: Api, kind: str) -> None:
    problem(bob.post("/api/jobs", data=json.dumps(PLAIN), content_type=kind), 415, "unsupported-media-type")


def test_json_with_a_charset_is_json(bob: Api) -> None:
    answer = bob.post("/api/jobs", data=json.dumps(PLAIN), content_type="application/json; charset=utf-8")
    assert answer.status_code == 201


@pytest.mark.parametrize("size", [BODY_LIMIT + 1, 5 << 20])
def test_a_body_that_is_too_large_is_refused(bob: Api, size: int) -> None:
    problem(bob.post("/api/jobs", data=b" " * size, content_type="application/json"), 413, "too-large")


def test_a_viewer_may_not_launch(portal: Portal) -> None:
    problem(portal.api("vera").post("/api/jobs", json=PLAIN), 403, "forbidden")
    assert how_many(portal) == 0


def test_another_org_is_not_found(portal: Portal, bob: Api) -> None:
    for org in ("rivals", "nowhere", "", "a\0b", "é"):
        problem(bob.post("/api/jobs", json={**PLAIN, "org": org}), 404, "not-found")
    assert how_many(portal) == 0


def test_with_several_orgs_the_org_has_to_be_named(portal: Portal, bob: Api) -> None:
    in_two_orgs(portal)
    assert wrong(bob.post("/api/jobs", json=PLAIN)) == {"org": "Say which org: lab, rivals."}
    assert bob.post("/api/jobs", json={**PLAIN, "org": "rivals", "name": "a"}).json["org"] == "rivals"  # type: ignore[index]
    assert bob.post("/api/jobs?org=lab", json={**PLAIN, "name": "b"}).json["org"] == "lab"  # type: ignore[index]
    assert set(wrong(bob.post("/api/jobs?org=lab", json={**PLAIN, "org": "rivals"}))) == {"org"}


# idempotency


def keyed(bob: Api, key: str, **changes: Any) -> Any:
    return bob.post("/api/jobs", json={**PLAIN, **changes}, headers={"Idempotency-Key": key})


def test_the_same_key_and_body_give_the_same_job(portal: Portal, bob: Api) -> None:
    first, second = keyed(bob, "k1"), keyed(bob, "k1")
    assert (first.status_code, second.status_code) == (201, 200)
    assert "Idempotent-Replay" not in first.headers
    assert second.headers["Idempotent-Replay"] == "true"
    assert second.headers["Location"] == first.headers["Location"]
    assert second.json == first.json
    assert how_many(portal) == 1


def test_another_order_of_the_fields_and_whole_numbers_with_a_point_are_the_same_request(bob: Api) -> None:
    assert keyed(bob, "k1", nodes=2, env={"A": "1", "B": "2"}).status_code == 201
    body = '{"env": {"B": "2", "A": "1"}, "nodes": 2.0, "command": "true", "preset": "plain"}'
    again = bob.post("/api/jobs", data=body, content_type="application/json", headers={"Idempotency-Key": "k1"})
    assert again.status_code == 200


@pytest.mark.parametrize(
    "changes", [{"command": "false"}, {"command": ["true"]}, {"nodes": 1}, {"env": {"A": ""}}, {"name": "x"}]
)
def test_the_same_key_with_another_body_is_a_conflict(portal: Portal, bob: Api, changes: dict[str, Any]) -> None:
    keyed(bob, "k1")
    problem(keyed(bob, "k1", **changes), 409, "key-reused")
    assert how_many(portal) == 1


def test_a_refused_request_uses_no_key_up(portal: Portal, bob: Api) -> None:
    assert keyed(bob, "k1", gpus=1).status_code == 422
    assert keyed(bob, "k1", command="other").status_code == 201


def test_keys_belong_to_one_person_in_one_org(portal: Portal, bob: Api) -> None:
    in_two_orgs(portal)
    assert keyed(bob, "k1", org="lab").status_code == 201
    assert keyed(bob, "k1", org="rivals").status_code == 201
    assert keyed(portal.api("alice"), "k1").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there"])
def test_a_key_that_cannot_be_kept_is_refused(portal: Portal, bob: Api, key: str) -> None:
    assert set(wrong(keyed(bob, key))) == {"Idempotency-Key"}
    assert keyed(bob, "x" * 200).status_code == 201


def test_twenty_requests_at_once_with_one_key_make_one_job(portal: Portal) -> None:
    token = portal.token("bob")
    gate = threading.Barrier(20)
    answers: list[tuple[int, str]] = []

    def send() -> None:
        caller = Api(portal.app.test_client(), token)
        gate.wait()
        answer = keyed(caller, "one")
        answers.append((answer.status_code, answer.json["name"]))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(200, "plain")] * 19 + [(201, "plain")]
    assert how_many(portal) == 1


def test_many_at_once_without_a_name_all_get_one(portal: Portal) -> None:
    token = portal.token("bob")
    gate = threading.Barrier(16)
    answers: list[int] = []

    def send() -> None:
        caller = Api(portal.app.test_client(), token)
        gate.wait()
        answers.extend(caller.post("/api/jobs", json=PLAIN).status_code for _ in range(6))

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 96
    assert how_many(portal) == 96
