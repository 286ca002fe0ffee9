"""Who may do what: every address of the portal, for every kind of caller, against one table.

A new route fails here until it has a line. What is refused changes nothing; what another org has looks exactly like
what never was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.routing import Map
from werkzeug.test import TestResponse

from app import create_app
from app.accounts import service as accounts
from app.accounts.models import ApiToken, UserSession
from app.config import Config
from app.database import db, transaction
from app.jobs.models import Job, JobAttempt
from app.logs import service as logs
from tests.conftest import KEY, Portal

PEOPLE = ("nobody", "vera", "bob", "alice", "mallory")  # a stranger; viewer, member, owner of lab; owner of rivals

# One line a route: what a stranger, a viewer, a member, an owner and another org's owner get from it. Paths are filled
# with things of the org lab: a job of bob's, a session and a token of alice's. A stranger's 302 leads to /sign-in.
# fmt: off
PAGES = {
    # open to everyone
    "GET /healthz":                                 (200, 200, 200, 200, 200),
    "GET /readyz":                                  (200, 200, 200, 200, 200),
    "GET /static/<path:filename>":                  (200, 200, 200, 200, 200),
    "GET /api/openapi.json":                        (200, 200, 200, 200, 200),
    "GET /sign-in":                                 (200, 303, 303, 303, 303),
    "POST /sign-in":                                (422, 422, 422, 422, 422),
    "GET /sign-in/<secret>":                        (303, 303, 303, 303, 303),
    "POST /sign-out":                               (303, 303, 303, 303, 303),
    "POST /theme":                                  (303, 303, 303, 303, 303),
    # one's own
    "GET /":                                        (302, 302, 302, 302, 302),
    "GET /account":                                 (302, 200, 200, 200, 200),
    "POST /account/name":                           (401, 303, 303, 303, 303),
    "POST /account/password":                       (401, 303, 303, 303, 303),
    "POST /account/sessions/<int:session_id>/end":  (401, 404, 404, 303, 404),
    "POST /account/sessions/end-others":            (401, 303, 303, 303, 303),
    "GET /account/tokens":                          (302, 302, 302, 302, 302),
    "POST /account/tokens":                         (401, 200, 200, 200, 200),
    "GET /account/tokens/<int:token_id>/revoke":    (302, 404, 404, 200, 404),
    "POST /account/tokens/<int:token_id>/revoke":   (401, 404, 404, 303, 404),
    # an org's
    "GET /orgs/<org>/":                             (302, 302, 302, 302, 404),
    "GET /orgs/<org>/api":                          (302, 200, 200, 200, 404),
    "GET /orgs/<org>/jobs":                         (302, 200, 200, 200, 404),
    "GET /orgs/<org>/jobs-list":                    (302, 200, 200, 200, 404),
    "GET /orgs/<org>/new-job":                      (302, 403, 200, 200, 404),
    "POST /orgs/<org>/new-job":                     (401, 403, 303, 303, 404),
    "POST /orgs/<org>/new-job/draft":               (401, 403, 200, 200, 404),
    "POST /orgs/<org>/new-job/draft-fragment":      (401, 403, 200, 200, 404),
    "GET /orgs/<org>/jobs/<name>":                  (302, 200, 200, 200, 404),
    "GET /orgs/<org>/jobs/<name>/poll":             (302, 200, 200, 200, 404),
    "GET /orgs/<org>/jobs/<name>/lines":            (302, 200, 200, 200, 404),
    "GET /orgs/<org>/jobs/<name>/log":              (302, 200, 200, 200, 404),
    "POST /orgs/<org>/jobs/<name>/again":           (401, 403, 303, 303, 404),
    "GET /orgs/<org>/jobs/<name>/stop":             (302, 403, 200, 200, 404),
    "POST /orgs/<org>/jobs/<name>/stop":            (401, 403, 303, 303, 404),
}
API = {
    "GET /api/me":                                  (401, 200, 200, 200, 200),
    "GET /api/presets":                             (401, 200, 200, 200, 404),
    "GET /api/clusters":                            (401, 200, 200, 200, 404),
    "GET /api/jobs":                                (401, 200, 200, 200, 404),
    "POST /api/jobs":                               (401, 403, 201, 201, 404),
    "GET /api/jobs/<name>":                         (401, 200, 200, 200, 404),
    "DELETE /api/jobs/<name>":                      (401, 403, 202, 202, 404),
    "GET /api/jobs/<name>/logs":                    (401, 200, 200, 200, 404),
}
# fmt: on

GETS_THAT_CHANGE = {"GET /sign-in/<secret>"}  # the link is used up
WHOLE_PORTAL = {"GET /api/me"}  # takes no org

FIELDS = {
    "POST /account/name": {"name": "Somebody"},
    "POST /account/password": {"password": "correct horse battery", "again": "correct horse battery"},
    "POST /account/tokens": {"name": "nightly", "scopes": "read", "days": "30"},
    "POST /orgs/<org>/new-job": {"preset": "plain", "command": "true"},
    "POST /orgs/<org>/new-job/draft": {"preset": "plain"},
    "POST /orgs/<org>/new-job/draft-fragment": {"preset": "plain"},
}
QUERY = {"GET /orgs/<org>/jobs/<name>/lines": "?below=1"}


def routes(url_map: Map) -> set[str]:
    return {
        f"{method} {rule.rule}"
        for rule in url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def unsafe(table: dict[str, Any]) -> list[str]:
    return [route for route in table if not route.startswith("GET ")]


def contents(portal: Portal) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the database."""
    with portal.app.app_context(), db.engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))]
            for table in db.metadata.sorted_tables
        }


