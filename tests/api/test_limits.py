"""How many requests a token may make, and how many an address may make without a valid one."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from werkzeug.test import TestResponse

from app.api import limits
from app.api.limits import Buckets
from tests.conftest import Api, Portal

from .conftest import problem

Make = Callable[..., Portal]
WRONG = {"Authorization": "Bearer st_0123456789ab_" + "x" * 43}


class Clock:
    """Stands still, until a test turns it."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "monotonic", clock)
    return clock


def refused(answer: TestResponse) -> int:
    """For how many seconds the caller is told to wait."""
    said = problem(answer, 429, "too-many-requests")
    seconds = int(answer.headers["Retry-After"])
    assert f"Try again in {seconds} s." in said["detail"]
    return seconds


def guess(portal: Portal, address: str = "192.0.2.1", headers: dict[str, str] | None = None) -> TestResponse:
    return portal.app.test_client().get(
        "/api/jobs", headers=WRONG if headers is None else headers, environ_overrides={"REMOTE_ADDR": address}
    )


def ask(api: Api, address: str, path: str = "/api/me") -> TestResponse:
    return api.get(path, environ_overrides={"REMOTE_ADDR": address})


# tokens


def test_a_minutes_requests_may_come_at_once_and_then_as_many_as_the_rate_allows(make: Make, clock: Clock) -> None:
    api = make(api_rate=30).api("bob")
    assert [api.get("/api/me").status_code for _ in range(30)] == [200] * 30
    assert refused(api.get("/api/me")) == 2
    clock.at += 1.9
    assert refused(api.get("/api/me")) == 1
    clock.at += 0.1
    assert api.get("/api/me").status_code == 200
    assert refused(api.get("/api/me")) == 2
    clock.at += 3600
    assert [api.get("/api/me").status_code for _ in range(31)] == [200] * 30 + [429]


def test_a_caller_who_waits_as_told_is_answered(make: Make, clock: Clock) -> None:
    api = make(api_rate=7).api("bob")
    for _ in range(40):
        answer = api.get("/api/me")
        if answer.status_code == 429:
            clock.at += refused(answer)
            assert api.get("/api/me").status_code == 200


def test_a_refused_request_does_nothing_and_asks_the_database_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = make(api_rate=1)
    api = portal.api("bob")
    body = {"preset": "plain", "command": "true", "name": "once"}
    assert api.post("/api/jobs", json=body).status_code == 201
    monkeypatch.setattr("app.accounts.service.token_of", lambda _token: pytest.fail("asked"))
    refused(api.post("/api/jobs", json={**body, "name": "twice"}))
    refused(api.delete("/api/jobs/once"))
    assert portal.job("once").state == "queued"


