"""The figures: declared, documented, right, and told even while the database is away."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.config import REPOSITORY, Config, ConfigError
from app.database import db
from app.metrics import exposition, figures, questions
from app.metrics.figures import Kind, Teller
from tests.conftest import Portal
from tests.metrics.conftest import value

NAMES = {figure.name for figure in figures.ALL}
TELLERS = {
    Teller.WEB: "web",
    Teller.WORKER: "worker",
    Teller.BOTH: "web and worker",
    Teller.DATABASE: "web, from the database",
}


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len(NAMES) == len(figures.ALL)
    for figure in figures.ALL:
        assert re.fullmatch(r"simpletrain_[a-z_]+", figure.name)
        assert figure.name.endswith("_total") is (figure.kind is Kind.COUNTER), figure.name
        assert (figure.kind is Kind.HISTOGRAM) is bool(figure.buckets)
        assert figure.kind is not Kind.HISTOGRAM or figure.name.endswith("_seconds")
        assert figure.text.endswith(".")
        assert not {"org", "user", "job", "path"} & set(figure.labels), f"{figure.name} could grow without end"


def test_every_figure_is_in_the_document() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(simpletrain_\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*) \|$", text, re.M)
    assert rows == [
        (
            figure.name,
            figure.kind.value,
            TELLERS[figure.teller],
            ", ".join(f"`{label}`" for label in figure.labels),
            figure.text,
        )
        for figure in figures.ALL
    ]


def test_alerts_ask_for_figures_and_labels_that_there_are() -> None:
    rules = yaml.safe_load((REPOSITORY / "k8s" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 5
    for alert in alerts:
        assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
        asked = re.findall(r"simpletrain_\w+", alert["expr"])
        assert asked
        for name in asked:
            figure = next(each for each in figures.ALL if each.name == name.removesuffix("_count"))
            given = re.findall(rf"{name}\{{(\w+)=", alert["expr"])
            assert set(given) <= set(figure.labels)
        for label in re.findall(r"\$labels\.(\w+)", str(alert["annotations"])):
            assert label == "cluster"
            assert "cluster" in alert["expr"] or any("cluster" in f.labels for f in figures.ALL if f.name in asked)


def test_a_portal_without_metrics_does_not_load_the_library(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from app import create_app; from app.config import Config\n"
        "import app.worker.main\n"
        "create_app(Config(data_dir=Path(sys.argv[1]))).test_client().get('/healthz')\n"
        "assert not [name for name in sys.modules if name.startswith('prometheus_client')]\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, check=True, timeout=60)


# what is told


def test_what_waits_is_counted_by_cluster_and_state(portal: Portal, told: Callable[[], str]) -> None:
    assert value(told(), "simpletrain_database_up") == 1
    assert value(told(), 'simpletrain_jobs{cluster="this-machine",state="queued"}') is None
    portal.launch("one")
    portal.launch("two", "mallory")
    assert value(told(), 'simpletrain_jobs{cluster="this-machine",state="queued"}') == 2
    portal.api("bob").delete("/api/jobs/one")
    assert value(told(), 'simpletrain_jobs{cluster="this-machine",state="queued"}') == 1


def test_without_a_database_the_rest_is_told(
    portal: Portal, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("unable to open database file"))

    with portal.app.app_context():
        monkeypatch.setattr(db.engine, "connect", broken)
    figures.LOG_BYTES.add(7)
    text = told()
    assert value(text, "simpletrain_database_up") == 0
    assert "simpletrain_jobs{" not in text
    assert value(text, "simpletrain_log_bytes_total") == 7


def test_a_database_that_hangs_costs_its_own_figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATIENCE", 0.05)
    release, asked = threading.Event(), []

    def hang() -> str:
        asked.append(1)
        release.wait(30)
        return "late"

    question = questions.Question(hang)
    assert question.answer() is None
    assert question.answer() is None
    assert len(asked) == 1  # a second question does not pile up behind the first
    release.set()
    monkeypatch.setattr(questions, "PATIENCE", 30)
    assert question.answer() == "late"


def test_requests_are_counted_by_route_and_never_by_address(portal: Portal, told: Callable[[], str]) -> None:
    portal.launch("mine")
    browser = portal.browser("bob")
    browser.get("/orgs/lab/jobs/mine")
    browser.get("/orgs/lab/jobs/nothing-like-this")
    for number in range(20):
        browser.get(f"/made-up-{number}")
        portal.app.test_client().open("/healthz", method=f"MADEUP{number}")
    text = told()
    route = "/orgs/<org>/jobs/<name>"
    count = "simpletrain_request_seconds_count"
    assert value(text, f'{count}{{method="GET",route="{route}",status="2xx"}}') == 1
    assert value(text, f'{count}{{method="GET",route="{route}",status="4xx"}}') == 1
    assert value(text, f'{count}{{method="GET",route="(none)",status="4xx"}}') == 20
    assert value(text, f'{count}{{method="(other)",route="(none)",status="4xx"}}') == 20
    assert "made-up" not in text.lower()
    assert "nothing-like" not in text


def test_connections_are_given_back(portal: Portal, told: Callable[[], str]) -> None:
    exposition._count_connections(portal.app)
    seen: list[float | None] = []
    with portal.app.app_context():
        event.listen(
            db.engine,
            "before_cursor_execute",
            lambda *_: seen.append(value(told_quick(), "simpletrain_database_connections")),
        )
    browser = portal.browser("bob")
    browser.get("/orgs/lab/jobs")
    assert max(each or 0 for each in seen) >= 1
    assert value(told_quick(), "simpletrain_database_connections") == 0


def told_quick() -> str:
    """The one figure, without asking the database again from inside a question."""
    live = figures._live["simpletrain_database_connections"]
    return f"simpletrain_database_connections {live._value.get()}"


# where it is told


def ask(port: int, path: str = "/metrics", token: str = "") -> tuple[int, str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


@pytest.fixture
def port() -> Iterator[Callable[[str], int]]:
    listeners = []

    def serve(token: str = "") -> int:
        listeners.append(exposition._listen("127.0.0.1", 0))
        exposition._serve(listeners[-1], token, lambda: b"simpletrain_something 1\n")
        found: int = listeners[-1].getsockname()[1]
        return found

    yield serve
    for listener in listeners:
        listener.close()


def test_figures_are_at_one_address(port: Callable[[str], int]) -> None:
    status, text, headers = ask(port(""))
    assert (status, text) == (200, "simpletrain_something 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert ask(port(""), "/")[0] == 404


def test_a_token_guards_them(port: Callable[[str], int]) -> None:
    at = port("a-token-of-metrics")
    assert ask(at, token="a-token-of-metrics")[0] == 200
    for wrong in ("", "another-token", "a-token-of-metric", "ä"[:0]):
        status, text, headers = ask(at, token=wrong)
        assert status == 401
        assert "simpletrain_something" not in text
        assert headers["WWW-Authenticate"] == "Bearer"


def test_a_port_that_is_taken_is_named(port: Callable[[str], int], tmp_path: Path) -> None:
    at = port("")
    with pytest.raises(ConfigError, match=rf"METRICS_PORT: port {at} of 127.0.0.1 cannot be used \(it is taken\)"):
        exposition.open_web(Config(data_dir=tmp_path, metrics_port=at))


def test_the_next_start_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(exposition, "MEMORY", tmp_path / "shm")
    first = exposition._fresh_folder(tmp_path)
    (first / "counter_1.db").write_bytes(b"x")
    second = exposition._fresh_folder(tmp_path)
    assert not first.exists()
    assert list(second.iterdir()) == []
    assert exposition._fresh_folder(tmp_path) != second


def test_without_shared_memory_the_folder_is_among_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "MEMORY", tmp_path / "nothing")
    for _ in range(2):
        folder = exposition._fresh_folder(tmp_path)
        assert folder == tmp_path / "metrics"
        assert list(folder.iterdir()) == []
        (folder / "counter_1.db").write_bytes(b"x")
