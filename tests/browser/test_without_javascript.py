"""Everything works as links and forms."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Error, Page, expect

from .conftest import Feed, Person, Site, until


@pytest.fixture
def plain(open_browser: Callable[..., Person]) -> Page:
    """A page in a browser that runs no JavaScript."""
    return open_browser("ana", java_script_enabled=False).page()


def reloaded(page: Page) -> bool:
    """Load the page anew, unless it does so by itself in this very moment."""
    try:
        return page.reload() is not None
    except Error:
        return False


def test_a_link_signs_in(site: Site, open_browser: Callable[..., Person]) -> None:
    page = open_browser(None, java_script_enabled=False).page()
    page.goto(site.link("noah"))
    expect(page.get_by_role("link", name="New job")).to_be_visible()


def test_a_job_is_drafted_launched_watched_and_stopped(site: Site, plain: Page) -> None:
    page = plain
    page.goto(site.address("new-job"))
    page.get_by_role("radio", name=re.compile("^plain")).check()
    page.get_by_role("button", name="Show the limits of this preset").click()
    page.get_by_role("textbox", name="Command").fill("echo working without; sleep 600")
    page.get_by_label("Name of another variable").fill("KEY")
    page.get_by_label("Its value").fill("value")
    page.get_by_role("button", name="Add another variable").click()
    expect(page.get_by_label("Value of KEY")).to_have_value("value")
    page.get_by_role("button", name="One node more").click()
    expect(page.get_by_role("spinbutton", name="Nodes")).to_have_value("2")
    page.get_by_role("button", name="One node fewer").click()
    expect(page.get_by_role("spinbutton", name="Nodes")).to_have_value("1")
    page.get_by_role("textbox", name="Name", exact=True).fill("without-script")
    page.get_by_role("button", name="Launch").last.click()
    expect(page).to_have_url(site.job("without-script"))

    refresh = page.locator("noscript")
    assert 'http-equiv="refresh"' in (refresh.first.text_content() or "") or page.locator("meta[http-equiv]").count()
    until(lambda: reloaded(page) and page.locator("#log li").count() > 0)
    expect(page.get_by_text("working without", exact=True)).to_be_visible()

    page.get_by_role("link", name="Stop").click()
    expect(page.get_by_role("heading", name="Stop without-script?")).to_be_visible()
    page.get_by_role("button", name="Stop the job").click()
    until(lambda: reloaded(page) and page.locator(".state-cancelled").count() > 0)


def test_the_log_is_read_from_its_end_searched_and_paged(site: Site, plain: Page) -> None:
    page = plain
    name = site.finished("seq -f 'value %g' 1 7000")
    page.goto(site.job(name))
    expect(page.locator("#L7000")).to_be_in_viewport()
    page.get_by_role("searchbox", name="Find in the log").fill("value 350")
    page.get_by_role("searchbox", name="Find in the log").press("Enter")
    expect(page.get_by_text("1 of 11", exact=True)).to_be_visible()
    page.get_by_role("link", name="Next match").click()
    expect(page.get_by_text("2 of 11", exact=True)).to_be_visible()
    expect(page.locator("#L3500")).to_be_in_viewport()
    page.goto(site.job(name, line=3500))
    page.locator("#more-above a").click()
    expect(page).to_have_url(re.compile(r"line=\d+#L\d+"))
    expect(page.locator("#log li:target")).to_be_in_viewport()


def test_jobs_are_searched(site: Site, feed: Feed, plain: Page) -> None:
    page = plain
    page.goto(site.address("jobs"))
    page.get_by_role("searchbox", name="Find by name").fill(feed.name)
    page.get_by_role("radio", name="Mine").check()
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("link", name=feed.name, exact=True)).to_be_visible()
