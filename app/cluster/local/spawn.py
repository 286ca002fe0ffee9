"""Starts a supervisor that outlives this process and shares nothing with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.cluster.protocol import ClusterError

SHIM = Path(__file__).parent / "shim"
# Run as a package of its own, so that it imports nothing of the portal: not even `app/__init__.py`.
BEGIN = f"import sys; sys.path.append(sys.argv[1]); from {SHIM.name}.main import main; main(sys.argv[2])"
# No user or site packages, no variable that steers Python, UTF-8 whatever the locale, no bytecode writing at odd times.
PYTHON = (sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", BEGIN, str(SHIM.parent))
PATIENCE = 15.0  # seconds for a bare interpreter to begin, on a machine that is very busy


def spawn_supervisor(folder: Path) -> None:
    """Returns when a supervisor has the attempt's lock, be it this one or another, or has ended again.

    Repeatable: of two, one finds the lock taken and ends. Raises ClusterError when it is not known how it went.
    """
    try:
        starter = subprocess.Popen(
            [*PYTHON, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",  # keeps no folder from being unmounted
            env={},
            start_new_session=True,
        )
    except OSError as problem:
        raise ClusterError("This machine cannot start another process now.", str(problem)) from problem
    try:
        status = starter.wait(PATIENCE)
    except subprocess.TimeoutExpired as problem:
        starter.kill()
        starter.wait()
        raise ClusterError("The job's supervisor takes very long to start.") from problem
    if status != 0:
        raise ClusterError("The job's supervisor could not be started.", f"exit status {status}")
