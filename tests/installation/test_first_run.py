"""What `serve` sees to: that it is alone, and that a new portal has something to try."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app, firstrun
from app.accounts.models import User
from app.config import Config
from app.database import db
from app.installation import service as installation
from tests.conftest import KEY, Portal, make_portal


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Portal]:
    portal = make_portal(Config(data_dir=tmp_path / "var", port=free_port()))
    yield portal
    with portal.app.app_context():
        db.engine.dispose()


def furnish(portal: Portal) -> str:
    with portal.app.app_context():
        return firstrun.furnish(portal.config)


def test_a_new_portal_has_an_org_a_preset_this_machine_and_an_owner_who_comes_in_by_the_link(fresh: Portal) -> None:
    link = furnish(fresh)
    assert link.startswith(f"http://127.0.0.1:{fresh.config.port}/sign-in/")
    browser = fresh.browser()
    assert browser.get(link.removeprefix(fresh.config.url)).status_code == 303
    assert browser.get("/").location == "/orgs/lab/"
    assert browser.get("/orgs/lab/new-job?preset=digits").status_code == 200
    assert browser.form("/new-job")["command"]
    assert "this-machine" in fresh.command("clusters", "list").stdout
    user = fresh.read(lambda: db.session.query(User).one())
    assert user.admin
    assert user.password_hash is None  # no default password
    assert fresh.browser().get(link.removeprefix(fresh.config.url)).status_code == 410


def test_the_next_start_makes_only_a_fresh_link(fresh: Portal) -> None:
    first, second = furnish(fresh), furnish(fresh)
    assert first != second
    assert fresh.read(lambda: db.session.query(User).count()) == 1
    assert fresh.browser().get(second.removeprefix(fresh.config.url)).status_code == 303


def test_no_link_for_an_administrator_who_is_disabled(fresh: Portal) -> None:
    furnish(fresh)
    email = fresh.read(lambda: db.session.query(User).one().email)
    fresh.command("users", "disable", email)
    assert furnish(fresh) == ""


def test_no_password_that_is_often_a_default_opens_a_new_portal(fresh: Portal) -> None:
    furnish(fresh)
    email = fresh.read(lambda: db.session.query(User).one().email)
    for person in (email, "admin", "admin@localhost", "admin@example.org"):
        for password in ("", "admin", "password", "simpletrain", "changeme", person):
            browser = fresh.browser()
            answer = browser.post("/sign-in", {"email": person, "password": password})
            assert answer.status_code in (422, 429)
            assert browser.get("/account").status_code == 302


def test_production_prints_no_link_and_refuses_local_jobs(tmp_path: Path) -> None:
    portal = make_portal(Config(data_dir=tmp_path / "var", secret_key=KEY, base_url="https://train.example.org"))
    assert furnish(portal) == ""
    assert "ALLOW_LOCAL_JOBS=1 allows it" in portal.command("clusters", "list").stdout
    assert "https://train.example.org/sign-in/" in portal.command("users", "create", "a@example.org").stdout
    token = portal.command("tokens", "create", portal.read(lambda: db.session.query(User).first()).email)
    client = portal.app.test_client()
    headers = {"Authorization": f"Bearer {token.stdout.strip()}"}
    refused = client.post("/api/jobs", json={"preset": "digits"}, headers=headers)
    assert refused.status_code == 422
    assert "ALLOW_LOCAL_JOBS=1" in refused.get_json()["detail"]
    allowed_config = replace(portal.config, allow_local_jobs=True)
    allowed = Portal(create_app(allowed_config), allowed_config)
    furnish(allowed)
    body = {"preset": "digits", "gpus": 0}
    assert allowed.app.test_client().post("/api/jobs", json=body, headers=headers).status_code == 201
    for each in (portal, allowed):
        with each.app.app_context():
            db.engine.dispose()


def test_a_second_serve_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "var", port=free_port())
    lock = firstrun.hold(config)
    try:
        with pytest.raises(installation.NotReady, match="Another portal runs on"):
            firstrun.hold(replace(config, port=free_port()))
    finally:
        os.close(lock)
    os.close(firstrun.hold(config))


def test_a_port_that_is_taken_is_named_with_another_one(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(installation.NotReady, match=f"Port {port} .* make run PORT={port + 1}"):
            firstrun.hold(Config(data_dir=tmp_path / "var", port=port))
    # and the folder is not held by the one that failed
    os.close(firstrun.hold(Config(data_dir=tmp_path / "var", port=free_port())))


def test_serve_says_so_too(make: Callable[..., Portal]) -> None:
    portal = make(port=free_port())
    lock = firstrun.hold(portal.config)
    try:
        said = portal.command("serve")
    finally:
        os.close(lock)
    assert said.exit_code == 1
    assert "Another portal runs on" in said.stderr
