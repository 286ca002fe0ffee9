"""The page that explains the API: true to what there is, and for the person who reads it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from bs4 import BeautifulSoup

from app.errors import KINDS
from tests.conftest import Browser, Portal


def page(portal: Portal, person: str, slug: str = "lab") -> Browser:
    browser = portal.browser(person)
    assert browser.get(f"/orgs/{slug}/api").status_code == 200
    return browser


def column(soup: BeautifulSoup, label: str, *wanted: int) -> list[tuple[str, ...]]:
    rows = soup.select(f"[aria-label={label}] tbody tr")
    return [tuple(row.find_all("td")[number].get_text() for number in wanted) for row in rows]


def code(browser: Browser) -> dict[str, str]:
    return {str(each["aria-label"]): each.get_text() for each in browser.page.select("pre.code")}


def test_every_call_of_the_api_is_in_its_table(portal: Portal) -> None:
    there = {
        f"{method} {rule.rule.replace('<name>', 'NAME')}"
        for rule in portal.app.url_map.iter_rules()
        if rule.rule.startswith("/api/") and rule.endpoint != "api.openapi"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    } - {"GET /api/openapi.json"}
    listed = [call for (call,) in column(page(portal, "bob").page, "Calls", 0)]
    assert set(listed) == there
    assert len(listed) == len(there)


def test_the_table_names_the_scope_that_each_call_needs(portal: Portal) -> None:
    bob = portal.api("bob")
    portal.launch("his")
    for call, scope in column(page(portal, "bob").page, "Calls", 0, 1):
        method, path = call.replace("NAME", "his").split()
        body = {"json": {"preset": "plain", "command": "true"}} if method == "POST" else {}
        for has in ("read", "write"):
            with portal.app.app_context():
                from app.accounts.models import ApiToken
                from app.database import db

                db.session.query(ApiToken).update({"scopes": has})
                db.session.commit()
            allowed = bob.request(method, path, **body).status_code != 403
            assert allowed == (scope in (has, "any")), (call, has)


def test_every_kind_of_error_is_in_its_table(portal: Portal) -> None:
    listed = column(page(portal, "bob").page, "Errors", 0, 1)
    told = {int(status): set(kinds.split(", ")) for status, kinds in listed}
    assert told == {status: set(kinds) for status, kinds in KINDS.items()}


def test_the_lines_speak_of_this_portal_and_the_readers_org(make: Callable[..., Portal]) -> None:
    portal = make(base_url="https://train.example.org")
    bob = portal.app.test_client()
    secret = portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]
    assert bob.get(f"/sign-in/{secret}", base_url="https://train.example.org").status_code == 303
    soup = BeautifulSoup(bob.get("/orgs/lab/api", base_url="https://train.example.org").text, "html.parser")
    text = "\n".join(each.get_text() for each in soup.select("pre.code"))
    assert set(re.findall(r"https?://[\w.:-]+", text)) == {"https://train.example.org"}
    assert set(re.findall(r"org=([\w]+)", text)) == {"lab"}
    assert '"preset": "digits"' in text  # it has a command of its own


def test_the_key_is_fresh_and_the_name_is_free_each_time(portal: Portal) -> None:
    bob = page(portal, "bob")
    first = code(bob)["Launch a job"]
    assert '"name": "digits"' in first
    portal.launch("digits")
    bob.get("/orgs/lab/api")
    second = code(bob)["Launch a job"]
    assert '"name": "digits-2"' in second
    keys = {re.findall(r"Idempotency-Key: ([\w-]+)", each)[0] for each in (first, second)}
    assert len(keys) == 2


def test_a_viewer_is_shown_how_to_read_alone(portal: Portal) -> None:
    portal.launch("his")
    vera = page(portal, "vera")
    assert set(code(vera)) == {
        "Set the token",
        "Who am I",
        "See how it stands",
        "Read its log",
        "Follow its log",
    }
    assert "/api/jobs/his?org=lab" in code(vera)["See how it stands"]
    assert "Your role in lab is viewer" in vera.text()


def test_an_org_without_presets_is_told_what_to_do(portal: Portal) -> None:
    portal.command("orgs", "create", "fresh")
    portal.command("users", "create", "bob@example.org", "--org", "fresh")
    bob = page(portal, "bob", "fresh")
    assert "presets import FILE --org fresh" in bob.text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "A token may make 12,000 requests a minute"),
        ({"api_rate": 90}, "A token may make 90 requests a minute"),
        ({"api_rate": 0}, "This portal sets no limit for a token."),
        ({"api_failure_rate": 12}, "Without a valid token an address may ask 12 times a minute."),
    ],
)
def test_the_page_tells_the_limit_that_is_in_force(
    make: Callable[..., Portal], settings: dict[str, int], says: str
) -> None:
    assert says in page(make(**settings), "bob").text()


def test_the_account_page_and_the_menu_lead_to_it(portal: Portal) -> None:
    bob = portal.browser("bob")
    for path, places in (("/account", (".menu-panel", "#tokens")), ("/orgs/lab/jobs", (".menu-panel",))):
        bob.get(path)
        for place in places:
            assert "/orgs/lab/api" in [str(link["href"]) for link in bob.page.select(f"{place} a")], (path, place)


def test_somebody_without_an_org_has_no_link_that_leads_nowhere(portal: Portal) -> None:
    portal.command("users", "create", "zoe@example.org")
    zoe = portal.browser("zoe")
    assert zoe.get("/account").status_code == 200
    assert not [link for link in zoe.page.select("a") if str(link["href"]).endswith("/api")]
