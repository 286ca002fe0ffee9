"""What every answer carries, what is refused before it reaches a view, and what an error gives away: nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bs4 import BeautifulSoup
from flask import Flask
from sqlalchemy.exc import DBAPIError, OperationalError
from werkzeug.test import TestResponse

from app import create_app
from app.accounts import service as accounts
from app.accounts.models import User, UserSession
from app.config import REPOSITORY, Config
from app.database import db
from app.installation import service as installation
from app.jobs.models import Job
from tests.conftest import KEY, Browser, Portal, make_portal

HTTPS = "https://train.example.org"


@pytest.fixture
def production(make: Callable[..., Portal]) -> Portal:
    """The portal as people reach it: with an https address, behind something that ends TLS."""
    return make(base_url=HTTPS)


class Trouble(Exception):
    """A fault in the portal, with something in it that nobody should read."""


def in_trouble(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(accounts, "tokens", fail)  # the account page asks for them


def database_error(text: str = "unable to open database file /srv/portal.db") -> OperationalError:
    return OperationalError("SELECT secret FROM users", {"p": "hunter2"}, Exception(text))


def account_page(portal: Portal, monkeypatch: pytest.MonkeyPatch, error: Exception) -> TestResponse:
    """The account page while something is in trouble."""
    in_trouble(monkeypatch, error)
    return portal.browser("bob").client.get("/account")


def hand_over(giver: Browser, taker: Browser) -> None:
    """One browser gets the cookies of another."""
    for cookie in (giver.client._cookies or {}).values():
        taker.client.set_cookie(cookie.key, cookie.value)


# headers

ANSWERS: dict[str, tuple[int, Callable[[Portal, pytest.MonkeyPatch], TestResponse]]] = {
    "a page": (200, lambda portal, _: portal.browser("bob").client.get("/orgs/lab/jobs")),
    "the sign-in page": (200, lambda portal, _: portal.app.test_client().get("/sign-in")),
    "a fragment": (200, lambda portal, _: portal.browser("bob").client.get("/orgs/lab/jobs-list")),
    "a redirect": (302, lambda portal, _: portal.app.test_client().get("/account")),
    "after a form": (303, lambda portal, _: portal.browser("bob").post("/theme", {"theme": "dark"})),
    "a redirect of the router": (308, lambda portal, _: portal.browser("bob").client.get("/orgs/lab")),
    "no CSRF token": (400, lambda portal, _: portal.browser("bob").client.post("/theme")),
    "another host": (400, lambda portal, _: portal.app.test_client().get("/", headers={"Host": "evil.example"})),
    "a stranger's form": (401, lambda portal, _: portal.browser().post("/account/name", {"name": "x"})),
    "a role too weak": (403, lambda portal, _: portal.browser("vera").client.get("/orgs/lab/new-job")),
    "another site": (
        403,
        lambda portal, _: portal.browser("bob").post("/theme", headers={"Origin": "https://evil.example"}),
    ),
    "nothing": (404, lambda portal, _: portal.app.test_client().get("/no/such/page")),
    "no such job": (404, lambda portal, _: portal.browser("bob").client.get("/orgs/lab/jobs/none")),
    "no such file": (404, lambda portal, _: portal.app.test_client().get("/static/none.css")),
    "the wrong method": (405, lambda portal, _: portal.app.test_client().put("/sign-in")),
    "a used link": (410, lambda portal, _: portal.app.test_client().get("/sign-in/none")),
    "too much": (413, lambda portal, _: portal.browser("bob").post("/theme", {"theme": "x" * (5 << 20)})),
    "a form with an error": (422, lambda portal, _: portal.browser("bob").post("/account/name", {"name": ""})),
    "a fault": (500, lambda portal, patch: account_page(portal, patch, Trouble())),
    "no database": (503, lambda portal, patch: account_page(portal, patch, database_error())),
    "a style sheet": (200, lambda portal, _: portal.app.test_client().get("/static/app.css")),
    "the API": (200, lambda portal, _: portal.api("bob").get("/api/jobs")),
    "the API to a stranger": (401, lambda portal, _: portal.app.test_client().get("/api/jobs")),
    "nothing in the API": (404, lambda portal, _: portal.api("bob").get("/api/none")),
    "the wrong method of the API": (405, lambda portal, _: portal.api("bob").request("PUT", "/api/jobs")),
    "liveness": (200, lambda portal, _: portal.app.test_client().get("/healthz")),
    "readiness": (200, lambda portal, _: portal.app.test_client().get("/readyz")),
    "options": (200, lambda portal, _: portal.app.test_client().options("/sign-in")),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_carries_the_headers(portal: Portal, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    status, ask = ANSWERS[kind]
    answer = ask(portal, monkeypatch)
    answer.get_data()
    answer.close()
    assert answer.status_code == status, answer.text
    headers = answer.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "*" not in headers["Content-Security-Policy"]
    assert len(headers.getlist("Content-Security-Policy")) == 1
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])
    assert "Access-Control-Allow-Origin" not in headers
    assert "Strict-Transport-Security" not in headers  # on plain http it would be ignored, and it would not be true
    if kind != "a style sheet":
        assert "no-store" in headers["Cache-Control"]


def test_each_request_has_its_own_number(portal: Portal) -> None:
    client = portal.app.test_client()
    numbers = {client.get("/healthz", headers={"X-Request-Id": "evil"}).headers["X-Request-Id"] for _ in range(5)}
    assert len(numbers) == 5
    assert "evil" not in numbers


def test_an_https_portal_asks_browsers_to_stay_with_https(production: Portal) -> None:
    for path in ("/sign-in", "/no/such", "/static/app.css", "/api/me"):
        answer = production.app.test_client().get(path, base_url=HTTPS)
        answer.get_data()
        answer.close()
        policy = answer.headers["Strict-Transport-Security"]
        assert int(policy.partition("max-age=")[2].partition(";")[0]) >= 31_536_000
        assert "includeSubDomains" in policy


# nothing that runs stands in a page


def pages(portal: Portal) -> Iterator[tuple[str, Browser]]:
    """Every kind of page there is, with a job in it whose texts try to be markup."""
    portal.launch("first", command="echo '<script>alert(1)</script>' \" onload=x", env={"A": "</pre><img src=x>"})
    bob = portal.browser("bob")
    fields = {"preset": "plain", "command": "", "env-name": "1<b>", "env-value": '"x', "name": "A B"}
    for path in (
        "/account",
        "/orgs/lab/jobs",
        "/orgs/lab/jobs?q=%3Cscript%3E",
        "/orgs/lab/jobs?state=failed",
        "/orgs/lab/jobs-list",
        "/orgs/lab/jobs/first",
        "/orgs/lab/jobs/first?find=%22%3E%3Cscript%3E",
        "/orgs/lab/jobs/first/poll",
        "/orgs/lab/jobs/first/stop",
        "/orgs/lab/jobs/%3Cscript%3E",
        "/orgs/lab/new-job",
        "/orgs/lab/new-job?from=first",
        "/no/such/page?%22%3E%3Cscript%3E",
        "/orgs/rivals/jobs",
    ):
        bob.get(path)
        yield path, bob
    for path in ("/orgs/lab/new-job", "/orgs/lab/new-job/draft", "/orgs/lab/new-job/draft-fragment"):
        bob.post(path, fields)
        yield f"POST {path}", bob
    bob.post("/account/name", {"name": '<script>"' * 50})
    yield "POST /account/name", bob
    for path in ("/orgs/rivals/jobs", "/orgs/rivals/"):
        mallory = portal.browser("mallory")
        mallory.get(path)
        yield path, mallory
    vera = portal.browser("vera")
    vera.get("/orgs/lab/new-job")
    yield "403", vera
    stranger = portal.browser()
    for path in ("/sign-in?next=%22%3E%3Cscript%3E", "/sign-in/used", "/no/such/page"):
        stranger.get(path)
        yield path, stranger
    stranger.post("/sign-in", {"email": '"><script>', "password": "x"})
    yield "POST /sign-in", stranger


def test_no_page_has_inline_script_style_or_handlers(portal: Portal) -> None:
    seen = 0
    for path, browser in pages(portal):
        seen += 1
        for element in browser.page.find_all(True):
            where = f"{path}: {str(element)[:200]}"
            assert element.name not in ("style", "iframe", "object", "embed", "base"), where
            if element.name == "script":
                assert str(element.get("src", "")).startswith("/static/"), where
                assert not element.get_text().strip(), where
            for attribute, value in element.attrs.items():
                assert attribute != "style", where
                assert not attribute.startswith("on"), where
                assert not attribute.startswith("hx-on"), where
                text = " ".join(value) if isinstance(value, list) else str(value)
                assert "javascript:" not in text.lower(), where
                if attribute.startswith("hx-") or attribute == "data-hx":
                    assert not re.match(r"\s*(js|javascript):", text), where
                if attribute in ("src", "action", "formaction") or (attribute == "href" and element.name == "link"):
                    assert text.startswith(("/", "#")), where
                    assert not text.startswith("//"), where
        assert not browser.page.find_all("img")
    assert seen >= 20


def test_no_template_switches_escaping_off() -> None:
    templates = list((REPOSITORY / "app" / "templates").rglob("*.html"))
    assert len(templates) > 20
    unwanted = re.compile(r"""\|\s*safe\b|autoescape\s+false|<script(?![^>]*\bsrc=)|<style|\s(style|on[a-z]+)=["']""")
    assert unwanted.search('<p style="x">')
    for template in templates:
        assert not unwanted.search(template.read_text()), template


