"""The cluster of one test run: started by the first test that needs one, ended by the process that outlives the rest.

A run has a slot, that is a folder, ten ports and a lock that the kernel takes back when the run ends, however it ends.
With xdist the controller holds the slot and ends the cluster; the workers only start it and use it. So there is no
count of users to go wrong, and tests need no group that would put them all on one worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.cluster import lifecycle, lock, processes
from tests.real.cluster.build import binaries, cache
from tests.real.cluster.cluster import Cluster
from tests.real.cluster.errors import ClusterError
from tests.real.cluster.images import Images
from tests.real.cluster.place import Place

FIRST_PORT, STEP, SLOTS = 7400, 10, 20
GPUS = 64  # more than the tests that run at the same time ask for; who needs an exact number owns the node


def left_out() -> str:
    """Why no cluster test can run; empty when they can."""
    if theirs():
        return ""
    if not binaries().exists():
        return "the cluster's commands are not built"
    return lifecycle.hindrance()


def theirs() -> Path | None:
    """The kubeconfig of a cluster to test against instead of our own; never the ambient one."""
    given = os.environ.get("TEST_KUBECONFIG")
    return Path(given) if given else None


def borrowed(kubeconfig: Path) -> Cluster:
    """Somebody's cluster, with images that it can pull."""
    busybox = os.environ.get("TEST_BUSYBOX_IMAGE", "busybox:1")
    python = os.environ.get("TEST_PYTHON_IMAGE", "python:3-slim")
    root = os.environ.get("TEST_ROOT_IMAGE", busybox)
    return Cluster(kubeconfig, Images(busybox=busybox, root=root, python=python))


class Slot:
    """One run's folder, ports and locks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.place = Place(_folder() / f"test-{port}", port)
        self._held: int | None = None

    @classmethod
    def free(cls) -> Slot:
        """Take the first that no living run has."""
        for port in range(FIRST_PORT, FIRST_PORT + SLOTS * STEP, STEP):
            slot = cls(port)
            slot._held = lock.take(slot._lock("run"), wait=False)
            if slot._held is not None:
                slot._started.unlink(missing_ok=True)  # of a run that was killed; a start cleans up what it left
                return slot
        raise ClusterError(f"{SLOTS} test runs have a cluster already.")

    def start(self) -> Cluster:
        """Start the cluster unless another worker did, and hand it out."""
        with lock.held(self._lock("start")):
            if not self._started.exists():
                self._clean_up_after_the_dead()
                self._started.write_text("")
                try:
                    lifecycle.up(self.place, gpus=GPUS)
                except ClusterError as error:
                    self._started.write_text(f"The cluster did not start: {error}")
            if failure := self._started.read_text():
                raise ClusterError(failure)
        return Cluster(self.place.kubeconfig, Images(), self.place)

    def end(self) -> None:
        """For the holder: end the cluster if a test started it, and give the slot back."""
        if processes.recorded(self.place):
            lifecycle.down(self.place)
        self._started.unlink(missing_ok=True)
        if self._held is not None:
            lock.release(self._held)
            self._held = None

    @contextmanager
    def use(self, *, alone: bool) -> Iterator[None]:
        """Many tests use the cluster at once; one that breaks it waits for them and has it alone.

        The turnstile is fair: whoever waits to be alone holds up those who come later.
        """
        with lock.held(self._lock("turnstile")):
            user = lock.take(self._lock("use"), shared=not alone)
        assert user is not None
        try:
            yield
        finally:
            lock.release(user)

    def _clean_up_after_the_dead(self) -> None:
        for port in range(FIRST_PORT, FIRST_PORT + SLOTS * STEP, STEP):
            slot = Slot(port)
            if port != self.port and processes.recorded(slot.place):
                slot._held = lock.take(slot._lock("run"), wait=False)
                if slot._held is not None:
                    slot.end()

    @property
    def _started(self) -> Path:
        """Exists from the start on; holds a sentence when that went wrong."""
        return self._lock("started")

    def _lock(self, name: str) -> Path:
        return _folder() / f".test-{self.port}.{name}"


def _folder() -> Path:
    return cache() / "clusters"
