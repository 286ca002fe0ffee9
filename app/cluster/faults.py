"""Named places where a test may have the process killed, as a power cut would: no cleanup, no `finally`."""

from __future__ import annotations

import os
import signal

VARIABLE = "SIMPLETRAIN_FAULT"


def fault(point: str) -> None:
    """Does nothing, unless SIMPLETRAIN_FAULT names this very point: then the process is gone."""
    if os.environ.get(VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)
