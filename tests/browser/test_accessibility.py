"""Every page in both themes, at a desk and on a phone: no violation that axe can find, nothing scrolls sideways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from .conftest import Person, Site, until

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]}}
LONG = "a-name-with-all-of-the-sixty-three-characters-that-one-may-have"


@pytest.fixture(scope="session")
def states(site: Site) -> dict[str, str]:
    """Jobs in the states that look different, by what their page is called."""
    assert len(LONG) == 63
    made = {
        "job that succeeded": site.launch("seq -f 'value %g' 1 3000"),
        "job that failed": site.launch(
            r"printf '\033[31mred\033[0m \033[42mgreen\033[0m\nbar 1\rbar 2\n'; exit 3",
            name=LONG,
            env={"NAME": "x" * 90},
        ),
        "job with ranks": site.launch("[ $NODE_RANK = 0 ] || exit 4; sleep 60", nodes=3),
        "job that runs": site.launch("echo running; sleep 600", gpus=3),
    }
    until(lambda: site.ask("GET", f"jobs/{made['job that runs']}")["state"] == "running")
    made["job that waits"] = site.launch("true", gpus=3)
    for what in ("job that succeeded", "job that failed", "job with ranks"):
        _ended(site, made[what])
    return made


def _ended(site: Site, name: str) -> None:
    until(lambda: site.ask("GET", f"jobs/{name}")["state"] in ("succeeded", "failed"))


def addresses(site: Site, states: dict[str, str]) -> dict[str, str]:
    runs, succeeded = states["job that runs"], states["job that succeeded"]
    return {
        "list": site.address("jobs"),
        "list without a match": site.address("jobs?q=nothing-like-it"),
        "form": site.address("new-job"),
        "form from a job": site.address(f"new-job?from={LONG}"),
        **{what: site.job(name) for what, name in states.items()},
        "search in a log": site.job(succeeded, find="value 7"),
        "line of a log": site.job(succeeded, line=1500),
        "question before a stop": site.job(runs) + "/stop",
        "job that is not there": site.job("no-such-job"),
        "page that is not there": site.address("nowhere"),
        "wrong method": site.address("new-job/draft"),
        "account": f"{site.url}/account",
        "API": site.address("api"),
        "used link": f"{site.url}/sign-in/used",
    }


def wide(page: Page, what: str) -> list[str]:
    more = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"{what}: scrolls sideways by {more} px"] if more > 0 else []


def check(page: Page, what: str, part: str | None = None) -> list[str]:
    found = [
        f"{what}: {each['id']} at {each['nodes'][0]['html'][:200]}: {each['nodes'][0].get('failureSummary')}"
        for each in Axe().run(page, context=part, options=RULES).response["violations"]
    ]
    return [*found, *wide(page, what)]


@pytest.mark.parametrize(("theme", "width", "height"), [("light", 1440, 900), ("dark", 390, 844)])
def test_every_page_is_accessible(
    site: Site, states: dict[str, str], open_browser: Callable[..., Person], theme: str, width: int, height: int
) -> None:
    page = open_browser(color_scheme=theme, viewport={"width": width, "height": height}).page()
    found: list[str] = []
    for what, address in addresses(site, states).items():
        page.goto(address)
        found += check(page, what)
    page.goto(site.address("new-job"))
    page.get_by_role("textbox", name="Name", exact=True).fill("Wrong Name")
    page.get_by_label("Maximum run time").fill("for ever")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#launch-error")).to_be_visible()
    found += check(page, "form with errors")
    page.goto(site.job(states["job that runs"]))
    page.locator("details.menu-end summary").click()
    found += check(page, "open menu", ".topbar")  # it lies over the buttons of the page
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Stop").click()
    found += check(page, "open dialog", "dialog")
    page.goto(f"{site.url}/account")
    page.get_by_role("checkbox", name="read: see jobs").uncheck()
    page.get_by_role("checkbox", name="write: launch").uncheck()
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_text("Tick at least one")).to_be_visible()
    found += check(page, "account with errors")
    page.get_by_label("What it is for").fill("x" * 100)
    page.get_by_role("checkbox", name="read: see jobs").check()
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_role("heading", name="Your new token")).to_be_visible()
    found += check(page, "new token")
    page.get_by_role("link", name="I have copied it").click()
    revoke = page.get_by_role("row", name="x" * 100).get_by_role("link", name="Revoke")
    question = revoke.get_attribute("href")
    revoke.click()
    found += check(page, "open dialog of a token", "dialog[open]")
    page.goto(f"{site.url}{question}")
    found += check(page, "question before a token is revoked")
    page.get_by_role("button", name="Revoke the token").click()
    expect(page.get_by_text("The token is revoked.")).to_be_visible()
    stranger = open_browser(None, color_scheme=theme, viewport={"width": width, "height": height}).page()
    stranger.goto(f"{site.url}/sign-in")
    found += check(stranger, "sign-in")
    assert found == []


def test_nothing_scrolls_sideways_on_the_smallest_phone(
    site: Site, states: dict[str, str], open_browser: Callable[..., Person]
) -> None:
    page = open_browser(viewport={"width": 320, "height": 640}).page()
    found: list[str] = []
    for what, address in addresses(site, states).items():
        page.goto(address)
        found += wide(page, what)
    assert found == []