@dataclass
class Things:
    """A portal with something at every address, in both orgs."""

    portal: Portal
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, person in (("ours", "bob"), ("theirs", "mallory")):
            job = self.portal.launch(name, person)
            with self.portal.app.app_context(), transaction():
                attempt = JobAttempt(job_id=job.id, number=1)
                db.session.add(attempt)
                db.session.get_one(Job, job.id).attempt = 1
                db.session.flush()
                logs.append(logs.stream(attempt.id, 0), b"one\ntwo\nthree\n", "c", 0, "", False, 1 << 20)
        self.ids = self.of("alice")

    def of(self, person: str) -> dict[str, str]:
        """A session and a token of somebody, beside those that they use."""
        self.portal.browser(person)
        self.portal.token(person)
        with self.portal.app.app_context():
            user = accounts.by_email(f"{person}@example.org")
            assert user is not None
            return {
                "session_id": str(db.session.scalars(select(UserSession.id).filter_by(user_id=user.id)).all()[-1]),
                "token_id": str(db.session.scalars(select(ApiToken.id).filter_by(user_id=user.id)).all()[-1]),
            }

    def path(self, route: str, org: str = "lab", name: str = "ours", **ids: str) -> str:
        with self.portal.app.app_context(), transaction():
            vera = accounts.by_email("vera@example.org")
            assert vera is not None
            secret = accounts.make_link(vera)
        values = {**self.ids, "org": org, "name": name, "secret": secret, "filename": "app.css", **ids}
        rule = route.partition(" ")[2]
        return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: values[found[1]], rule) + QUERY.get(route, "")

    def page(self, route: str, person: str, path: str, csrf: bool = True, **more: Any) -> TestResponse:
        browser = self.portal.browser(None if person == "nobody" else person)
        if route.startswith("GET "):
            return browser.client.get(path, **more)
        data = dict(FIELDS.get(route, {}))
        if csrf:
            data["csrf_token"] = browser.token()
        return browser.client.open(path, method=route.partition(" ")[0], data=data, **more)

    def api(self, route: str, person: str, path: str, org: str | None = "lab") -> TestResponse:
        method = route.partition(" ")[0]
        token = None if person == "nobody" else self.portal.token(person)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if org is None or route in WHOLE_PORTAL:
            more: dict[str, Any] = {"json": {"preset": "plain", "command": "true"}} if method == "POST" else {}
        elif method == "POST":
            more = {"json": {"preset": "plain", "command": "true", "org": org}}
        else:
            more = {"query_string": {"org": org}}
        return self.portal.app.test_client().open(path, method=method, headers=headers, **more)


@pytest.fixture
def things(portal: Portal) -> Things:
    return Things(portal)


def test_every_route_has_a_line_and_every_line_a_route(portal: Portal) -> None:
    assert routes(portal.app.url_map) == set(PAGES) | set(API)


def test_a_portal_with_other_settings_has_no_other_routes(portal: Portal, config: Config) -> None:
    production = create_app(Config(data_dir=config.data_dir, secret_key=KEY, base_url="https://train.example.org"))
    assert routes(production.url_map) == routes(portal.app.url_map)


