"""Processes of an attempt whose supervisor was killed: nobody else is there to end them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from app.cluster.local.environment import MARKER
from app.cluster.protocol import ClusterError

PATIENCE = 10.0  # seconds until killed processes are gone


def kill_strays(marker: str) -> int:
    """How many there were: processes of this user that carry the marker of an attempt. All of them are gone after this.

    One that has cleared its own environment is not found. Raises ClusterError for one that does not die.
    """
    wanted = os.fsencode(f"{MARKER}={marker}")
    deadline = time.monotonic() + PATIENCE
    killed = 0
    while True:
        with ExitStack() as pinned:
            found = list(_carrying(wanted, pinned))
            if not found:
                return killed
            for process in found:
                _kill(process)
            killed += len(found)
            _wait_for(found, deadline)
        if time.monotonic() > deadline:
            raise ClusterError("Processes that a job left do not end, although they were killed.", marker)


def _carrying(wanted: bytes, pinned: ExitStack) -> Iterator[int]:
    """A descriptor of each: taken before its environment is read, so that it cannot stand for a later process."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():
                continue
            process = os.pidfd_open(int(name))
            pinned.callback(os.close, process)
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    yield process
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue  # it ended meanwhile, or keeps its environment to itself


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def _wait_for(processes: list[int], deadline: float) -> None:
    """A descriptor of a process becomes readable when the process has ended."""
    for process in processes:
        select.select([process], [], [], max(0.0, deadline - time.monotonic()))
