from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Portal
from tests.worker.stub import StubCluster, Worker, make_worker


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the worker would rest after a failure, a test goes on at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def worker(portal: Portal) -> Worker:
    return make_worker(portal)


@pytest.fixture
def restarted(portal: Portal) -> Callable[..., Worker]:
    """Another worker on the same cluster, as after a crash of the first."""

    def start(cluster: StubCluster, **settings: Any) -> Worker:
        return make_worker(portal, cluster, **settings)

    return start
