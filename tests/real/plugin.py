"""What pytest must know about cluster tests before it collects one: who holds the slot, what was left out.

tests/conftest.py names this plugin: xdist's controller, which collects nothing, has to load it too.
"""

from __future__ import annotations

import os

import pytest

from tests.real import slots
from tests.real.cluster.build import binaries

MARKERS = (
    "cluster: needs a real Kubernetes (the fixtures of tests/real see to it)",
    "owns_node: stops, counts or reads what belongs to the node or the API server; has the cluster alone",
    "gpus(count): needs so many GPUs",
)
LEFT_OUT = "needs a real Kubernetes"
NOT_THEIRS = "stops a node or an API server, and TEST_KUBECONFIG is somebody's"
SLOT = pytest.StashKey[slots.Slot]()
WORKER_INPUT = "real_cluster_port"


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    given = getattr(config, "workerinput", None)
    if given is not None:
        if WORKER_INPUT in given:
            config.stash[SLOT] = slots.Slot(given[WORKER_INPUT])
    elif not slots.theirs() and not slots.left_out():
        config.stash[SLOT] = slots.Slot.free()
        config.add_cleanup(config.stash[SLOT].end)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """xdist's controller tells each worker which slot the run has."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist has no types
    if SLOT in config.stash:
        node.workerinput[WORKER_INPUT] = config.stash[SLOT].port  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark and, where there is no cluster, leave out whatever uses the fixture; CI runs everything or fails."""
    reason = slots.left_out()
    for item in items:
        if "real_cluster" not in getattr(item, "fixturenames", ()):
            continue
        item.add_marker(pytest.mark.cluster)
        if reason and os.environ.get("CI") != "true":
            item.add_marker(pytest.mark.skip(reason=f"{LEFT_OUT}: {reason}"))
        elif slots.theirs() and item.get_closest_marker("owns_node"):
            item.add_marker(pytest.mark.skip(reason=NOT_THEIRS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    if count := sum(LEFT_OUT in reason for reason in reasons):
        why = slots.left_out()
        how = "run `make cluster` once to include them" if not binaries().exists() else why
        terminalreporter.write_line(f"{_tests(count)} left out: {how}", yellow=True)
    if count := sum(NOT_THEIRS in reason for reason in reasons):
        terminalreporter.write_line(f"{_tests(count)} left out: each {NOT_THEIRS}", yellow=True)


def _tests(count: int) -> str:
    return f"{count} cluster test{' was' if count == 1 else 's were'}"
