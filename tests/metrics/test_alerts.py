"""The rules for alerts: each fires and stays silent when it should, asked of Prometheus' own program, and asks for
nothing that a portal does not tell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.exc import OperationalError

from app.accounts import service as accounts
from app.clusters import service as clusters
from app.config import REPOSITORY
from app.database import transaction
from app.worker import place
from app.worker.main import _Worker
from tests.conftest import Portal, on_sqlite
from tests.metrics.conftest import value
from tests.worker.stub import NO_GPU, StubCluster, make_worker
from tests.worker.test_place import eventually

FOLDER = REPOSITORY / "k8s" / "monitoring"


def rules() -> list[dict[str, Any]]:
    told = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in told["groups"] for rule in group["rules"]]


def test_each_alert_is_shown_to_fire_and_to_stay_silent() -> None:
    shown = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text(encoding="utf-8"))
    cases = [(case["alertname"], "exp_alerts" in case) for test in shown["tests"] for case in test["alert_rule_test"]]
    assert set(cases) == {(rule["alert"], fires) for rule in rules() for fires in (True, False)}


@pytest.fixture(scope="module")
def promtool() -> Callable[..., str]:
    """Runs Prometheus' own checks: what it said. Fails where it finds something."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("There is no promtool: it comes with the package prometheus.")
        pytest.skip("there is no promtool: it comes with the package prometheus")

    def run(*arguments: object, said: str = "") -> str:
        ran = subprocess.run(
            [found, *map(str, arguments)],
            input=said,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    return run


def test_prometheus_takes_the_rules_and_they_do_what_is_shown(promtool: Callable[..., str]) -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "alerts.yaml")
    assert f"SUCCESS: {len(rules())} rules found" in said
    assert "SUCCESS" in promtool("test", "rules", FOLDER / "alerts_test.yaml")


def test_prometheus_takes_what_the_document_has_it_ask(promtool: Callable[..., str], tmp_path: Path) -> None:
    document = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(.*?)```", document, re.S)
    token = tmp_path / "simpletrain.token"
    token.write_text("a-token-of-metrics", encoding="ascii")
    config = config.replace("/etc/prometheus/simpletrain.token", str(token))
    (tmp_path / "prometheus.yml").write_text(f"{config}rule_files: [{FOLDER}/alerts.yaml]\n", encoding="utf-8")
    assert "1 rule files found" in promtool("check", "config", tmp_path / "prometheus.yml")


@on_sqlite
def test_prometheus_takes_the_figures(portal: Portal, told: Callable[[], str], promtool: Callable[..., str]) -> None:
    portal.launch("one")
    portal.browser("bob").get("/orgs/lab/jobs")
    assert promtool("check", "metrics", said=told()) == ""


# what the rules ask for


def test_the_rules_ask_for_what_a_portal_tells_that_has_seen_everything(
    portal: Portal, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = StubCluster()
    cluster.enforces_max_runtime = False  # as one that may fall silent
    worker = make_worker(portal, cluster)
    worker.launch("started")
    cluster.answers[portal.launch("waits").uid] = [NO_GPU]
    worker.look()
    worker.collect()

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("unable to open database file"))

    monkeypatch.setattr(accounts, "token_of", away)
    assert portal.api("bob").get("/api/me").status_code == 503
    monkeypatch.undo()
    text = told()
    asked = {
        found for rule in rules() for found in re.findall(r"(simpletrain_\w+)(?:\{(\w+=\"\w+\")\})?", rule["expr"])
    }
    assert len(asked) >= 9
    for name, selected in asked:
        lines = re.findall(rf"^{name}(?:\{{(.*)\}})? \S+$", text, re.M)
        assert [line for line in lines if selected in line.split(",") or not selected], (name, selected)


def test_a_cluster_that_never_answers_is_told_from_the_first_moment_and_forgotten_with_it(
    portal: Portal, told: Callable[[], str]
) -> None:
    release, begun = threading.Event(), threading.Event()

    class Silent(StubCluster):
        def start(self, changed: Callable[[], None]) -> None:
            begun.set()
            release.wait(30)
            raise ConnectionError

    cluster = Silent()
    cluster.enforces_max_runtime = False
    loop = make_worker(portal, cluster).loop
    name = f'{{cluster="{loop.name}"}}'
    loop.start()
    assert begun.wait(30)
    text = told()
    assert (value(text, f"simpletrain_cluster_looked_timestamp_seconds{name}") or 0) > 1e9
    assert (value(text, f"simpletrain_cluster_answered_timestamp_seconds{name}") or 0) > 1e9
    for result in ("launched", "refused", "error"):
        assert value(text, f'simpletrain_launches_total{{cluster="{loop.name}",result="{result}"}}') == 0
    release.set()
    loop.join(30)
    assert "_timestamp_seconds{" not in told()


@on_sqlite
def test_a_cluster_whose_settings_cannot_be_used_is_told_of_too(portal: Portal, told: Callable[[], str]) -> None:
    with portal.app.app_context(), transaction():
        clusters.add_kubernetes("berlin", {"namespace": "lab", "gpus": {}}, "no credential", [])
    ended = threading.Event()
    looked = 'simpletrain_cluster_looked_timestamp_seconds{cluster="berlin"}'

    def work() -> None:
        with place.take(portal.config) as taken:
            _Worker(portal.app, portal.config, taken, ended).work()

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: (value(told(), looked) or 0) > 1e9, "what nobody looks at")
    ended.set()
    thread.join(60)
