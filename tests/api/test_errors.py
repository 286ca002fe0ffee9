"""Every error of the API is a problem that programs can read."""

from __future__ import annotations

import pytest

from tests.api.conftest import leave, problem
from tests.conftest import Api, Portal

CALLS = [
    ("GET", "/api/me"),
    ("GET", "/api/presets"),
    ("GET", "/api/clusters"),
    ("GET", "/api/jobs"),
    ("POST", "/api/jobs"),
    ("GET", "/api/jobs/x"),
    ("DELETE", "/api/jobs/x"),
    ("GET", "/api/jobs/x/logs"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer nonsense", "Bearer st_x_y", "Basic Ym9iOmJvYg==", "Bearer st_é", "\xff"]
)
def test_without_a_token_nothing_is_told(portal: Portal, method: str, path: str, header: str | None) -> None:
    headers = {"Authorization": header} if header is not None else {}
    answer = portal.app.test_client().open(path, method=method, headers=headers)
    problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_browsers_cookie_opens_no_call(portal: Portal) -> None:
    problem(portal.browser("bob").client.get("/api/me"), 401, "unauthorized")


def test_a_token_opens_no_page(bob: Api) -> None:
    assert bob.get("/orgs/lab/jobs").status_code == 302


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/jobs/a/b/c",
        "/api/me/",
        "/api//me",
        "/api/%00",
        "/api/%FF",
        "/api/jobs/",
        "/api/jobs//logs",
        "/api/jobs/x/logs/",
        "/api/../api/nothing",
    ],
)
def test_unknown_addresses_are_problems_too(bob: Api, path: str) -> None:
    problem(bob.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/api/jobs/x", {"GET", "HEAD", "OPTIONS", "DELETE"}),
        ("DELETE", "/api/me", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/api/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("BREW", "/api/openapi.json", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_taken_says_which_are(bob: Api, method: str, path: str, allowed: set[str]) -> None:
    answer = bob.request(method, path)
    problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_what_never_existed_and_what_others_have_look_the_same_byte_for_byte(portal: Portal, bob: Api) -> None:
    portal.launch("theirs", "mallory")
    for method, call in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        answers = [
            bob.request(method, path)
            for path in (
                f"/api/jobs/theirs{call}",
                f"/api/jobs/nobody{call}",
                f"/api/jobs/theirs{call}?org=rivals",
                f"/api/jobs/theirs{call}?org=nowhere",
                f"/api/jobs/no%20such%20name{call}",
            )
        ]
        for answer in answers:
            problem(answer, 404, "not-found")
        assert len({answer.data for answer in answers}) == 1
        headers = [{k: v for k, v in answer.headers.items() if k != "X-Request-Id"} for answer in answers]
        assert all(each == headers[0] for each in headers)


def test_an_error_of_the_portal_itself_is_a_problem_without_its_insides(
    portal: Portal, bob: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("app.jobs.service.counts", broken)
    monkeypatch.setattr("app.jobs.service.page_of_jobs", broken)
    answer = bob.get("/api/jobs")
    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/api/me", "/api/openapi.json", "/api/nothing", "/api"])
def test_another_host_is_a_problem_too(bob: Api, path: str) -> None:
    problem(bob.get(path, headers={"Host": "evil.example"}), 400, "bad-request")


def test_the_head_of_a_call_is_its_answer_without_the_body(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    for path in ("/api/me", "/api/jobs/job", "/api/jobs/job/logs", "/api/jobs/nothing", "/api/jobs?limit=0"):
        whole, head = bob.get(path), bob.request("HEAD", path)
        assert (head.status_code, head.data) == (whole.status_code, b"")
        assert head.content_type == whole.content_type


def test_options_tell_the_methods(bob: Api) -> None:
    answer = bob.request("OPTIONS", "/api/jobs")
    assert answer.status_code == 200
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]


def test_somebody_without_an_org_is_told_so(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    leave(portal, "bob", "lab")
    assert problem(bob.get("/api/jobs"), 404, "not-found")["detail"] == "You are in no org."
    assert bob.get("/api/me").json["orgs"] == []  # type: ignore[index]
    assert bob.get("/api/jobs/job").data == bob.get("/api/jobs/never").data
