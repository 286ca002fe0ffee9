"""A real Kubernetes for a test, in one line: `def test_…(namespace: Namespace)`, or `cluster` without a namespace.

A test marked owns_node may stop things and count GPUs: it has the cluster alone, and what it stopped runs again after.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.real import plugin, slots
from tests.real.cluster import tenants
from tests.real.cluster.cluster import Cluster, Namespace
from tests.real.cluster.errors import ClusterError


@pytest.fixture(scope="session")
def real_cluster(pytestconfig: pytest.Config) -> Cluster:
    """The run's one cluster. Tests take `cluster`, which keeps them out of the way of those that break it."""
    if kubeconfig := slots.theirs():
        if not kubeconfig.is_file():
            pytest.fail(f"TEST_KUBECONFIG names {kubeconfig}, which is not a file", pytrace=False)
        return slots.borrowed(kubeconfig)
    if reason := slots.left_out():
        pytest.fail(f"CI leaves no cluster test out, but {reason}", pytrace=False)
    return pytestconfig.stash[plugin.SLOT].start()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, real_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, shared with the tests beside this one unless this one owns the node."""
    needs = request.node.get_closest_marker("gpus")
    if needs and real_cluster.gpus < needs.args[0]:
        pytest.skip(f"needs {needs.args[0]} GPUs")
    if real_cluster.place is None:
        yield real_cluster
        return
    with request.config.stash[plugin.SLOT].use(alone=_owns_node(request)):
        yield real_cluster
        if _owns_node(request):
            real_cluster.heal()
            real_cluster.set_gpus(slots.GPUS)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Namespace]:
    """A fresh namespace of the restricted level, and a kubeconfig with the portal's rights in it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    name = f"{words[:40].strip('-')}-{secrets.token_hex(3)}"
    file = tmp_path / "portal.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(tenants.create(cluster.api, name))
    yield Namespace(cluster, name, file.read_text(), file)
    if _owns_node(request):
        cluster.heal()  # so that it can be deleted
    tenants.delete(cluster.api, name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a person would look at first."""
    report = yield
    namespace = getattr(item, "funcargs", {}).get("namespace")
    if report.failed and isinstance(namespace, Namespace):
        try:
            report.sections.append(("cluster", namespace.describe()))
        except (OSError, ClusterError) as error:
            report.sections.append(("cluster", f"namespace {namespace.name}: {error}"))
    return report


def _owns_node(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("owns_node") is not None
