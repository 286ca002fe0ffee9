"""The other pages by hand: stopping, the list, the menus, the colours."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from .conftest import Feed, Person, Site, until


def test_the_first_visit_launches_a_job_with_one_click(site: Site, page: Page) -> None:
    page.goto(site.url)
    expect(page.get_by_role("link", name="New job")).to_be_visible()


def test_a_job_is_stopped_from_its_dialog(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    expect(page.locator("#job-head").get_by_text("Running", exact=True)).to_be_visible()
    page.get_by_role("link", name="Stop").click()
    dialog = page.get_by_role("dialog", name=f"Stop {feed.name}?")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Keep it running").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Stop").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Stop").click()
    dialog.get_by_role("button", name="Stop the job").click()
    expect(page.locator("#job-head").get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Stop")).to_have_count(0)


def test_the_question_before_a_stop_follows_the_job_and_offers_to_keep_it_first(site: Site, page: Page) -> None:
    holders = [site.launch("sleep 600") for _ in range(12)]  # one for each slot of the portal
    waits = site.launch("sleep 600")
    until(lambda: site.ask("GET", f"jobs/{waits}")["reason"]["code"] in ("no_free_slot", "behind"))
    page.goto(site.job(waits))
    dialog = page.get_by_role("dialog")
    page.get_by_role("link", name="Stop").click()
    expect(dialog).to_contain_text("it leaves the queue")
    expect(dialog.get_by_role("button", name="Keep it in the queue")).to_be_focused()
    for holder in holders:
        site.stop(holder)
    expect(dialog).to_contain_text("to write a checkpoint")
    expect(dialog.get_by_role("button", name="Keep it running")).to_be_focused()
    dialog.get_by_role("button", name="Stop the job").click()
    expect(page.locator("#job-head").get_by_text("Cancelled", exact=True)).to_be_visible()


def test_a_failed_job_says_why_and_what_would_help(site: Site, page: Page) -> None:
    name = site.finished("echo the cause >&2; exit 7")
    page.goto(site.job(name))
    expect(page.get_by_role("heading", name="It ended with exit code 7.")).to_be_visible()
    expect(page.locator("#log").get_by_text("the cause")).to_be_visible()
    page.get_by_role("link", name="Edit and run").first.click()
    expect(page.get_by_role("textbox", name="Command")).to_have_value("echo the cause >&2; exit 7")


def test_each_rank_of_a_job_has_its_log(site: Site, page: Page) -> None:
    name = site.finished("echo I am rank $NODE_RANK", nodes=2)
    page.goto(site.job(name))
    expect(page.get_by_text("I am rank 0")).to_be_visible()
    page.get_by_role("navigation", name="Rank").get_by_role("link", name="Rank 1").click()
    expect(page.get_by_text("I am rank 1")).to_be_visible()
    expect(page).to_have_url(re.compile("rank=1"))


def test_the_list_renews_itself_and_leaves_the_search_field_alone(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.address("jobs"))
    row = page.locator(f"#job-{feed.name}")
    expect(row.get_by_text("Running")).to_be_visible()
    page.keyboard.press("/")
    search = page.get_by_role("searchbox", name="Find by name")
    expect(search).to_be_focused()
    search.press_sequentially("fee")
    feed.end()
    expect(row.get_by_text("Succeeded")).to_be_visible()
    expect(search).to_be_focused()
    expect(search).to_have_value("fee")
    search.press_sequentially("d-")
    search.press("Enter")
    expect(page).to_have_url(re.compile("q=feed-"))
    expect(page.locator(f"#job-{feed.name}")).to_be_visible()
    page.get_by_role("radio", name="Mine").check()
    expect(page).to_have_url(re.compile("mine=1"))


def test_the_current_tab_is_in_sight_on_a_phone(site: Site, feed: Feed, open_browser: Callable[..., Person]) -> None:
    page = open_browser(viewport={"width": 320, "height": 640}).page()
    page.goto(site.address("jobs?state=lost"))
    expect(page.locator(".tabs [aria-current]")).to_be_in_viewport(ratio=0.9)


def test_menus_open_and_close_by_keyboard(site: Site, page: Page) -> None:
    page.goto(site.address("jobs"))
    menu = page.locator("details.menu-end summary")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="ana")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    expect(menu).to_be_focused()


def test_the_theme_is_chosen_and_kept(site: Site, open_browser: Callable[..., Person]) -> None:
    page = open_browser(color_scheme="light").page()
    page.goto(site.address("jobs?state=failed"))
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for theme in ("light", "dark"):
        page.locator("details.menu-end summary").click()
        page.get_by_role("button", name="Theme:").click()
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        expect(page).to_have_url(re.compile(r"state=failed"))
    assert page.evaluate(ground) != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