def test_vendored_files_are_the_ones_that_were_checked() -> None:
    folder = REPOSITORY / "app" / "static" / "vendor"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    scripts = {file.name for file in folder.iterdir() if file.suffix in (".js", ".css")}
    assert set(listed) == scripts
    assert scripts
    for name, checksum in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    base = (REPOSITORY / "app" / "templates" / "base.html").read_text()
    assert all(f"vendor/{name}" in base for name in scripts)


# whose request it is


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1@evil.example",
        "localhost.evil.example",
        "evil.example/127.0.0.1",
        "127.0.0.2",
        "",
        "127.0.0.1, evil.example",
        "[::1",
    ],
)
@pytest.mark.parametrize("path", ["/sign-in", "/account", "/api/me", "/static/app.css", "/healthz", "/no/such"])
def test_a_host_that_is_not_ours_is_refused(portal: Portal, host: str, path: str) -> None:
    browser = portal.browser("alice")
    answer = browser.client.get(path, environ_overrides={"HTTP_HOST": host})
    assert answer.status_code == 400
    assert "evil" not in answer.text
    assert "Location" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert browser.get("/account").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9999"])
def test_loopback_names_are_ours(portal: Portal, host: str) -> None:
    assert portal.app.test_client().get("/healthz", headers={"Host": host}).status_code == 200


