"""How gunicorn is set up: read from its configuration, and by the requests that it refuses."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from gunicorn.util import load_class  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app.config import REPOSITORY


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read(**environ: str) -> dict[str, Any]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(REPOSITORY / "gunicorn.conf.py"))

    return read


def test_processes_and_threads_come_from_the_settings(configured: Any) -> None:
    found = configured(WEB_WORKERS="3", WEB_THREADS="7", PORT="8123")
    assert (found["workers"], found["threads"]) == (3, 7)
    assert issubclass(load_class(found["worker_class"]), ThreadWorker)
    assert found["bind"] == "127.0.0.1:8123"
    assert configured(BIND="::1")["bind"] == "[::1]:8123"


def test_it_believes_no_proxy_by_itself_and_opens_no_socket_at_home(configured: Any) -> None:
    found = configured()
    assert found["forwarded_allow_ips"] == ""
    assert found["forwarder_headers"] == ""
    assert found["control_socket_disable"] is True
    assert found["accesslog"] is None


def test_a_request_under_way_has_less_time_than_the_supervisor_gives(configured: Any) -> None:
    supervisor = runpy.run_path(str(REPOSITORY / "app" / "supervisor.py"), run_name="supervisor")
    assert configured()["graceful_timeout"] < supervisor["GRACE"]
