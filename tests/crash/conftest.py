from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config import Config
from app.database import db
from tests.conftest import KEY, FurnishIn, Portal
from tests.crash.portals import Served

if sys.platform != "linux":
    collect_ignore_glob = ["*"]  # the cluster `this-machine` exists on Linux only


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, metafunc.config.getoption("--crash-rounds") + 1))


@pytest.fixture
def made() -> Iterator[list[Served]]:
    """All portals of a test: ended with everything that they started, however the test ends."""
    portals: list[Served] = []
    yield portals
    for each in portals:
        each.clean_up()


@pytest.fixture
def fresh(tmp_path: Path, made: list[Served]) -> Callable[..., Served]:
    """A portal that was never started: fresh(LOCAL_GPUS=…)."""

    def make(**settings: str) -> Served:
        made.append(Served(tmp_path / f"portal-{len(made)}", **settings))
        return made[-1]

    return make


@pytest.fixture
def furnish(fresh: Callable[..., Served], furnish_in: FurnishIn) -> Iterator[Callable[..., Served]]:
    """A portal with people and presets, where bob is the caller; not started."""
    apps: list[Any] = []

    def make(**settings: str) -> Served:
        served = fresh(SECRET_KEY=KEY, **settings)
        if database_url := furnish_in(served.data):
            served.settings["DATABASE_URL"] = database_url
        app = create_app(Config.from_env(served.environment))
        apps.append(app)
        served.portal = Portal(app, app.config["PORTAL"])
        served.token = served.portal.token("bob")
        return served

    yield make
    for app in apps:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def served(furnish: Callable[..., Served]) -> Served:
    """A portal that serves."""
    portal = furnish()
    portal.serve()
    return portal