def test_the_host_of_the_base_url_is_ours_and_others_are_not(production: Portal) -> None:
    client = production.app.test_client()
    assert client.get("/healthz", headers={"Host": "train.example.org"}).status_code == 200
    refused = client.get("/sign-in", headers={"Host": "other.example.org"})
    assert refused.status_code == 400
    assert "It is at https://train.example.org. " in refused.text, (
        "whoever came to the wrong address learns the right one"
    )
    assert client.get("/healthz", headers={"Host": "127.0.0.1:8000"}).status_code == 200  # the supervisor's probe


def test_forwarded_headers_change_nothing(portal: Portal) -> None:
    client = portal.app.test_client()
    answer = client.get(
        "/sign-in", headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil"}
    )
    assert answer.status_code == 200
    assert "evil" not in answer.text


HOSTILE: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8001"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost@evil.example"},
    {"Origin": "http://["},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize("headers", HOSTILE, ids=str)
def test_a_form_from_another_site_is_refused_even_with_the_token(portal: Portal, headers: dict[str, str]) -> None:
    bob = portal.browser("bob")
    answer = bob.post("/orgs/lab/new-job", {"preset": "plain", "command": "true"}, headers=headers)
    assert answer.status_code == 403
    assert bob.post("/account/name", {"name": "Mallory"}, headers=headers).status_code == 403
    assert bob.post("/sign-out", headers=headers).status_code == 403
    assert portal.read(lambda: db.session.query(Job).count()) == 0
    assert portal.read(lambda: db.session.query(User).filter_by(name="Mallory").count()) == 0
    assert bob.get("/account").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_a_form_of_the_portal_is_taken(portal: Portal, headers: dict[str, str]) -> None:
    bob = portal.browser("bob")
    assert bob.post("/account/name", {"name": "Robert"}, headers=headers).status_code == 303
    assert portal.read(lambda: db.session.query(User).filter_by(name="Robert").count()) == 1


def test_no_page_may_be_read_by_another_site(portal: Portal) -> None:
    bob = portal.browser("bob")
    for path in ("/account", "/api/me"):
        answer = bob.client.options(
            path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        )
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


# cookies


def cookies(answer: TestResponse) -> dict[str, set[str]]:
    found = {}
    for line in answer.headers.getlist("Set-Cookie"):
        first, *rest = line.split("; ")
        found[first.partition("=")[0]] = {
            part.partition("=")[0] if part.startswith("Expires") else part for part in rest
        }
    return found


def secret_of(portal: Portal) -> str:
    return portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]


def test_on_loopback_the_cookie_is_named_after_the_installation(portal: Portal) -> None:
    found = cookies(portal.browser().get(f"/sign-in/{secret_of(portal)}"))
    (name,) = found
    assert name == f"simpletrain-{portal.read(installation.identity)[:8]}"
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= found[name]
    assert "Secure" not in found[name]  # a browser would not send it back
    assert not [part for part in found[name] if part.startswith("Domain")]


