"""Making and revoking an API token by hand."""

from __future__ import annotations

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from playwright.sync_api import Error, Page, expect

from .conftest import Person, Site


def status(site: Site, token: str) -> int:
    request = urllib.request.Request(f"{site.url}/api/me", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def make(site: Site, page: Page, name: str) -> str:
    """Make a token on the account page; the page shows it now."""
    page.goto(f"{site.url}/account")
    page.get_by_label("What it is for").fill(name)
    page.get_by_role("radio", name="in 30 days").check()
    page.get_by_role("button", name="Make a token").click()
    return page.get_by_label("Token", exact=True).inner_text()


def test_a_token_is_copied_once_and_does_not_come_back(site: Site, open_browser: Callable[..., Person]) -> None:
    person = open_browser()
    person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = person.page()
    token = make(site, page, "copied")
    assert status(site, token) == 200
    page.get_by_role("button", name="Copy: Token").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == token
    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_role("row", name="copied")).to_contain_text("in 30")
    assert token not in page.content()
    with contextlib.suppress(Error):  # Chromium asks whether to send the form again, and a test's answers with an error
        page.go_back()
    page.wait_for_load_state()
    expect(page.get_by_text(token)).to_have_count(0)
    assert token not in page.url
    page.goto(f"{site.url}/account/tokens")
    expect(page).to_have_url(re.compile("/account#tokens$"))
    assert token not in page.content()


def test_loading_the_page_of_a_new_token_again_neither_shows_it_nor_makes_another(site: Site, page: Page) -> None:
    token = make(site, page, "loaded again")
    page.reload()
    expect(page.get_by_text("That token was shown once already.")).to_be_visible()
    assert token not in page.content()
    expect(page.get_by_role("row", name="loaded again")).to_have_count(1)
    assert status(site, token) == 200


def test_a_phone_reaches_every_button_of_its_account_without_scrolling_sideways(
    site: Site, open_browser: Callable[..., Person]
) -> None:
    page = open_browser(viewport={"width": 320, "height": 640}).page()
    name = "evaluation of every night from the server that builds"
    make(site, page, name)
    page.goto(f"{site.url}/account")
    for group in ("Sessions", "API tokens"):
        wider = page.get_by_role("group", name=group).evaluate("part => part.scrollWidth - part.clientWidth")
        assert wider == 0, group
    revoke = page.get_by_role("row", name=name).get_by_role("link", name="Revoke")
    revoke.scroll_into_view_if_needed()
    expect(revoke).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("script", [True, False])
def test_a_token_is_revoked_after_a_question(site: Site, open_browser: Callable[..., Person], script: bool) -> None:
    page = open_browser(java_script_enabled=script).page()
    name = f"revoked {'with' if script else 'without'} script"
    token = make(site, page, name)
    page.get_by_role("link", name="I have copied it").click()
    page.get_by_role("row", name=name).get_by_role("link", name="Revoke").click()
    expect(page.get_by_role("heading", name=f"Revoke {name}?")).to_be_visible()
    assert status(site, token) == 200
    page.get_by_role("button", name="Revoke the token").and_(page.locator(":visible")).click()
    expect(page.get_by_text("The token is revoked.")).to_be_visible()
    expect(page.get_by_role("row", name=name)).to_have_count(0)
    assert status(site, token) == 401