def test_each_token_has_a_limit_of_its_own_however_its_header_is_written(make: Make) -> None:
    portal = make(api_rate=3)
    one, other = portal.api("bob"), portal.api("bob")
    assert [one.get("/api/me").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert other.get("/api/me").status_code == 200
    for written in (f"bearer {one.token}", f"BEARER  {one.token} "):
        assert portal.app.test_client().get("/api/me", headers={"Authorization": written}).status_code == 429


def test_what_is_left_is_told_when_it_is_little(make: Make, clock: Clock) -> None:
    api = make(api_rate=60).api("bob")
    first, second = api.get("/api/me"), api.get("/api/me")
    assert first.headers["RateLimit-Policy"] == '"token";q=60;w=60'
    assert "RateLimit" not in first.headers
    same = [[each for each in answer.headers if each[0] != "X-Request-Id"] for answer in (first, second)]
    assert same[0] == same[1]
    for _ in range(44):
        answer = api.get("/api/me")
    assert answer.headers["RateLimit"] == '"token";r=14;t=46'
    for _ in range(14):
        api.get("/api/me")
    answer = api.get("/api/me")
    refused(answer)
    assert answer.headers["RateLimit"] == '"token";r=0;t=60'
    assert answer.headers["RateLimit-Policy"] == '"token";q=60;w=60'
    clock.at += 60
    assert "RateLimit" not in api.get("/api/me").headers


def test_no_limit_is_no_limit(make: Make) -> None:
    portal = make(api_rate=0, api_failure_rate=0)
    api = portal.api("bob")
    answers = [api.get("/api/me") for _ in range(50)]
    assert {each.status_code for each in answers} == {200}
    assert not [name for name, _ in answers[-1].headers if name.startswith("RateLimit")]
    assert {guess(portal).status_code for _ in range(200)} == {401}


def test_pages_and_their_polls_are_not_counted(make: Make) -> None:
    portal = make(api_rate=1, api_failure_rate=1)
    bob = portal.browser("bob")
    headers = {"Authorization": f"Bearer {portal.token('bob')}"}
    for path in ("/orgs/lab/jobs", "/orgs/lab/jobs-list", "/account", "/healthz", "/api/openapi.json"):
        assert [bob.client.get(path, headers=headers).status_code for _ in range(3)] == [200] * 3, path
    assert portal.app.test_client().get("/api/me", headers=headers).status_code == 200


# addresses


def test_an_address_that_guesses_tokens_is_slowed_down(make: Make, clock: Clock) -> None:
    portal = make(api_failure_rate=6)
    assert [guess(portal).status_code for _ in range(7)] == [401] * 6 + [429]
    assert refused(guess(portal)) == 10
    # even a right guess would be told nothing now; and whoever sends no token at all counts alike
    assert ask(portal.api("bob"), "192.0.2.1").status_code == 429
    assert guess(portal, headers={}).status_code == 429
    assert guess(portal, "192.0.2.2").status_code == 401
    clock.at += 10
    assert guess(portal).status_code == 401
    assert guess(portal).status_code == 429


def test_a_token_that_was_good_does_not_suffer_from_those_who_guess_beside_it(make: Make) -> None:
    portal = make(api_failure_rate=6)
    bob = portal.api("bob")
    assert ask(bob, "192.0.2.1").status_code == 200
    for _ in range(20):
        guess(portal)
    assert ask(bob, "192.0.2.1").status_code == 200
    assert ask(portal.api("alice"), "192.0.2.1").status_code == 429
    assert ask(portal.api("alice"), "192.0.2.9").status_code == 200


def test_a_revoked_token_is_no_longer_one_that_was_good(make: Make) -> None:
    portal = make(api_failure_rate=3)
    bob = portal.api("bob")
    assert ask(bob, "192.0.2.1").status_code == 200
    portal.command("tokens", "revoke", bob.token)
    assert [ask(bob, "192.0.2.1").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_a_mistake_with_a_good_token_is_no_failure(make: Make) -> None:
    portal = make(api_failure_rate=2)
    bob = portal.api("bob")
    for _ in range(5):
        assert ask(bob, "192.0.2.1", "/api/jobs/never-was").status_code == 404
        assert ask(bob, "192.0.2.1", "/api/jobs?bogus=1").status_code == 422
    assert guess(portal).status_code == 401


def test_whoever_has_a_network_of_ipv6_addresses_is_one_caller(make: Make) -> None:
    portal = make(api_failure_rate=2)
    assert [guess(portal, f"2001:db8::{number}").status_code for number in range(3)] == [401, 401, 429]
    assert guess(portal, "2001:db8:0:1::1").status_code == 401
    # every IPv4 address lies in one such network, where a socket for both kinds is listened on
    assert [guess(portal, f"::ffff:192.0.2.{number}").status_code for number in range(4)] == [401] * 4
    assert guess(portal, "not an address: of any kind").status_code == 401


def test_a_header_that_anyone_can_write_makes_no_other_address(make: Make) -> None:
    portal = make(api_failure_rate=1)
    statuses = [
        guess(portal, headers={**WRONG, "X-Forwarded-For": f"198.51.100.{number}"}).status_code for number in range(3)
    ]
    assert statuses == [401, 429, 429]


# what it costs


def test_memory_does_not_grow_with_the_number_of_addresses() -> None:
    buckets = Buckets(60, kept=100)
    for number in range(10_000):
        assert buckets.take(number) == 0
    assert len(buckets._full_at) == 100
    assert 9_999 in buckets
    assert 0 not in buckets
    # who is seen again and again is kept
    for number in range(10_000):
        buckets.take(9_999) if number % 50 == 0 else buckets.take(-number)
    assert 9_999 in buckets


def test_a_request_is_counted_in_microseconds() -> None:
    buckets = Buckets(1_000_000_000)
    began = time.perf_counter()
    for number in range(20_000):
        buckets.take(number % 50)
    assert (time.perf_counter() - began) / 20_000 < 100e-6  # measured: 1 to 3
