"""Where signing in leads to: back to where a person was, and never off the portal."""

from __future__ import annotations

from urllib.parse import quote, urljoin, urlsplit

import pytest

from app.accounts.access import local_path
from tests.conftest import Portal

BASE = "http://127.0.0.1:8000"

HOSTILE = [
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "//evil.example/%2f..",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "\\evil.example",
    "/\\/evil.example",
    "/\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "/\r\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "\u00a0//evil.example",
    "\0//evil.example",
    "/\0/evil.example",
    "/\x0b/evil.example",
    "/\x0c/evil.example",
    "/\x1f/evil.example",
    "http:evil.example",
    "http:/evil.example",
    "http://evil.example",
    "HTTP://evil.example",
    "https:///evil.example",
    "https:evil.example",
    "https://127.0.0.1:8000@evil.example",
    "//evil.example@127.0.0.1:8000",
    "//127.0.0.1:8000@evil.example/",
    "http://127.0.0.1:8000.evil.example/",
    "//127.0.0.1:8000.evil.example",
    "127.0.0.1:8000//evil.example",
    "http://127.0.0.1:8000//evil.example",
    "//[::1]:80",
    "//[evil",
    "http://[evil",
    "//evil\u3002example",
    "//\u2025evil.example",
    "/\u2028/evil.example",
    "/\uff0fevil.example",
    "\uff0f\uff0fevil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "/javascript:alert(1)\r\nSet-Cookie: a=b",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://evil.example",
    "mailto:a@evil.example",
    "evil.example",
    "./evil",
    "../evil",
    "?next=//evil.example",
    "#//evil.example",
    "@evil.example",
    ".evil.example",
    "%2f%2fevil.example",
    "%5c%5cevil.example",
    "/%0d%0aSet-Cookie:%20a=b",
    "/%09/evil.example",
    "/%2f/evil.example",
    "/%5cevil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/;@evil.example",
    "/x/../../..//evil.example",
    "/" + "a" * 10_000,
    "//" + "a" * 10_000,
    "",
    "/",
]


def browser_goes_to(location: str) -> str:
    """What a browser makes of a Location header, as the URL standard has it for what urljoin does differently."""
    location = location.strip("".join(map(chr, range(33))))
    for ignored in "\t\n\r":
        location = location.replace(ignored, "")
    return urljoin(f"{BASE}/sign-in", location.replace("\\", "/"))


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_next_stays_on_the_portal(portal: Portal, target: str) -> None:
    secret = portal.command("users", "link", "alice@example.org").stdout.strip().rpartition("/")[2]
    answer = portal.browser().get(f"/sign-in/{secret}?next={quote(target)}")
    assert answer.status_code == 303
    went = urlsplit(browser_goes_to(answer.location))
    assert (went.scheme, went.netloc) == ("http", "127.0.0.1:8000"), answer.location
    assert answer.location.startswith("/")
    assert not answer.location.startswith("//")
    assert len(answer.headers.getlist("Location")) == 1
    assert "a=b" not in str(answer.headers.getlist("Set-Cookie"))


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) >= 60
    # and most are refused, not followed to an odd path of the portal
    assert sum(local_path(target) is None for target in HOSTILE) >= 50


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example"])
def test_every_way_in_treats_next_alike(portal: Portal, target: str) -> None:
    alice = portal.browser("alice")
    alice.post("/account/password", {"password": "correct horse battery", "again": "correct horse battery"})
    fields = {"email": "alice@example.org", "password": "correct horse battery"}
    assert portal.browser().post(f"/sign-in?next={quote(target)}", fields).location == "/"
    assert alice.get(f"/sign-in?next={quote(target)}").location == "/"  # signed in already
    assert alice.post("/theme", {"theme": "dark", "back": target}).location == "/"
    stranger = portal.browser()
    answer = stranger.get("/account", headers={"HX-Request": "true", "HX-Current-URL": target})
    assert answer.headers["HX-Redirect"].startswith("/sign-in")
    assert "evil" not in answer.headers["HX-Redirect"] or target.startswith("https:")


def test_an_honest_next_leads_back(portal: Portal) -> None:
    stranger = portal.browser()
    answer = stranger.get("/orgs/lab/jobs?state=failed&q=a%26b")
    assert answer.status_code == 302
    stranger.get(answer.location)
    action = str(stranger.page.find_all("form")[-1]["action"])
    alice = portal.browser("alice")
    alice.post("/account/password", {"password": "correct horse battery", "again": "correct horse battery"})
    done = stranger.post(action, {"email": "alice@example.org", "password": "correct horse battery"})
    assert done.location == "/orgs/lab/jobs?state=failed&q=a%26b"


@pytest.mark.parametrize("header", ["http://[", "", "http://127.0.0.1:8000/orgs/lab/jobs?q=x", "//[::", "\\"])
def test_a_fragment_sends_a_stranger_to_the_sign_in_page(portal: Portal, header: str) -> None:
    answer = portal.browser().get("/orgs/lab/jobs-list", headers={"HX-Request": "true", "HX-Current-URL": header})
    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"].startswith("/sign-in")
    if "lab" in header:
        assert answer.headers["HX-Redirect"].endswith(quote("/orgs/lab/jobs?q=x", safe="/?"))