@pytest.mark.parametrize("route", PAGES)
def test_pages_answer_each_person_as_the_table_says(things: Things, route: str) -> None:
    path = things.path(route)
    answers = {}
    for person in PEOPLE:
        # signing in and loading a page for its CSRF token write, so the rows are compared around the request alone
        browser = things.portal.browser(None if person == "nobody" else person)
        token = browser.token()
        before = contents(things.portal)
        method = route.partition(" ")[0]
        data = None if method == "GET" else {**FIELDS.get(route, {}), "csrf_token": token}
        answer = browser.client.open(path, method=method, data=data)
        answer.get_data()
        answer.close()  # a streamed answer keeps its context, and with it who asked
        answers[person] = answer.status_code
        if answer.status_code >= 400 or (method == "GET" and route not in GETS_THAT_CHANGE):
            assert contents(things.portal) == before, f"{person} changed something"
        if answer.status_code == 302:
            to_sign_in = answer.location.startswith("/sign-in")
            assert to_sign_in == (person == "nobody"), f"{person} is sent to {answer.location}"
        if "<secret>" in route:
            path = things.path(route)  # a link works once
    assert tuple(answers.values()) == PAGES[route]


@pytest.mark.parametrize("route", API)
def test_the_api_answers_each_token_as_the_table_says(things: Things, route: str) -> None:
    path = things.path(route)
    answers = []
    for person in PEOPLE:
        if person != "nobody":
            things.portal.api(person).get("/api/me")  # notes the token's first use
        before = contents(things.portal)
        answer = things.api(route, person, path)
        answers.append(answer.status_code)
        if answer.status_code >= 400:
            assert answer.mimetype == "application/problem+json"
            after = contents(things.portal)
            made = [row for row in after["audit_events"] if row not in before["audit_events"]]
            assert {row[5] for row in made} <= {"token.created"}, f"{person} changed something"
            for table in before.keys() - {"api_tokens", "audit_events"}:  # that a token was made and used is no harm
                assert after[table] == before[table], f"{person} changed {table}"
    assert tuple(answers) == API[route]


@pytest.mark.parametrize("route", unsafe(PAGES))
def test_a_form_without_its_csrf_token_is_refused_and_changes_nothing(things: Things, route: str) -> None:
    path = things.path(route)
    for person in ("nobody", "alice"):
        browser = things.portal.browser(None if person == "nobody" else person)
        browser.token()
        others = things.portal.browser("alice").token()
        before = contents(things.portal)
        method = route.partition(" ")[0]
        for sent in ({}, {"csrf_token": ""}, {"csrf_token": "x" * 80}, {"csrf_token": others}):
            answer = browser.client.open(path, method=method, data={**FIELDS.get(route, {}), **sent})
            assert answer.status_code == 400, f"{person} with {sent}"
            assert contents(things.portal) == before


@pytest.mark.parametrize("route", unsafe(PAGES))
def test_a_form_sent_as_json_or_plain_text_is_refused(things: Things, route: str) -> None:
    browser = things.portal.browser("alice")
    path, before = things.path(route), None
    before = contents(things.portal)
    for kind in ("application/json", "text/plain"):
        answer = browser.client.post(path, data='{"csrf_token": "x", "name": "y"}', content_type=kind)
        assert answer.status_code == 400
    assert contents(things.portal) == before


@pytest.mark.parametrize("route", API)
def test_a_cookie_does_not_open_the_api(things: Things, route: str) -> None:
    browser = things.portal.browser("alice")
    assert browser.client.get("/account").status_code == 200
    path = things.path(route)
    before = contents(things.portal)
    answer = browser.client.open(
        path, method=route.partition(" ")[0], json={"preset": "plain", "command": "true"}, headers={"Accept": "*/*"}
    )
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert contents(things.portal) == before


CLOSED = [route for route, cells in PAGES.items() if cells[0] in (302, 401)]


@pytest.mark.parametrize("route", CLOSED)
def test_a_bearer_token_does_not_open_a_page(things: Things, route: str) -> None:
    headers = {"Authorization": f"Bearer {things.portal.token('alice')}"}
    path = things.path(route)
    before = contents(things.portal)
    answer = things.page(route, "nobody", path, headers=headers)
    assert answer.status_code == (302 if route.startswith("GET ") else 401)
    if answer.status_code == 302:
        assert answer.location.startswith("/sign-in")
    assert contents(things.portal) == before


