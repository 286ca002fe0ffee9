"""The log on a job's page: it follows, holds still, is searched, and goes on after a fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, Request, expect

from .conftest import Feed, Person, Site

AT_END = "log => log.scrollHeight - log.clientHeight - log.scrollTop < 4"


def line(page: Page, number: int) -> Locator:
    return page.locator(f"#L{number}")


def follows(page: Page, yes: bool = True) -> None:
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", str(yes).lower())


def is_at_end(page: Page) -> None:
    page.wait_for_function(f"() => ({AT_END})(document.getElementById('log'))")


def top_of(page: Page, number: int) -> float:
    return float(line(page, number).evaluate("line => line.getBoundingClientRect().top"))


def over_the_log(page: Page) -> None:
    box = page.locator("#log").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_the_log_follows_its_end_until_somebody_scrolls_up(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    feed.count(1, 300)
    expect(line(page, 300)).to_be_in_viewport()
    follows(page)
    is_at_end(page)

    over_the_log(page)
    page.mouse.wheel(0, -1500)
    follows(page, False)
    expect(line(page, 300)).not_to_be_in_viewport()
    reading = next(number for number in range(300, 0, -1) if _is_whole(page, number))
    before = top_of(page, reading)
    feed.count(301, 900)
    expect(line(page, 900)).to_be_attached()
    assert abs(top_of(page, reading) - before) < 2

    page.mouse.wheel(0, 100_000)
    follows(page)
    feed.count(901, 950)
    expect(line(page, 950)).to_be_in_viewport()
    is_at_end(page)


def test_a_short_log_below_the_fold_takes_its_room_at_once_and_goes_on_following(
    site: Site, open_browser: Callable[..., Person]
) -> None:
    page = open_browser(viewport={"width": 320, "height": 480}).page()
    name = site.finished("echo short")
    page.goto(site.job(name))
    height = page.evaluate("document.documentElement.scrollHeight")
    expect(line(page, 1)).not_to_be_in_viewport()
    page.locator("#log").scroll_into_view_if_needed()
    expect(line(page, 1)).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollHeight") == height
    follows(page)


def _is_whole(page: Page, number: int) -> bool:
    return bool(
        line(page, number).evaluate(
            """line => {
                const log = document.getElementById("log").getBoundingClientRect();
                const own = line.getBoundingClientRect();
                return own.top > log.top && own.bottom < log.bottom;
            }"""
        )
    )


def test_the_button_and_the_keys_switch_following(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    feed.count(1, 300)
    expect(line(page, 300)).to_be_in_viewport()
    button = page.get_by_role("button", name="Follow")
    button.click()
    follows(page, False)
    feed.count(301, 400)
    expect(line(page, 400)).to_be_attached()
    expect(line(page, 400)).not_to_be_in_viewport()
    button.click()
    expect(line(page, 400)).to_be_in_viewport()
    page.locator("#log").focus()
    page.keyboard.press("PageUp")
    follows(page, False)
    page.keyboard.press("End")
    follows(page)


def test_the_number_of_a_line_is_its_address(site: Site, page: Page) -> None:
    name = site.finished("seq -f 'value %g' 1 5000")
    page.goto(site.job(name))
    expect(line(page, 4990)).to_be_in_viewport()
    line(page, 4990).click(position={"x": 20, "y": 8})
    expect(page).to_have_url(re.compile(r"\?line=4990#L4990$"))
    expect(line(page, 4990)).to_have_class("is-hit")
    follows(page, False)
    page.reload()
    expect(line(page, 4990)).to_be_in_viewport()
    page.goto(site.job(name, line=2500) + "#L2500")
    expect(line(page, 2500)).to_be_in_viewport()
    expect(line(page, 2500)).to_have_class("is-hit")
    expect(line(page, 2500)).to_have_text("value 2500")


def test_lines_above_and_below_come_without_moving_what_is_read(site: Site, page: Page) -> None:
    name = site.finished("seq -f 'value %g' 1 9000")
    page.goto(site.job(name, line=5000) + "#L5000")
    expect(line(page, 5000)).to_be_in_viewport()
    page.locator("#log").evaluate("log => { log.scrollTop = 0 }")
    first = int(page.locator("#log-lines li").first.get_attribute("id")[1:])  # type: ignore[index]
    assert 3000 < first < 5000
    before = top_of(page, first)
    page.get_by_role("link", name=re.compile(f"^{first - 1:,} earlier lines")).click()
    expect(line(page, first - 2000)).to_be_attached()
    expect(page.get_by_role("link", name=re.compile(f"^{first - 2001:,} earlier lines"))).to_be_attached()
    assert abs(top_of(page, first) - before) < 2
    numbers = page.locator("#log-lines li").evaluate_all("lines => lines.map(line => Number(line.id.slice(1)))")
    assert numbers == list(range(first - 2000, numbers[-1] + 1))

    page.locator("#more-below a").click()
    expect(line(page, numbers[-1] + 2000)).to_be_attached()
    expect(line(page, numbers[-1] + 1)).to_have_text(f"value {numbers[-1] + 1}")


def test_the_log_is_searched(site: Site, page: Page) -> None:
    name = site.finished("seq -f 'value %g' 1 5000")
    page.goto(site.job(name))
    page.get_by_role("searchbox", name="Find in the log").fill("VALUE 2500")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    expect(line(page, 2500)).to_be_in_viewport()
    expect(line(page, 2500).locator("mark")).to_have_text("value 2500")

    page.get_by_role("searchbox", name="Find in the log").fill("value 250")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 of 11", exact=True)).to_be_visible()
    page.get_by_role("link", name="Next match").click()
    expect(page.get_by_text("2 of 11", exact=True)).to_be_visible()
    expect(line(page, 2500)).to_be_in_viewport()
    page.get_by_role("link", name="Previous match").click()
    page.get_by_role("link", name="Previous match").click()
    expect(page.get_by_text("11 of 11", exact=True)).to_be_visible()
    page.get_by_role("searchbox", name="Find in the log").fill("nowhere")
    page.keyboard.press("Enter")
    expect(page.get_by_text("not found")).to_be_visible()


def test_long_lines_wrap_or_not(site: Site, page: Page) -> None:
    name = site.finished("python -c \"print('wide ' * 2000)\"")
    page.goto(site.job(name))
    is_wide = "log => log.scrollWidth > log.clientWidth"
    wrap = page.get_by_role("button", name="Wrap long lines")
    expect(line(page, 1)).to_be_attached()
    assert not page.locator("#log").evaluate(is_wide)
    wrap.click()
    expect(wrap).to_have_attribute("aria-pressed", "false")
    assert page.locator("#log").evaluate(is_wide)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_log_and_the_command_are_taken_along(
    site: Site, open_browser: Callable[..., Person], tmp_path: Path
) -> None:
    name = site.finished("printf 'one\\ntwo\\n'")
    page = open_browser("ana", permissions=["clipboard-read", "clipboard-write"]).page()
    page.goto(site.job(name))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the log").click()
    download.value.save_as(tmp_path / "log")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert download.value.suggested_filename == f"{name}-rank0.log"
    page.get_by_role("button", name="Copy: Command").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "printf 'one\\ntwo\\n'"


def test_state_and_log_come_in_one_poll_that_ends_with_the_job(
    site: Site, feed: Feed, open_browser: Callable[..., Person]
) -> None:
    page = open_browser().page()
    page.clock.install()
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.resource_type == "fetch":
            asked.append(request.url)

    page.on("request", note)
    page.goto(site.job(feed.name))
    feed.say("the last words")
    feed.end()
    head = page.locator("#job-head")
    expect(head.get_by_text("Succeeded", exact=True)).to_be_visible()
    expect(page.get_by_text("the last words")).to_be_visible()
    expect(page.locator("#log-foot")).to_contain_text("Complete")
    expect(page).to_have_title(re.compile("succeeded"))
    expect(page.locator("#poller")).not_to_have_attribute("hx-get", re.compile("."))
    assert all("/poll?" in url for url in asked)
    before = len(asked)
    page.clock.fast_forward("10:00")
    assert len(asked) == before


def test_the_page_goes_on_after_the_portal_was_away(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    feed.say("before")
    expect(page.get_by_text("before", exact=True)).to_be_visible()
    page.route("**/poll?*", lambda route: route.fulfill(status=503, body="<h1>away</h1>"))
    feed.say("meanwhile")
    expect(page.get_by_text("The portal does not answer.")).to_be_visible()
    expect(page.get_by_text("away", exact=True)).to_have_count(0)
    page.unroute("**/poll?*")
    expect(page.get_by_text("meanwhile", exact=True)).to_be_visible()
    expect(page.get_by_text("The portal does not answer.")).to_be_hidden()


def test_a_poll_after_the_session_ended_leads_to_sign_in_and_back(
    site: Site, feed: Feed, open_browser: Callable[..., Person]
) -> None:
    reader = open_browser(None).page()
    reader.goto(site.link("rita"))
    reader.goto(site.job(feed.name))
    elsewhere = open_browser(None).page()
    elsewhere.goto(site.link("rita"))
    elsewhere.goto(f"{site.url}/account")
    for label in ("New password", "The same again"):
        elsewhere.get_by_label(label).fill("a long enough password")
    elsewhere.get_by_role("button", name="Set the password").click()
    expect(elsewhere.get_by_text("Every other session of yours has ended.")).to_be_visible()

    expect(reader.get_by_role("heading", name="Sign in to SimpleTrain")).to_be_visible()
    reader.get_by_label("E-mail").fill("rita@example.org")
    reader.get_by_label("Password").fill("a long enough password")
    reader.get_by_role("button", name="Sign in").click()
    expect(reader).to_have_url(site.job(feed.name))


def test_the_oldest_lines_leave_a_page_that_stays_open_and_come_back(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    feed.count(1, 62_000)
    # not through a locator: with so many elements each look of Playwright's takes longer than a poll of the page
    page.wait_for_function("() => document.getElementById('L62000')", timeout=90_000)
    is_at_end(page)
    chunks = page.locator("#log-lines > .log-chunk")
    assert chunks.count() <= 300
    first = page.evaluate("document.querySelector('#log-lines li').id.slice(1)")
    assert int(first) > 1
    over_the_log(page)
    page.mouse.wheel(0, -300)
    follows(page, False)
    page.evaluate("document.querySelector('#more-above a').click()")
    page.wait_for_function("first => document.getElementById(`L${first - 2000}`)", arg=first)
    assert page.url == site.job(feed.name)  # it came by htmx, without leaving the page


def test_what_a_job_prints_is_text_and_nothing_else(site: Site, page: Page) -> None:
    (site.folder / "hostile").write_text(
        "<script>document.title = 'taken'</script>\n"
        "<img src=x onerror=\"document.title='taken'\">\n"
        '<div hx-get="/account" hx-trigger="load" hx-target="body">trap</div>\n'
        "\x1b[31mred\x1b[0m \x1b]0;taken\x07title \x1b]8;;https://evil.example\x07link\x1b]8;;\x07\n"
        "</li></ol></div></section><h1>broken out</h1>\n"
        '<hx-partial hx-target="#job-head">gone</hx-partial>\n'
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    name = site.finished("cat hostile")
    page.goto(site.job(name))
    expect(line(page, 1)).to_have_text("<script>document.title = 'taken'</script>")
    expect(line(page, 4)).to_have_text("red title link")
    expect(line(page, 5)).to_contain_text("<h1>broken out</h1>")
    expect(page.locator("#log :is(script, img, div[hx-get], h1, a[href*=evil], hx-partial)")).to_have_count(0)
    assert "taken" not in page.title()
    page.goto(site.job(name, find="onerror"))
    expect(line(page, 2).locator("mark")).to_have_text("onerror")
    expect(page.locator("#log img")).to_have_count(0)
    assert not any("/account" in url or "evil" in url for url in asked)


def test_hostile_lines_that_arrive_live_are_text_too(site: Site, feed: Feed, page: Page) -> None:
    page.goto(site.job(feed.name))
    feed.say('<hx-partial hx-target="#job-head">gone</hx-partial>', "<img src=x onerror=alert(1)>", "last")
    expect(line(page, 3)).to_have_text("last")
    expect(line(page, 1)).to_have_text('<hx-partial hx-target="#job-head">gone</hx-partial>')
    expect(page.get_by_role("heading", name=feed.name)).to_be_visible()
    expect(page.locator("#log img")).to_have_count(0)
