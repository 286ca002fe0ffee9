"""A real portal, with its worker and real local jobs, and Chromium to look at it with."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from app.config import REPOSITORY

HERE = Path(__file__).resolve().parent
PATIENCE = 30_000  # ms: on a busy machine with two cores a job takes its time to start

PRESETS = """
name: plain
image: registry.example/plain:1
description: Runs a command.
max_runtime: 1h
nodes: {default: 1, max: 4}
gpus: {default: 0, max: 8}
---
name: trainer
image: registry.example/trainer:1
description: Trains on GPUs.
command: python train.py
env: {OMP_NUM_THREADS: "4"}
gpus: {default: 2, max: 4}
nodes: {default: 1, max: 2}
max_runtime: 24h
"""

# prints what the test writes into a file, until the line END
FEED = """
import sys, time
with open(sys.argv[1]) as feed:
    while True:
        line = feed.readline()
        if line == "END\\n":
            break
        sys.stdout.write(line)
        sys.stdout.flush()
        if not line:
            time.sleep(0.05)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).resolve().parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))  # with --dist loadgroup: one portal for all


# the portal


@dataclass
class Site:
    """A portal that serves, and its operator."""

    url: str
    folder: Path
    environment: dict[str, str]
    token: str = ""
    states: dict[str, Any] = field(default_factory=dict)  # cookies of who is signed in
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    def link(self, person: str) -> str:
        """A fresh sign-in link of somebody, who gets an account and a place in the org if they have none."""
        return self.command("users", "create", f"{person}@example.org", "--org", "lab").split()[-1]

    def address(self, path: str) -> str:
        return f"{self.url}/orgs/lab/{path}"

    def job(self, name: str, **query: Any) -> str:
        return self.address(f"jobs/{name}" + "".join(f"{'&?'[not i]}{k}={v}" for i, (k, v) in enumerate(query.items())))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            got: dict[str, Any] = json.loads(answer.read() or b"{}")
        return got

    def launch(self, command: str, **fields: Any) -> str:
        """Launch a job as the operator; its name."""
        name = fields.pop("name", None) or f"job-{next(self.numbers)}"
        body = {"org": "lab", "preset": "plain", "name": name, "command": command, **fields}
        return str(self.ask("POST", "jobs", body)["name"])

    def finished(self, command: str, **fields: Any) -> str:
        """Launch a job and wait until it has ended, its log included; its name."""
        name = self.launch(command, **fields)
        until(lambda: self.ask("GET", f"jobs/{name}")["state"] in ("succeeded", "failed", "cancelled"))
        until(lambda: self.log_is_whole(name))
        return name

    def log_is_whole(self, name: str) -> bool:
        asked = urllib.request.Request(
            f"{self.url}/api/jobs/{name}/logs?org=lab", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.headers["Log-Complete"]) == "true"

    def stop(self, name: str) -> None:
        self.ask("DELETE", f"jobs/{name}")

    def active(self) -> list[str]:
        return [job["name"] for job in self.ask("GET", "jobs?org=lab&state=active&limit=100")["jobs"]]

    def jobs(self) -> list[str]:
        return [job["name"] for job in self.ask("GET", "jobs?org=lab&limit=100")["jobs"]]


@dataclass
class Feed:
    """A running job that prints what a test tells it to."""

    name: str
    path: Path

    def say(self, *lines: str) -> None:
        with self.path.open("a") as feed:
            feed.writelines(f"{line}\n" for line in lines)

    def count(self, first: int, last: int) -> None:
        self.say(*(f"line {number}" for number in range(first, last + 1)))

    def end(self) -> None:
        self.say("END")


def until(true: Callable[[], bool], seconds: float = PATIENCE / 1000) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    work = folder / "work"
    work.mkdir()
    (work / "feed.py").write_text(FEED)
    port = _free_port()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")}
    environment = {
        **kept,
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "LOCAL_GPUS": "H100=4",
        "LOCAL_SLOTS": "12",
        "LOCAL_GRACE": "2",
        "LOCAL_WORKDIR": str(work),
    }
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "serve"],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    made = Site(f"http://127.0.0.1:{port}", work, environment)
    try:
        said = folder / "serve.log"
        until(lambda: "Sign in: " in said.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, said.read_text()
        (folder / "presets.yaml").write_text(PRESETS)
        made.command("presets", "import", str(folder / "presets.yaml"), "--org", "lab")
        made.link("ana")
        made.token = made.command("tokens", "create", "ana@example.org")
        yield made
        for name in made.active():  # a job outlives the portal that launched it
            made.stop(name)
        until(lambda: not made.active())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@pytest.fixture
def feed(site: Site) -> Iterator[Feed]:
    """A job that runs and prints what the test says, in a file of its own."""
    number = next(site.numbers)
    path = site.folder / f"feed-{number}"
    path.touch()
    made = Feed(site.launch(f"python feed.py {path.name}", name=f"feed-{number}"), path)
    yield made
    made.end()


# people at the browser


@dataclass
class Person:
    """Somebody's browser. What went wrong in it is asked at the end of each test."""

    context: BrowserContext
    errors: list[str] = field(default_factory=list)

    def page(self) -> Page:
        page = self.context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        # what Chromium says of every answer of 400 and more is no error of the page
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)


@pytest.fixture
def open_browser(site: Site, chromium: Browser) -> Iterator[Callable[..., Person]]:
    """A fresh browser, signed in as somebody: open_browser("ana", java_script_enabled=False, …)."""
    opened: list[Person] = []

    def opens(person: str | None = "ana", **settings: Any) -> Person:
        if person is not None and person not in site.states:
            context = chromium.new_context()
            context.new_page().goto(site.link(person))
            site.states[person] = context.storage_state()
            context.close()
        settings = {"viewport": {"width": 1440, "height": 900}, **settings}
        context = chromium.new_context(storage_state=site.states.get(person or ""), **settings)
        context.set_default_timeout(PATIENCE)
        opened.append(Person(context))
        return opened[-1]

    yield opens
    errors = [error for each in opened for error in each.errors]
    for each in opened:
        each.context.close()
    assert errors == [], "the console must stay empty"


@pytest.fixture
def page(open_browser: Callable[..., Person]) -> Page:
    """A page of ana's browser."""
    return open_browser().page()


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=PATIENCE)