# nobody can tell what another org has from what never was


def plain(answer: TestResponse, *own: str) -> str:
    """A page without what only this request brought along: the address that was asked, and the CSRF tokens."""
    text = re.sub(r'(csrf[-_]token" (?:content|value)=")[^"]*', r"\1", answer.text)
    for word in own:
        text = text.replace(word, "…")
    return text


@pytest.mark.parametrize("route", [route for route in PAGES if "<org>" in route])
def test_another_orgs_page_looks_like_one_that_never_was(things: Things, route: str) -> None:
    theirs = things.page(route, "alice", things.path(route, org="rivals", name="theirs"))
    never = things.page(route, "alice", things.path(route, org="neverr", name="theirs"))
    assert theirs.status_code == never.status_code == 404
    assert plain(theirs, "rivals") == plain(never, "neverr")


@pytest.mark.parametrize("route", [route for route in PAGES if "<org>" in route and "<name>" in route])
def test_another_orgs_job_in_my_org_looks_like_one_that_never_was(things: Things, route: str) -> None:
    theirs = things.page(route, "alice", things.path(route, name="theirs"))
    never = things.page(route, "alice", things.path(route, name="neverr"))
    assert theirs.status_code == never.status_code == 404
    assert plain(theirs, "theirs") == plain(never, "neverr")


def test_another_orgs_job_cannot_be_copied_into_the_form(things: Things) -> None:
    alice = things.portal.browser("alice")
    theirs, never = (alice.get(f"/orgs/lab/new-job?from={name}") for name in ("theirs", "neverr"))
    assert theirs.status_code == never.status_code == 404
    assert plain(theirs, "theirs") == plain(never, "neverr")


@pytest.mark.parametrize(
    ("route", "kind"),
    [
        ("POST /account/sessions/<int:session_id>/end", "session_id"),
        ("GET /account/tokens/<int:token_id>/revoke", "token_id"),
        ("POST /account/tokens/<int:token_id>/revoke", "token_id"),
    ],
)
def test_somebody_elses_session_or_token_looks_like_one_that_never_was(things: Things, route: str, kind: str) -> None:
    theirs = things.of("mallory")
    before = contents(things.portal)
    first = things.page(route, "alice", things.path(route, **theirs))
    second = things.page(route, "alice", things.path(route, **{kind: "99999999"}))
    assert first.status_code == second.status_code == 404
    assert plain(first, f"/{theirs[kind]}/") == plain(second, "/99999999/")
    with things.portal.app.app_context():
        model = UserSession if kind == "session_id" else ApiToken
        assert db.session.get(model, int(theirs[kind])) is not None
    assert contents(things.portal)["api_tokens"] == before["api_tokens"]


def bytes_of(answer: TestResponse) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Everything of an answer but the number of the request."""
    return (
        answer.status_code,
        answer.data,
        [(name, value) for name, value in answer.headers if name != "X-Request-Id"],
    )


@pytest.mark.parametrize("route", [route for route in API if route not in WHOLE_PORTAL])
def test_the_api_says_the_same_bytes_of_another_org_and_of_none(things: Things, route: str) -> None:
    path = things.path(route, name="theirs")
    theirs, never = (bytes_of(things.api(route, "alice", path, org)) for org in ("rivals", "neverr"))
    assert theirs == never
    assert theirs[0] == 404


@pytest.mark.parametrize("route", [route for route in API if "<name>" in route])
@pytest.mark.parametrize("org", [None, "lab", "rivals"])
def test_the_api_says_the_same_bytes_of_another_orgs_job_and_of_none(
    things: Things, route: str, org: str | None
) -> None:
    theirs, never, odd = (
        bytes_of(things.api(route, "alice", things.path(route, name=name), org))
        for name in ("theirs", "neverr", "No%20Such%20Name")
    )
    assert theirs == never == odd
    assert theirs[0] == 404


def test_another_orgs_cursor_is_refused(things: Things) -> None:
    for number in range(3):
        things.portal.launch(f"more-{number}", "mallory")
    answer = things.portal.api("mallory").get("/api/jobs?limit=1")
    cursor = answer.get_json()["next"]
    assert things.portal.api("mallory").get(f"/api/jobs?limit=1&cursor={cursor}").status_code == 200
    assert things.portal.api("alice").get(f"/api/jobs?limit=1&cursor={cursor}").status_code == 422
