"""Finds Chromium: the machine's, else Playwright's own, else the test is left out with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One for all tests of a process: a second one would find the first one's loop in its way."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


def launch(playwright: Playwright) -> Browser:
    named = os.environ.get("CHROMIUM_PATH")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    own = playwright.chromium.executable_path
    program = found or (own if Path(own).exists() else None)
    if program is None:
        why = "there is no Chromium: set CHROMIUM_PATH, or run `playwright install chromium`"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    # as root, in a container, Chromium's own sandbox does not start
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    return playwright.chromium.launch(executable_path=program, args=arguments)
