"""The worker is killed at every named point, in every phase of a job in which it comes by there."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from app.clusters.models import ClusterRow
from app.database import db
from app.installation import service as installation
from app.worker.registry import build
from tests.crash.portals import REPOSITORY, Served, wait_for
from tests.worker.stub import make_worker

LAUNCH = ["launch.before_cluster", "local.before_spawn", "local.after_spawn", "launch.before_record"]
LAUNCH += ["launch.after_record"]
LOOK = ["look.before_record", "look.after_record"]
STOP = ["stop.before_cluster", "stop.after_cluster"]
LOGS = ["logs.before_commit", "logs.before_cursor", "logs.after_commit"]
SETTLE = ["settle.before_remove", "settle.after_remove"]
PHASES = {
    "launching": LAUNCH + LOOK + LOGS,
    "running": LOOK + LOGS,
    "stopping": STOP + LOOK + LOGS + SETTLE,
    "finishing": LOOK + LOGS + SETTLE,
}
ENDED = re.compile(rb"first\xff\rsecond\nno newline")
STOPPED = re.compile(rb"first\xff\r(Terminated\n)?terminated\n")  # some shells tell of the sleep that was ended
CASES = [(phase, point) for phase, points in PHASES.items() for point in points]


def test_every_named_point_is_tried() -> None:
    written = {
        point
        for folder in ("app/worker", "app/cluster/local")
        for path in (REPOSITORY / folder).rglob("*.py")
        for point in re.findall(r'\bfault\("([^"]+)"\)', path.read_text())
    }
    assert written == {point for _, point in CASES}


@pytest.fixture
def portal(furnish: Callable[..., Served]) -> Served:
    """One without a web process: requests are answered in this one."""
    portal = furnish()
    portal.inside = portal.portal.app.test_client()
    return portal


def bring_to(portal: Served, phase: str) -> None:
    """What an earlier worker did, and what happened since it ended. It is one without threads, in this process."""
    command = portal.gated(
        "one", r"trap 'echo terminated; exit 0' TERM; printf 'first\377\r'", r"echo second; printf 'no newline'"
    )
    portal.launch("one", command)
    if phase == "launching":
        return
    with portal.portal.app.app_context():
        row = db.session.query(ClusterRow).one()
        instance = installation.identity()
        cluster = build(row, portal.portal.config, instance)
    worker = make_worker(portal.portal, cluster, instance)

    def runs() -> bool:
        worker.look()
        return bool(portal.job("one")["state"] == "running" and portal.printed("one").startswith(b"first"))

    wait_for(runs, "running")
    if phase == "stopping":
        portal.stop("one")
    if phase == "finishing":
        portal.open_gate("one")
        wait_for(lambda: not portal.shims(), "the job's own end")


@pytest.mark.parametrize(("phase", "point"), CASES)
def test_killed_at(portal: Served, phase: str, point: str) -> None:
    bring_to(portal, phase)
    victim = portal.worker(fault=point)
    assert victim.ended() == -9, victim.said()
    portal.worker()
    if phase != "stopping":
        portal.open_gate("one")
    job = portal.until("one", "cancelled" if phase == "stopping" else "succeeded")
    assert job["attempt"] == 1
    printed, gap = portal.log("one")
    assert (STOPPED if phase == "stopping" else ENDED).fullmatch(printed), printed
    assert not gap
    assert portal.times_begun("one") == 1
    assert not portal.job_processes()
    wait_for(lambda: not list((portal.data / "local").glob("*-a*")), "the removal of what is left")
    states = [event["state"] for event in job["timeline"] if event["state"]]
    assert len(states) == len(set(states)), f"a state was entered twice: {states}"


@pytest.mark.parametrize("point", LAUNCH)
def test_a_stop_after_a_death_during_the_launch_is_kept(portal: Served, point: str) -> None:
    """The next worker finds the wish to stop before it has ever seen the job run."""
    bring_to(portal, "launching")
    assert portal.worker(fault=point).ended() == -9
    if point in ("local.after_spawn", "launch.before_record", "launch.after_record"):
        wait_for(lambda: portal.printed("one").startswith(b"first"), "its first words")
    begun = portal.times_begun("one")
    portal.stop("one")
    portal.worker()
    job = portal.until("one", "cancelled")
    assert job["reason"]["code"] == "stopped"
    assert portal.times_begun("one") == begun
    printed, gap = portal.log("one")
    assert (STOPPED if begun else re.compile(b"")).fullmatch(printed), printed
    assert not gap
    assert not portal.job_processes()
