"""What is not understood is refused with the name of the field, and whatever is sent, nothing breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.api.conftest import problem, wrong
from tests.conftest import Api, Portal

CALLS = [
    ("GET", "/api/me"),
    ("GET", "/api/presets"),
    ("GET", "/api/clusters"),
    ("GET", "/api/jobs"),
    ("GET", "/api/jobs/job"),
    ("DELETE", "/api/jobs/job"),
    ("GET", "/api/jobs/job/logs"),
]


def sent(api: Api, body: Any, **more: Any) -> TestResponse:
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return api.post("/api/jobs", data=data, content_type=more.pop("content_type", "application/json"), **more)


# addresses


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("q=%ff", "q"),
        ("org=%ff", "org"),
        ("cursor=%c3%28", "cursor"),
        ("%ff=1", "\ufffd"),
        ("q=a%00", "q"),
        ("q=a&q=b", "q"),
        ("q=a&%71=b", "q"),
        ("state=%00", "state"),
        ("state=Queued", "state"),
        ("mine=True", "mine"),
        ("limit=%20", "limit"),
        ("limit=007", "limit"),
        ("limit=+7", "limit"),
        ("limit=1e1", "limit"),
        ("limit=7.0", "limit"),
        ("limit=true", "limit"),
        ("limit=" + "9" * 3000, "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=" + "A" * 5000, "cursor"),
        ("limit[]=1", "limit[]"),
        ("=1", ""),
        ("x" * 3000 + "=1", "x" * 100),
    ],
)
def test_a_parameter_that_cannot_be_read_is_named(bob: Api, query: str, field: str) -> None:
    answer = bob.get(f"/api/jobs?{query}")
    assert set(wrong(answer)) == {field or "body"}


def test_an_empty_parameter_is_as_one_left_out(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    portal.launch("other", "alice")
    for path, query in (
        ("/api/jobs", "state=&mine=&q=&cursor=&limit=&org="),
        ("/api/jobs/job/logs", "rank=0&attempt=&since="),
        ("/api/jobs/job/logs", "rank="),
        ("/api/presets", "org="),
    ):
        empty, plain = bob.get(f"{path}?{query}"), bob.get(path)
        assert (empty.status_code, empty.data) == (200, plain.data)
        assert empty.headers.get("Log-Cursor") == plain.headers.get("Log-Cursor")
    assert set(wrong(bob.get("/api/jobs?limits="))) == {"limits"}
    assert set(wrong(bob.get("/api/jobs?limit=&limit=5"))) == {"limit"}


@pytest.mark.parametrize(("method", "path"), CALLS[1:])
@pytest.mark.parametrize("org", ["%00", "lab%00", "LAB", "lab%20", "%F0%9F%98%80", "x" * 3000])
def test_no_org_is_found_by_what_cannot_be_its_slug(portal: Portal, bob: Api, method: str, path: str, org: str) -> None:
    portal.launch("job")
    problem(bob.request(method, f"{path}?org={org}"), 404, "not-found")


@pytest.mark.parametrize("name", ["%00", "job%00", "%FF", "JOB", "job%0A", "%2e%2e", "..%2Fme", "job%2Fx", "x" * 3000])
@pytest.mark.parametrize("call", ["", "/logs"])
def test_no_job_is_found_by_what_cannot_be_its_name(portal: Portal, bob: Api, name: str, call: str) -> None:
    portal.launch("job")
    problem(bob.get(f"/api/jobs/{name}{call}"), 404, "not-found")


@pytest.mark.parametrize(
    "query", ["rank=00", "rank=1.0", "rank=%D9%A0", "attempt=-1", "since=%00", "rank=" + "9" * 400]
)
def test_a_wrong_place_in_a_log_is_named(portal: Portal, bob: Api, query: str) -> None:
    portal.launch("job")
    assert set(wrong(bob.get(f"/api/jobs/job/logs?{query}"))) == {query.partition("=")[0]}


# bodies


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_body_where_none_belongs_is_refused(portal: Portal, bob: Api, method: str, path: str) -> None:
    portal.launch("job")
    answer = bob.request(method, path, data=b'{"org": "lab"}', content_type="application/json")
    assert wrong(answer) == {"body": "This call takes no body."}
    problem(bob.request(method, path, data=b" " * (5 << 20)), 413, "too-large")
    assert portal.job("job").state == "queued"


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "nonsense", "utf-8; charset=utf-16"])
def test_json_in_another_charset_is_refused(bob: Api, charset: str) -> None:
    answer = sent(bob, {"preset": "plain", "command": "true"}, content_type=f"application/json; charset={charset}")
    problem(answer, 415, "unsupported-media-type")


def test_a_body_in_utf_16_is_not_json(bob: Api) -> None:
    problem(sent(bob, json.dumps({"preset": "plain"}).encode("utf-16")), 400, "bad-json")


@pytest.mark.parametrize("depth", [100, 900, 5_000, 200_000])
def test_deep_nesting_breaks_nothing(bob: Api, depth: int) -> None:
    for begin, end in (("[", "]"), ('{"a":', "}")):
        answer = sent(bob, '{"preset": ' + begin * depth + "1" + end * depth + "}")
        assert answer.status_code in (400, 413, 422)
        assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"preset": "plain", "\\ud800": 1}', "body"),
        ('{"preset": "plain", "\\u0000": 1}', "\0"),
        ('{"preset": "plain", "env": {"\\ud800": "x"}}', "env"),
        ('{"preset": "plain", "org": "\\ud800", "command": "true", "x": 1}', "x"),
        ('{"preset": "plain", "gpus": 1e400}', "gpus"),
        ('{"preset": "plain", "gpus": -1e400}', "gpus"),
        ('{"preset": "plain", "gpus": 1' + "0" * 90 + "}", "gpus"),
        ('{"preset": "plain", "gpus": -0.5}', "gpus"),
        ('{"preset": "plain", "nodes": "2"}', "nodes"),
        ('{"preset": "plain", "nodes": [2]}', "nodes"),
        ('{"preset": {"name": "plain"}}', "preset"),
        ('{"preset": "plain", "cluster": ""}', "cluster"),
        ('{"preset": "plain", "gpu_type": ""}', "gpu_type"),
        ('{"preset": "plain", "max_runtime": ""}', "max_runtime"),
        ('{"preset": "plain", "env": {"A": "' + "x" * 130_001 + '"}}', "env.A"),
        ("{}", "preset"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(bob: Api, body: str, field: str) -> None:
    answer = sent(bob, body)
    found = wrong(answer)
    assert set(found) == {field} or set(found) - {"command"} == {field}
    assert all(each.endswith(".") and len(each) > 10 for each in found.values())


def test_an_org_that_is_half_a_character_is_not_found(bob: Api) -> None:
    problem(sent(bob, '{"preset": "plain", "command": "true", "org": "\\ud800"}'), 404, "not-found")


@pytest.mark.parametrize("key", ["é", "a\x7f", " ", "\x80"])
def test_a_key_of_other_characters_is_refused(bob: Api, key: str) -> None:
    answer = sent(bob, {"preset": "plain", "command": "true"}, headers={"Idempotency-Key": key})
    assert set(wrong(answer)) == {"Idempotency-Key"}


def test_the_sentence_of_an_unknown_field_tells_which_there_are(bob: Api) -> None:
    assert "max_runtime" in wrong(sent(bob, {"preset": "plain", "maxRuntime": "1h"}))["maxRuntime"]
