"""People, and a portal for them. Tests come in by the front door: a browser without JavaScript, the API, a command."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from bs4 import BeautifulSoup
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.accounts import service as accounts
from app.cluster.protocol import Capacity
from app.clusters import service as clusters
from app.clusters.models import ClusterRow
from app.config import Config
from app.database import db, transaction
from app.installation import service as installation
from app.jobs import service as jobs
from app.jobs.models import Job
from app.orgs import service as orgs
from app.presets import service as presets
from tests.postgresql import NoPostgresql, Postgresql

pytest_plugins = ["tests.real.plugin", "tests.browser.chromium"]

# a busy machine is no reason to fail
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

KEY = "a key for tests, and for nothing else: 0123456789"
PRESETS = """
name: plain
image: registry.example/plain:1
description: Runs a command.
max_runtime: 1h
nodes: {default: 1, max: 4}
gpus: {default: 0, max: 8}
---
name: digits
image: registry.example/digits:1
command: python train.py
env: {OMP_NUM_THREADS: "4"}
gpus: {default: 1, max: 2}
max_runtime: 10m
"""

# who they are: alice owns the org lab, bob is a member of it, vera only looks; mallory owns another org
PEOPLE = {
    "alice": ("lab", orgs.Role.OWNER),
    "bob": ("lab", orgs.Role.MEMBER),
    "vera": ("lab", orgs.Role.VIEWER),
    "mallory": ("rivals", orgs.Role.OWNER),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-rounds", type=int, default=1, help="how many random schedules of kills tests/crash tries")


class Browser:
    """One person's browser without JavaScript: follows the forms of the pages that it got, tokens included."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.page = BeautifulSoup("", "html.parser")

    def get(self, path: str, **more: Any) -> TestResponse:
        return self._took(self.client.get(path, **more))

    def post(self, path: str, data: Any = None, **more: Any) -> TestResponse:
        """Send a form with the CSRF token that this session has."""
        fields = dict(data or {})
        fields.setdefault("csrf_token", self.token())
        return self._took(self.client.post(path, data=fields, **more))

    def token(self) -> str:
        found = BeautifulSoup(self.client.get("/account").text or "", "html.parser").find(
            "meta", {"name": "csrf-token"}
        )
        if found is None:
            found = BeautifulSoup(self.client.get("/sign-in").text, "html.parser").find("meta", {"name": "csrf-token"})
        assert found is not None
        return str(found["content"])

    def _took(self, answer: TestResponse) -> TestResponse:
        if answer.mimetype == "text/html":
            self.page = BeautifulSoup(answer.text, "html.parser")
            ids = [str(each["id"]) for each in self.page.find_all(id=True)]
            assert len(ids) == len(set(ids)), f"ids stand twice: {sorted({i for i in ids if ids.count(i) > 1})}"
        return answer

    def text(self) -> str:
        """What the page says, with single spaces."""
        return re.sub(r"\s+", " ", self.page.get_text(" ")).strip()

    def form(self, action_ends_with: str) -> dict[str, str]:
        """The fields of a form of the page as they stand."""
        form = next(
            each for each in self.page.find_all("form") if str(each.get("action", "")).endswith(action_ends_with)
        )
        fields: dict[str, str] = {}
        for field in form.find_all(["input", "textarea", "select"]):
            name = field.get("name")
            if not name or (field.get("type") in ("radio", "checkbox") and not field.has_attr("checked")):
                continue
            if field.name == "textarea":
                value = field.get_text().removeprefix("\n")
            elif field.name == "select":
                chosen = field.find("option", selected=True) or field.find("option")
                value = str(chosen.get("value", chosen.get_text())) if chosen is not None else ""
            else:
                value = str(field.get("value", ""))
            fields[str(name)] = value
        return fields


@dataclass
class Portal:
    """A portal in a folder of its own, without processes."""

    app: Flask
    config: Config

    def browser(self, person: str | None = None) -> Browser:
        """A fresh browser, signed in as somebody."""
        browser = Browser(self.app.test_client())
        if person is not None:
            with self.app.app_context(), transaction():
                user = accounts.by_email(f"{person}@example.org")
                assert user is not None
                secret = accounts.make_link(user)
            answer = browser.client.get(f"/sign-in/{secret}")
            assert answer.status_code == 303, answer.text
        return browser

    def token(self, person: str) -> str:
        """A new API token of somebody."""
        with self.app.app_context(), transaction():
            user = accounts.by_email(f"{person}@example.org")
            assert user is not None
            return accounts.make_token(user)

    def api(self, person: str) -> Api:
        return Api(self.app.test_client(), self.token(person))

    def command(self, *arguments: str) -> Result:
        """Run one of the operator's commands."""
        return self.app.test_cli_runner().invoke(args=arguments)

    def read(self, question: Callable[[], Any]) -> Any:
        """Ask the database something, in a context of its own."""
        with self.app.app_context():
            return question()

    def job(self, name: str) -> Job:
        """A job's row as it is now, for reading."""
        with self.app.app_context():
            found = db.session.query(Job).filter_by(name=name).one()
            db.session.expunge(found)
            return found

    def launch(self, name: str, person: str = "bob", **fields: Any) -> Job:
        """Launch a job with the preset plain, as somebody."""
        with self.app.app_context():
            user = accounts.by_email(f"{person}@example.org")
            assert user is not None
            org = orgs.of_user(user.id)[0].org
            asked = jobs.LaunchRequest(**{"preset": "plain", "command": "true", "name": name, **fields})
            jobs.launch(org, user, asked)
        return self.job(name)