def test_two_portals_on_one_machine_do_not_sign_each_other_out(portal: Portal, tmp_path: Any) -> None:
    other = make_portal(Config(data_dir=tmp_path / "other", secret_key=KEY))
    other.command("users", "create", "alice@example.org")
    browser = portal.browser("alice")
    visiting = Browser(other.app.test_client())
    hand_over(browser, visiting)
    assert visiting.get("/account").status_code == 302  # the same key, but not the same portal
    visiting.get(f"/sign-in/{other.command('users', 'link', 'alice@example.org').stdout.strip().rpartition('/')[2]}")
    hand_over(visiting, browser)
    assert browser.get("/account").status_code == 200
    assert visiting.get("/account").status_code == 200
    with other.app.app_context():
        db.engine.dispose()


def test_with_https_the_cookies_are_bound_to_the_host(production: Portal) -> None:
    client = production.app.test_client()
    answer = client.get(f"/sign-in/{secret_of(production)}", base_url=HTTPS)
    found = cookies(answer)
    assert set(found) == {"__Host-simpletrain"}
    assert {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"} <= found["__Host-simpletrain"]
    assert not [part for part in found["__Host-simpletrain"] if part.startswith("Domain")]
    page = client.get("/account", base_url=HTTPS)
    assert page.status_code == 200
    token = BeautifulSoup(page.text, "html.parser").select_one("meta[name=csrf-token]")
    assert token is not None
    sent = {"theme": "dark", "csrf_token": str(token["content"])}
    # as browsers do: with the address that the form came from
    headers = {"Referer": f"{HTTPS}/account", "Origin": HTTPS}
    themed = client.post("/theme", data=sent, base_url=HTTPS, headers=headers)
    assert themed.status_code == 303
    assert set(cookies(themed)) == {"__Host-theme"}
    assert {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"} <= cookies(themed)["__Host-theme"]
    assert 'data-theme="dark"' in client.get("/account", base_url=HTTPS).text
    cleared = client.post("/theme", data={**sent, "theme": ""}, base_url=HTTPS, headers=headers)
    assert {"Max-Age=0", "Path=/", "Secure"} <= cookies(cleared)["__Host-theme"]
    assert (
        client.post("/theme", data=sent, base_url=HTTPS, headers={"Referer": "https://evil.example/"}).status_code
        == 400
    )


def test_a_page_that_is_only_looked_at_sets_no_cookie_again(portal: Portal) -> None:
    bob = portal.browser("bob")
    bob.get("/orgs/lab/jobs")
    for path in ("/orgs/lab/jobs", "/account", "/orgs/lab/jobs-list", "/static/app.css", "/api/me"):
        answer = bob.client.get(path)
        answer.get_data()
        answer.close()
        assert "Set-Cookie" not in answer.headers, path


def test_a_theme_that_is_none_is_not_kept(portal: Portal) -> None:
    bob = portal.browser("bob")
    for theme in ('"><script>', "", "blue"):
        bob.post("/theme", {"theme": theme})
        bob.get("/account")
        html = bob.page.find("html")
        assert html is not None
        assert "data-theme" not in html.attrs
    bob.client.set_cookie("theme", '"><script>alert(1)</script>')
    bob.get("/account")
    assert "alert(1)" not in str(bob.page)


# errors

LEAKS = (
    "Traceback",
    str(REPOSITORY),
    "site-packages",
    "/srv",
    "hunter2",
    "SELECT",
    "sqlalchemy",
    "OperationalError",
    ".py",
)


@pytest.mark.parametrize("htmx", [False, True])
def test_a_fault_shows_a_number_and_nothing_else(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, htmx: bool
) -> None:
    bob = portal.browser("bob")
    in_trouble(monkeypatch, Trouble("hunter2 in /srv/portal.py"))
    answer = bob.get("/account", headers={"HX-Request": "true"} if htmx else {})
    assert answer.status_code == 500
    assert "Something went wrong in the portal" in bob.text()
    assert answer.headers["X-Request-Id"] in bob.text()
    assert not [word for word in LEAKS if word in answer.text]
    # the operator finds it by the number
    (record,) = [record for record in caplog.records if answer.headers["X-Request-Id"] in record.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Trouble)


def test_a_fault_in_the_api_is_problem_json(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    api = portal.api("bob")
    monkeypatch.setattr("app.jobs.service.page_of_jobs", lambda *_, **__: 1 / 0)
    answer = api.get("/api/jobs")
    assert answer.status_code == 500
    assert answer.mimetype == "application/problem+json"
    assert answer.get_json()["type"] == "https://simpletrain.io/problems/internal"
    assert not [word for word in (*LEAKS, "ZeroDivision") if word in answer.text]


def test_a_fault_undoes_what_was_begun(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = portal.browser("bob")
    token = bob.token()
    monkeypatch.setattr("app.jobs.service.note", lambda *_, **__: 1 / 0)
    sent = {"preset": "plain", "command": "true", "csrf_token": token}
    assert bob.client.post("/orgs/lab/new-job", data=sent).status_code == 500
    assert portal.read(lambda: db.session.query(Job).count()) == 0


@pytest.mark.parametrize("path", ["/account", "/api/me"])
def test_a_database_that_is_away_is_told_with_when_to_try_again(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    bob, api = portal.browser("bob"), portal.api("bob")
    bob.get("/account")

    def away(*_: object, **__: object) -> None:
        raise database_error()

    monkeypatch.setattr(accounts, "session_of", away)
    monkeypatch.setattr(accounts, "token_of", away)
    answer = (api if path.startswith("/api") else bob).get(path)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "cannot reach its database" in answer.text
    assert not [word for word in LEAKS if word in answer.text]
    monkeypatch.undo()
    assert bob.get("/account").status_code == 200  # nobody was signed out by it


def test_a_database_that_is_away_from_the_first_request_on_is_told_too(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the cookie is read from the database, once, before any view runs."""
    portal.app.extensions.pop("installation", None)

    def away() -> str:
        raise database_error()

    monkeypatch.setattr(installation, "identity", away)
    answer = portal.app.test_client().get("/account")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not [word for word in LEAKS if word in answer.text]
    assert portal.app.test_client().get("/healthz").status_code == 200


def test_a_connection_that_was_cut_is_a_database_that_is_away(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = portal.browser("bob")
    cut = DBAPIError("SELECT 1", {}, Exception("server closed the connection"), connection_invalidated=True)
    in_trouble(monkeypatch, cut)
    answer = bob.get("/account")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("path", ["/account", "/sign-in", "/orgs/lab/jobs"])
def test_debug_mode_is_off_whatever_the_environment_says(
    portal: Portal, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_ENV", "development")
    monkeypatch.setenv("FLASK_TESTING", "1")
    made: Flask = create_app(portal.config)
    assert not made.testing
    assert not made.config["PROPAGATE_EXCEPTIONS"]
    assert "werkzeug.debug" not in str(made.wsgi_app)
    assert made.test_client().get(path).status_code in (200, 302)
    with made.app_context():
        db.engine.dispose()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../config.py",
        "/static/%2e%2e/config.py",
        "/static/..%2fconfig.py",
        "/static/%252e%252e/config.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..%5cconfig.py",
        "/static/app.css%00",
        "/static/",
        "/static/vendor",
    ],
)
def test_only_static_files_are_static(portal: Portal, path: str) -> None:
    answer = portal.app.test_client().get(path)
    answer.get_data()
    answer.close()
    assert answer.status_code in (400, 404, 308)
    assert "import" not in answer.text


ODD = ["%00", "%ED%A0%80", "%FF%FE", "%E2%80%AE", "a" * 5000, "%0d%0aX: y", "..%2f..", "%F0%9F%98%80", "%25", "\u00e9"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_text_in_an_address_is_no_fault(portal: Portal, odd: str) -> None:
    portal.launch("first")
    bob, api = portal.browser("bob"), portal.api("bob")
    for path in (
        f"/orgs/{odd}/jobs",
        f"/orgs/lab/jobs/{odd}",
        f"/orgs/lab/jobs?q={odd}",
        f"/orgs/lab/jobs?before={odd}&after={odd}&state={odd}",
        f"/orgs/lab/jobs/first?find={odd}&line={odd}&rank={odd}&attempt={odd}",
        f"/orgs/lab/jobs/first/poll?version={odd}&since={odd}&size={odd}&style={odd}",
        f"/orgs/lab/new-job?preset={odd}",
        f"/orgs/lab/new-job?from={odd}",
        f"/sign-in/{odd}",
        f"/account/sessions/{odd}/end",
        f"/{odd}",
    ):
        assert bob.client.get(path).status_code < 500, path
    for path in (
        f"/api/jobs/{odd}",
        f"/api/jobs?org={odd}",
        f"/api/jobs?q={odd}",
        f"/api/jobs?cursor={odd}",
        f"/api/jobs/first/logs?since={odd}",
        f"/api/{odd}",
    ):
        assert api.get(path).status_code < 500, path
    assert portal.read(lambda: db.session.query(UserSession).count()) == 1
