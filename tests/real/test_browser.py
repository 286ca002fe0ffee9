"""Once through the pages with a real Kubernetes behind them: the form launches a pod, its log runs, Stop removes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import FurnishIn
from tests.real.cluster.cluster import Namespace
from tests.real.cluster.wait import eventually
from tests.real.portals import Real

PATIENCE = 60_000  # ms
COMMAND = "trap 'exit 143' TERM; for i in 1 2 3; do echo line $i; done; while true; do sleep 0.1; done"


@pytest.mark.browser
def test_the_form_launches_a_pod_whose_log_runs_in_the_page_until_it_is_stopped(
    chromium: Browser, namespace: Namespace, furnish_in: FurnishIn, tmp_path: Path
) -> None:
    served = Real(tmp_path, furnish_in, namespace)
    try:
        served.register()
        served.serve()
        found = served.command("users", "link", "bob@example.org")
        link = re.search(r"http\S+", found.stdout)
        assert link, found.stdout + found.stderr
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(link[0])
        page.goto(f"http://127.0.0.1:{served.port}/orgs/lab/new-job?preset=plain")
        eventually("the form offers the cluster", lambda: page.reload() and "5000 free" in page.content())
        page.fill(
            "#command",
            "trap 'exit 143' TERM; for i in 1 2 3; do echo line $i; done; while true; do sleep 0.1; done",
        )
        page.fill("#name", "by-hand")
        page.get_by_label("GPUs per node").fill("2")
        page.get_by_role("button", name="Launch", exact=True).last.click()
        page.wait_for_url("**/jobs/by-hand")
        expect(page.locator(".state-badge")).to_have_text("Running", timeout=PATIENCE)
        expect(page.locator("#log-lines")).to_contain_text("line 3", timeout=PATIENCE)
        (pod,) = namespace.pods()
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
        page.get_by_text("Kubernetes YAML").click()
        yaml = page.get_by_label("Kubernetes YAML", exact=True).inner_text()
        said = namespace.kubectl("apply", "--dry-run=server", "--filename", "-", given=yaml)
        assert said.startswith("job.batch/r-by-hand-"), said
        page.get_by_role("link", name="Stop").click()
        page.get_by_role("button", name="Stop the job").click()
        expect(page.locator(".state-badge")).to_have_text("Cancelled", timeout=PATIENCE)
        page.close()
        eventually("the pod is gone", lambda: not namespace.pods())
    finally:
        served.clean_up()