@dataclass
class Api:
    """A caller of the API with a token."""

    client: FlaskClient
    token: str

    def request(self, method: str, path: str, **more: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **more)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.request("POST", path, **more)

    def delete(self, path: str, **more: Any) -> TestResponse:
        return self.request("DELETE", path, **more)


def make_portal(config: Config) -> Portal:
    app = create_app(config)
    app.testing = False  # errors become pages, as for people
    with app.app_context():
        installation.prepare()
    return Portal(app, config)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server of this process."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Postgresql())
        except NoPostgresql as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Whatever asks for a portal runs on both; a test of one of them says `on_sqlite` or `on_postgresql`."""
    return str(request.param)


on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a portal that has people, orgs, presets and this machine; tests copy it."""
    folder = tmp_path_factory.mktemp("furnished")
    furnish_anew(Config(data_dir=folder, secret_key=KEY))
    return folder


@pytest.fixture(scope="session")
def furnished_postgresql(tmp_path_factory: pytest.TempPathFactory, postgresql: Postgresql) -> tuple[Path, str]:
    """The same with its database on PostgreSQL: the folder, and the name of the database, for use as a template."""
    folder = tmp_path_factory.mktemp("furnished-postgresql")
    name = postgresql.create()
    furnish_anew(Config(data_dir=folder, secret_key=KEY, database_url=postgresql.url(name)))
    return folder, name


def furnish_anew(config: Config) -> None:
    portal = make_portal(config)
    with portal.app.app_context():
        with transaction():
            for slug in ("lab", "rivals"):
                org = orgs.create(slug)
                presets.import_presets(org.id, PRESETS)
            for name, (slug, role) in PEOPLE.items():
                user, _ = accounts.create(f"{name}@example.org")
                user.name = name
                orgs.join(orgs.by_slug(slug), user.id, role)
            clusters.ensure_this_machine("")
        with transaction():
            row = db.session.query(ClusterRow).one()
            clusters.record(row.id, None, "", Capacity(cpu_slots=2, cpu_slots_free=2))
        db.engine.dispose()


FurnishIn = Callable[[Path], str]


@contextmanager
def furnishing(request: pytest.FixtureRequest, database: str) -> Iterator[FurnishIn]:
    """A function that puts a furnished portal into a new folder, and gives the DATABASE_URL that it needs, if any."""
    if database == "sqlite":
        source: Path = request.getfixturevalue("furnished")

        def copy(folder: Path) -> str:
            shutil.copytree(source, folder)
            return ""

        yield copy
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    furnished, template = request.getfixturevalue("furnished_postgresql")
    made: list[str] = []

    def copy_both(folder: Path) -> str:
        shutil.copytree(furnished, folder)
        made.append(server.create(template))
        return server.url(made[-1])

    yield copy_both
    for name in made:
        server.drop(name)


@pytest.fixture
def furnish_in(database: str, request: pytest.FixtureRequest) -> Iterator[FurnishIn]:
    with furnishing(request, database) as furnish:
        yield furnish


@pytest.fixture
def config(furnish_in: FurnishIn, tmp_path: Path) -> Config:
    """Settings of a portal of this test's own."""
    folder = tmp_path / "data"
    return Config(data_dir=folder, secret_key=KEY, database_url=furnish_in(folder))


@pytest.fixture
def portal(config: Config) -> Iterator[Portal]:
    made = Portal(create_app(config), config)
    yield made
    with made.app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def make(config: Config) -> Iterator[Callable[..., Portal]]:
    """The portal of this test with other settings: make(log_limit=…)."""
    made: list[Portal] = []

    def with_settings(**settings: Any) -> Portal:
        changed = dataclasses.replace(config, **settings)
        made.append(Portal(create_app(changed), changed))
        return made[-1]

    yield with_settings
    for each in made:
        with each.app.app_context():
            db.engine.dispose()
