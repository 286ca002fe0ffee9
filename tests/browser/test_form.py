"""The launch form: its own buttons, what the server changes, and what stays as typed."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, Request, expect

from .conftest import Person, Site


def opens(page: Page, site: Site, preset: str = "plain") -> None:
    page.goto(site.address(f"new-job?preset={preset}"))
    expect(page.get_by_role("heading", name="New job")).to_be_visible()


def summary(page: Page) -> str:
    return page.locator(".summary").inner_text()


def test_the_steppers_change_the_number_and_the_summary(site: Site, page: Page) -> None:
    opens(page, site, "trainer")
    gpus = page.get_by_label("GPUs per node")
    expect(gpus).to_have_value("2")
    page.get_by_role("button", name="One GPU more").click()
    expect(gpus).to_have_value("3")
    expect(page.locator(".summary")).to_contain_text("3 GPUs")
    gpus.fill("1")
    page.get_by_role("button", name="One GPU more").click()
    expect(page.locator(".summary")).to_contain_text("2 GPUs")
    expect(gpus).to_have_value("2")
    page.get_by_role("button", name="One GPU fewer").click()
    page.get_by_role("button", name="One GPU fewer").click()
    expect(page.locator(".summary")).to_contain_text("no GPU")
    expect(gpus).to_have_value("0")
    expect(page.get_by_role("button", name="One GPU fewer")).to_be_focused()
    page.get_by_role("button", name="One node more").click()
    page.get_by_role("button", name="One node more").click()
    expect(page.get_by_role("spinbutton", name="Nodes")).to_have_value("3")
    expect(page.get_by_role("spinbutton", name="Nodes")).to_have_attribute("aria-invalid", "true")


def test_another_preset_brings_its_defaults_and_leaves_what_was_typed(site: Site, page: Page) -> None:
    opens(page, site, "plain")
    page.get_by_role("textbox", name="Command").fill("echo mine")
    page.get_by_label("Maximum run time").fill("")
    page.get_by_role("radio", name=re.compile("^trainer")).check()
    expect(page.get_by_label("GPUs per node")).to_have_value("2")
    expect(page.get_by_label("Maximum run time")).to_have_value("24h")
    expect(page.get_by_role("textbox", name="Command")).to_have_value("echo mine")
    expect(page.get_by_text("the preset sets OMP_NUM_THREADS")).to_be_visible()
    page.get_by_role("textbox", name="Command").fill("")
    page.get_by_role("radio", name=re.compile("^plain")).check()
    expect(page.get_by_label("GPUs per node")).to_have_value("0")
    page.get_by_role("radio", name=re.compile("^trainer")).check()
    expect(page.get_by_role("textbox", name="Command")).to_have_value("python train.py")


def test_a_refused_launch_leads_to_what_needs_a_change(site: Site, open_browser: Callable[..., Person]) -> None:
    page = open_browser(viewport={"width": 320, "height": 640}).page()
    opens(page, site)
    page.get_by_role("textbox", name="Command").fill("true")
    page.get_by_role("textbox", name="Name", exact=True).fill("Wrong Name")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#launch-error")).to_be_focused()
    expect(page.locator("#launch-error")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Name", exact=True)).to_be_in_viewport(ratio=1)


def test_the_value_of_a_variable_has_room_on_a_phone(site: Site, open_browser: Callable[..., Person]) -> None:
    page = open_browser(viewport={"width": 320, "height": 640}).page()
    opens(page, site)
    box = page.get_by_label("Its value").bounding_box()
    assert box is not None
    assert box["width"] > 100


def test_variables_are_added_and_taken_out(site: Site, page: Page) -> None:
    opens(page, site)
    for number, name in enumerate("ABC"):
        page.locator(f"#env-name-{number}").fill(name)
        page.locator(f"#env-value-{number}").fill(f"value {name}")
        expect(page.locator(f"#env-name-{number + 1}")).to_be_attached()  # a free row comes by itself
        page.get_by_role("button", name="Add another variable").click()
        expect(page.get_by_label(f"Name of variable {number + 1}")).to_have_value(name)
        expect(page.get_by_label("Name of another variable")).to_be_focused()
    page.get_by_label("Value of B").fill("typed over")
    page.get_by_role("button", name="Remove B").click()
    expect(page.locator("[name=env-name]")).to_have_count(3)
    names = page.locator("[name=env-name]").evaluate_all("fields => fields.map(field => field.value)")
    values = page.locator("[name=env-value]").evaluate_all("fields => fields.map(field => field.value)")
    assert (names, values) == (["A", "C", ""], ["value A", "value C", ""])
    page.get_by_role("button", name="Remove A").click()
    expect(page.locator("[name=env-name]")).to_have_count(2)
    expect(page.get_by_label("Value of C")).to_have_value("value C")


def test_an_answer_of_the_server_leaves_what_is_being_typed(site: Site, page: Page) -> None:
    opens(page, site)
    page.get_by_role("textbox", name="Command").fill("echo 1")
    name = page.get_by_role("textbox", name="Name", exact=True)
    with page.expect_response("**/draft-fragment"):
        name.fill("")  # the field before is left: the form is drawn anew while this one is being typed into
        name.press_sequentially("typedwhileitwasaway")
    expect(page.locator(".summary")).to_contain_text("Starts now")
    expect(name).to_have_value("typedwhileitwasaway")
    expect(name).to_be_focused()


def test_what_is_wrong_is_said_at_the_field(site: Site, page: Page) -> None:
    opens(page, site)
    page.get_by_role("textbox", name="Command").fill("true")
    page.get_by_role("textbox", name="Name", exact=True).fill("Not A Name")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("textbox", name="Name", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#launch-error")).to_contain_text("One field needs a change: name")
    expect(page.get_by_role("textbox", name="Command")).to_have_value("true")


def test_enter_launches_and_the_way_back_breaks_nothing(site: Site, page: Page) -> None:
    opens(page, site)
    page.get_by_role("textbox", name="Command").fill("echo by enter")
    page.get_by_role("textbox", name="Name", exact=True).fill("by-enter")
    page.get_by_role("textbox", name="Name", exact=True).press("Enter")
    expect(page).to_have_url(site.job("by-enter"))
    page.go_back()
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    page.get_by_role("textbox", name="Name", exact=True).fill("by-enter-again")
    page.get_by_role("textbox", name="Command").fill("echo again")
    page.get_by_role("button", name="Launch").click()
    expect(page).to_have_url(site.job("by-enter-again"))


def press_launch(page: Page) -> None:
    """Hold the button down until what the server says of the field that was left has come."""
    box = page.get_by_role("button", name="Launch", exact=True).last.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    with page.expect_response("**/draft-fragment") as drawn:
        page.mouse.down()
    drawn.value.finished()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_button_stays_under_the_pointer_that_presses_it(site: Site, page: Page) -> None:
    """What was typed last makes the summary longer, which would move the button away."""
    opens(page, site)
    name = page.get_by_role("textbox", name="Name", exact=True).input_value()
    page.get_by_role("textbox", name="Command").fill("true")
    press_launch(page)
    page.mouse.up()
    expect(page).to_have_url(site.job(name))


def test_a_press_that_ends_elsewhere_launches_nothing_and_the_summary_follows(site: Site, page: Page) -> None:
    opens(page, site)
    before = len(site.jobs())
    page.get_by_role("textbox", name="Command").fill("true")
    press_launch(page)
    page.mouse.move(0, 0)
    page.mouse.up()
    expect(page.locator(".summary")).to_contain_text("Runs as")
    assert len(site.jobs()) == before


def test_a_double_click_launches_once(site: Site, page: Page) -> None:
    opens(page, site)
    page.get_by_role("textbox", name="Command").fill("echo once")
    page.get_by_role("textbox", name="Name", exact=True).fill("")
    before = len(site.jobs())
    sent: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST" and request.url.endswith("/new-job"):
            sent.append(request.url)

    page.on("request", note)
    page.get_by_role("button", name="Launch").dblclick()
    expect(page.locator("#job-head")).to_be_visible()
    assert len(sent) == 1
    assert len(site.jobs()) == before + 1
