"""The worker is killed at every named point while its job is on a real Kubernetes, and the audit log counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FurnishIn
from tests.crash.portals import REPOSITORY, wait_for
from tests.real.cluster.cluster import Namespace
from tests.real.portals import LINES, Audit, Real, once, states

LAUNCH = ["launch.before_cluster", "kubernetes.before_service", "kubernetes.after_service", "kubernetes.before_job"]
LAUNCH += ["kubernetes.after_job", "launch.before_record", "launch.after_record"]
LOOK = ["look.before_record", "look.after_record"]
LOGS = ["logs.before_commit", "logs.before_cursor", "logs.after_commit"]
STOP = ["stop.before_cluster", "stop.after_cluster"]
SETTLE = ["settle.before_remove", "settle.after_remove"]
NODES = 2
COMMAND = f"trap 'echo stopped; exit 143' TERM; {LINES}"


def test_every_named_point_of_the_worker_and_of_kubernetes_is_tried() -> None:
    written = {
        point
        for folder in ("app/worker", "app/cluster/kubernetes")
        for path in (REPOSITORY / folder).rglob("*.py")
        for point in re.findall(r'\bfault\(f?"([^"]+)"\)', path.read_text())
    }
    kinds = {"{manifest['kind'].lower()}": ("service", "job")}
    for pattern, names in kinds.items():
        for point in [each for each in written if pattern in each]:
            written.remove(point)
            written |= {point.replace(pattern, name) for name in names}
    assert written == {*LAUNCH, *LOOK, *LOGS, *STOP, *SETTLE}


@pytest.fixture
def portal(namespace: Namespace, furnish_in: FurnishIn, tmp_path: Path) -> Iterator[Real]:
    """One without a web process: requests are answered in this one. No worker lives yet."""
    portal = Real(tmp_path / "portal", furnish_in, namespace)
    portal.without_web()
    try:
        portal.register()
        yield portal
    finally:
        portal.clean_up()


@pytest.fixture
def seen(portal: Real) -> Audit:
    """What the API server has seen since the cluster was registered."""
    return Audit(portal.namespace)


def die(portal: Real, *points: str) -> None:
    """One worker after the other, each killed at a point."""
    for point in points:
        victim = portal.worker(fault=point)
        assert victim.ended() == -9, f"{point}: {victim.said()}"


def ends_well(portal: Real, name: str, seen: Audit) -> None:
    """Its gate opens, it succeeds, and everything happened once."""
    portal.until(name, "running")
    for rank in range(NODES):
        portal.until_archived(name, b"line 3\n", rank)
    portal.open_gate(name)
    job = portal.until(name, "succeeded")
    for rank in range(NODES):
        assert portal.printed_lines(name, rank) >= 3
    assert states(job) == ["queued", "starting", "running", "succeeded"]
    happened_once(portal, name, seen)


def happened_once(portal: Real, name: str, seen: Audit) -> None:
    portal.until_clean(name)
    once(portal.job(name))
    assert (seen.created("services"), seen.created("jobs"), seen.created("pods")) == (1, 1, NODES)


@pytest.mark.parametrize("point", ["kubernetes.after_service", "kubernetes.after_job", "launch.before_record"])
def test_killed_when_the_launch_is_half_done(portal: Real, seen: Audit, point: str) -> None:
    portal.launch("one", COMMAND, nodes=NODES)
    die(portal, point)
    portal.worker()
    ends_well(portal, "one", seen)


@pytest.mark.parametrize("point", ["launch.before_cluster", "kubernetes.before_job", "kubernetes.after_job"])
def test_a_stop_after_a_death_during_the_launch_is_kept(portal: Real, seen: Audit, point: str) -> None:
    """The next worker finds the wish to stop before it has ever seen the job run."""
    portal.launch("one", COMMAND, nodes=NODES)
    die(portal, point)
    made = seen.created("jobs")
    assert made == (point == "kubernetes.after_job")
    portal.stop("one")
    portal.worker()
    job = portal.until("one", "cancelled")
    assert (job["reason"]["code"], job["reason"]["text"]) == ("stopped", "Stopped by bob.")
    portal.until_clean("one")
    once(portal.job("one"))
    assert seen.created("jobs") == made


def test_killed_at_every_point_one_after_the_other(portal: Real, seen: Audit) -> None:
    portal.launch("one", COMMAND, nodes=NODES)
    die(portal, *LAUNCH, *LOOK, *LOGS)
    worker = portal.worker()
    portal.until("one", "running")
    worker.kill()
    portal.open_gate("one")
    die(portal, *LOOK, *SETTLE)
    portal.worker()
    job = portal.until("one", "succeeded")
    assert states(job) == ["queued", "starting", "running", "succeeded"]
    for rank in range(NODES):
        assert portal.printed_lines("one", rank)
    happened_once(portal, "one", seen)


def test_a_stop_is_kept_however_often_the_worker_dies_over_it(portal: Real, seen: Audit) -> None:
    worker = portal.worker()
    portal.launch("one", COMMAND, nodes=NODES)
    portal.until("one", "running")
    portal.until_archived("one", b"line 3\n")
    worker.kill()
    portal.stop("one")
    die(portal, *STOP, *LOOK, *SETTLE)
    portal.worker()
    job = portal.until("one", "cancelled")
    assert job["reason"]["code"] == "stopped"
    happened_once(portal, "one", seen)
    log, gap = portal.log("one")
    lines = log.splitlines(keepends=True)
    numbered = [line for line in lines if line.startswith(b"line ")]
    assert numbered == [b"line %d\n" % (number + 1) for number in range(len(numbered))]
    assert lines[len(numbered) :] == [b"stopped\n"] or gap, "no worker may have lived to hear its last words"


def test_of_two_workers_one_works_and_the_other_takes_over_when_it_dies(portal: Real, seen: Audit) -> None:
    first = portal.worker()
    wait_for(lambda: "the worker works" in first.said(), "the first one's turn")
    second = portal.worker()
    portal.launch("one", COMMAND, nodes=NODES)
    portal.until("one", "running")
    assert "the worker works" not in second.said()
    assert second.alive
    first.kill()
    wait_for(lambda: "the worker works" in second.said(), "the second one's turn")
    ends_well(portal, "one", seen)
    second.popen.terminate()
    assert second.ended() == 0
